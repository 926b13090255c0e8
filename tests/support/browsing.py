"""A page in a real browser, which must not complain about anything."""

import shutil
from collections.abc import Iterator
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


@contextmanager
def chromium_running() -> Iterator[Any]:
    """The browser of this machine; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@contextmanager
def opened(
    chromium: Any, page: Path, fragment: str = "", width: int = 1400, ready: str = "#browser .lane", **options: Any
) -> Iterator[Any]:
    """The page in a browser; whatever it complains about, asks for or pops up fails the test.

    Args:
        ready: what is there once the page is.
    """
    complaints: list[str] = []
    context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    tab.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    tab.goto(page.as_uri() + fragment)
    if options.get("java_script_enabled", True):
        tab.wait_for_selector(ready)
    yield tab
    context.close()
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
    found = tab.evaluate("([within, options]) => axe.run(within, options)", [within, options])
    return [
        f"{each['id']}: {node['target']} {node.get('failureSummary', '')}"
        for each in found["violations"]
        for node in each["nodes"][:3]
    ]
