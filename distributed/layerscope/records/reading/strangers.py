"""What a file is that a command cannot use, and which command reads it: one look at its name and its first bytes."""

import re
from contextlib import suppress
from pathlib import Path

from layerscope.formatting import shell_word

LOOK_BYTES = 1 << 12
_RECORD = re.compile(rb'\s*\[?\s*\{\s*"example_id"\s*:\s*\d+\s*,\s*"(question|error)"')
_QUESTION = re.compile(rb'\s*\[?\s*\{[^{]*"(goal|sol1|choices|endings|option1|sentence_good|chosen)"\s*:')
OF_RECORDS = (
    "It holds records: `layerscope report`, `export` and `compare` read those without a manifest, for what they hold."
)
MANIFEST_SUFFIX = ".manifest.json"
OF_PARTS = re.compile(rb'\s*\{\s*"parts"')
"""How the manifest of a run of parts begins, beside which no file is."""
_TABLES = (".csv", ".tsv", ".parquet")


def reader_of(path: Path) -> str:
    """A sentence for the end of a refusal for want of a manifest, on a line of its own; empty where nothing is known of
    the file."""
    beginning = b""
    with suppress(OSError), path.open("rb") as file:
        beginning = file.read(LOOK_BYTES)
    if path.name.endswith(MANIFEST_SUFFIX):
        return f"\nIt is a manifest: name the file that it stands beside, {path.name.removesuffix(MANIFEST_SUFFIX)}."
    if path.suffix.lower() in (".html", ".htm"):
        return "\nIt is a web page: a browser opens it, and `layerscope report` makes it of a .jsonl file."
    if _RECORD.match(beginning) and beginning.lstrip().startswith(b"["):
        return "\nIt is a JSON array of records: name the .jsonl file of the run, or make lines of it with jq -c '.[]'."
    if _RECORD.match(beginning):
        return f"\n{OF_RECORDS}{_manifest_without_records(path)}"
    if path.suffix.lower() in _TABLES:
        return "\nIt is a table: `layerscope run --dataset` reads one of questions, pandas one of `layerscope export`."
    if _QUESTION.match(beginning):
        return "\nIt holds questions: `layerscope run --dataset` reads those."
    return ""


def _manifest_without_records(path: Path) -> str:
    """The way back for a file that was renamed and whose manifest was not: the one in the folder that has no file."""
    with suppress(OSError):
        manifests = [each for each in path.parent.iterdir() if each.name.endswith(MANIFEST_SUFFIX)]
        alone = [each for each in manifests if not each.with_name(each.name.removesuffix(MANIFEST_SUFFIX)).exists()]
        alone = [each for each in alone if OF_PARTS.match(each.read_bytes()[:LOOK_BYTES]) is None]
        if len(alone) == 1:
            names = shell_word(str(alone[0])), shell_word(str(path.with_name(path.name + MANIFEST_SUFFIX)))
            return "\n{0} has no file beside it; if it is this one's: mv {0} {1}".format(*names)
    return ""
