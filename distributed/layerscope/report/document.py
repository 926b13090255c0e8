"""A page as one file: its template with its styles and its script in it, and a policy that allows these alone.

A page makes no request; it is opened from the disk, sent by mail, laid on a server.
"""

import os
import re
import webbrowser
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from layerscope.errors import LayerscopeError
from layerscope.files import remove_leftovers, replacing
from layerscope.formatting import visible
from layerscope.records.writing.targets import begins_with, check_target
from layerscope.report.words import sentences

_BEGINNING = b"<!doctype html>\n<!-- layerscope report -->\n"
_HEAD = 4096  # bytes in which a page says of itself what others read
_FACT = re.compile(r'<meta name="layerscope-(findings|questions)" content="(\d+)">')
is_page = begins_with(_BEGINNING)
"""Whether a file is one of these pages, which may be replaced by another."""


@cache
def page_environment() -> Environment:
    """The one of this process, which compiles each template once."""
    environment = Environment(
        loader=PackageLoader("layerscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "percent": sentences.percent, "number": sentences.number}
    return environment


def document(
    environment: Environment,
    template: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    shown: dict[str, Any],
    facts: Mapping[str, int] | None = None,
) -> bytes:
    """The page.

    Args:
        styles, scripts: their files, in the order in which they are joined.
        shown: what the template names.
        facts: what `said_by` reads of it: findings, questions.
    """
    style = Markup("\n".join(map(_read, styles)))
    script = Markup('"use strict";\n(() => {\n' + "\n".join(map(_read, scripts)) + "})();\n")
    hashes = {"style": _hash(style), "script": _hash(script)}
    page = environment.get_template(template).render(
        style=style, script=script, hashes=hashes, facts=facts or {}, **shown
    )
    return _BEGINNING + page.encode()


def page_target(to: Path | None, default: Path, inputs: Iterable[Path]) -> Path:
    """Where a page may be written.

    Raises:
        UsageError: nothing may be written there, or what is there is no page of ours.
    """
    path = check_target("--to", to or default, inputs, own=is_page)
    remove_leftovers(path)
    return path


def address_of(page: Path, seen_from: Path) -> str:
    """A page of ours as another one names it; empty where there is none."""
    try:
        there = page.is_file() and is_page(page)
    except OSError:
        there = False
    return quote(os.path.relpath(page, seen_from.parent)) if there else ""


def said_by(page: Path) -> dict[str, str]:
    """What a page of ours says of itself to others; nothing where there is none, or an older one."""
    try:
        with page.open("rb") as stream:
            text = stream.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return {}
    return dict(_FACT.findall(text)) if text.encode().startswith(_BEGINNING) else {}


def write_page(to: Path, page: bytes, show: bool = False) -> None:
    """
    Args:
        show: open it in the browser.

    Raises:
        LayerscopeError: it cannot be written.
    """
    try:
        with replacing(to) as temporary, temporary.open("wb") as stream:
            stream.write(page)
    except OSError as error:
        raise LayerscopeError(
            f"{to} cannot be written: {error.strerror or error}. Name another one with --to."
        ) from error
    if show:
        webbrowser.open(to.resolve().as_uri())


def _read(name: str) -> str:
    return files("layerscope.report").joinpath("templates", name).read_text("utf-8")


def _hash(embedded: str) -> str:
    """As a Content-Security-Policy names what it allows."""
    return f"sha256-{b64encode(sha256(embedded.encode()).digest()).decode()}"
