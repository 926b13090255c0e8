"""What a file is that a command cannot use, and which command reads it: one look at its name and its first bytes."""

import re
from contextlib import suppress
from pathlib import Path

_LOOK_BYTES = 1 << 12
_RECORD = re.compile(rb'\s*\[?\s*\{\s*"example_id"\s*:\s*\d+\s*,\s*"(question|error)"')
_QUESTION = re.compile(rb'\s*\[?\s*\{[^{]*"(goal|sol1|choices|endings|option1|sentence_good|chosen)"\s*:')
_TABLES = (".csv", ".tsv", ".parquet")


def reader_of(path: Path) -> str:
    """A sentence for the end of a refusal, on a line of its own; empty where nothing is known of the file."""
    beginning = b""
    with suppress(OSError), path.open("rb") as file:
        beginning = file.read(_LOOK_BYTES)
    if path.name.endswith(".manifest.json"):
        return f"\nIt is a manifest: name the file that it stands beside, {path.name.removesuffix('.manifest.json')}."
    if path.suffix.lower() in (".html", ".htm"):
        return "\nIt is a web page: a browser opens it, and `layerscope report` makes it of a .jsonl file."
    if _RECORD.match(beginning):
        return "\nIt holds the records of a run: `layerscope report` and `layerscope status` read those."
    if path.suffix.lower() in _TABLES:
        return "\nIt is a table: `layerscope run --dataset` reads one of questions, pandas one of `layerscope export`."
    if _QUESTION.match(beginning):
        return "\nIt holds questions: `layerscope run --dataset` reads those."
    return ""
