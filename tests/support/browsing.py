"""A page in a real browser, which must not complain about anything."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

_OVERLAPS = """(within) => [...document.querySelectorAll(`${within}svg.chart`)].flatMap((svg) => {
    const texts = [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()])
        .filter(([, box]) => box.width > 0);
    return texts.flatMap(([one, a], index) => [
        ...(a.right > innerWidth ? [[one, 'outside']] : []),
        ...texts.slice(index + 1).filter(([, b]) =>
            Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4).map(([other]) => [one, other])]);
})"""

_SEEN_BY_AXE = """async ([within, options]) => {
    const shape = (node) => [node.tagName, node.getAttribute('class'), ...node.getAttributeNames(), node.role,
        /\\S/.test(node.textContent), '(', ...[...node.children].map(shape), ')'].join(' ');
    const taken = [];
    for (const parent of document.body.querySelectorAll('*')) {
        const seen = new Map();
        for (const node of parent.children.length > 3 ? [...parent.children] : []) {
            const like = shape(node);
            seen.set(like, (seen.get(like) ?? 0) + 1);
            if (seen.get(like) > 3 && !node.contains(document.activeElement)) {
                const place = document.createComment('');
                node.replaceWith(place);
                taken.push([place, node]);
            }
        }
    }
    try {
        return await axe.run(within, options);
    } finally {
        for (const [place, node] of taken.reverse()) place.replaceWith(node);
    }
}"""
"""Of siblings that differ in what they say alone, axe-core, which takes a second for a thousand, gets three."""

# The shell has no window with buttons and tabs of its own, whose drawing costs more than a page does.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium_running() -> Iterator[Any]:
    """The browser of this machine; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(_NAMES)} on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@contextmanager
def opened(
    chromium: Any,
    page: Path,
    fragment: str = "",
    width: int = 1400,
    ready: str = "#browser .lane",
    scripts: bool = True,
    **media: str,
) -> Iterator[Any]:
    """The page in a browser; whatever it complains about, asks for or pops up fails the test.

    It is the same tab for every page, which costs less than one for each; nothing of the page before is left in it.

    Args:
        ready: what is there once the page is.
        media: what the reader's system prefers, as Playwright names it.
    """
    complaints: list[str] = []
    context = chromium.contexts[0] if chromium.contexts else chromium.new_context()
    tab = context.pages[0] if context.pages else context.new_page()
    heard: dict[str, Callable[[Any], None]] = {
        "console": lambda message: complaints.append(message.text),
        "pageerror": lambda error: complaints.append(str(error)),
        "dialog": lambda dialog: (complaints.append(dialog.message), dialog.dismiss()),
        "request": lambda request: complaints.append(request.url) if request.url.startswith("http") else None,
    }
    for event, hear in heard.items():
        tab.on(event, hear)
    devtools = context.new_cdp_session(tab)
    try:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(**{"media": "screen", "color_scheme": "light", "reduced_motion": "no-preference", **media})
        devtools.send("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        tab.goto(page.as_uri() + fragment)
        if scripts:
            tab.wait_for_selector(ready)
        yield tab
        tab.goto("about:blank")  # else another address of the same page would not load it anew
    except BaseException:
        context.close()
        raise
    finally:
        if not tab.is_closed():
            devtools.detach()
            for event, hear in heard.items():
                tab.remove_listener(event, hear)
    assert complaints == []


def overlapping_texts(tab: Any, within: str = "") -> list[list[str]]:
    """The pairs of texts in a page's charts of which one lies on the other, and those outside of the screen.

    Args:
        within: selector of the charts that are looked at, with a blank behind it.
    """
    found: list[list[str]] = tab.evaluate(_OVERLAPS, within)
    return found


def axe_script() -> str:
    """axe-core's script, as a Python package brings it; the test is skipped without."""
    try:
        return files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    except ModuleNotFoundError:
        pytest.skip("NO ACCESSIBILITY CHECK: axe-playwright-python is not installed (pip install 'layerscope[dev]')")


def violations(tab: Any, axe: str, within: str = "html") -> list[str]:
    """What breaks axe-core's rules for WCAG 2.2 AA and good practice, and where."""
    tab.evaluate(axe + "; undefined")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    options = {"runOnly": tags, "resultTypes": ["violations"]}
    found = tab.evaluate(_SEEN_BY_AXE, [within, options])
    return [
        f"{each['id']}: {node['target']} {node.get('failureSummary', '')}"
        for each in found["violations"]
        for node in each["nodes"][:3]
    ]
