#!/usr/bin/env python3
"""Makes what the pages under `distributed/docs/` repeat of the code: the options and the picture of the architecture.

    .venv/bin/python scripts/make_docs.py              # a second
    .venv/bin/python scripts/make_docs.py --report     # the report's picture too: runs the stand-in, needs chromium

A test says when the first kind is stale. The picture of the report is made again when the report's looks change.
"""

import argparse
from pathlib import Path

from documenting.drawing import DARK, LIGHT, architecture
from documenting.options import options_page
from documenting.rooms import rooms

DOCS = Path(__file__).parents[1] / "distributed/docs"


def generated() -> dict[Path, str]:
    """The files that are made of the code, and what they should say."""
    found = rooms()
    return {
        DOCS / "options.md": options_page(),
        DOCS / "pictures/architecture-light.svg": architecture(found, LIGHT),
        DOCS / "pictures/architecture-dark.svg": architecture(found, DARK),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="take the picture of the report, too")
    options = parser.parse_args()
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
    if options.report:
        from documenting.screenshot import take

        take(DOCS / "pictures")


if __name__ == "__main__":
    main()
