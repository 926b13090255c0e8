"""What a person can do about a file or a manifest that is off."""

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from layerscope.formatting import shell_word
from layerscope.records.reading.strangers import LOOK_BYTES, MANIFEST_SUFFIX, OF_PARTS
from layerscope.records.storage.addresses import is_address
from layerscope.records.storage.stored_run import StoredRun

_PART = re.compile(r"(.+)-(\d{5})-of-\d{5}(\..*)?")


class Advice(NamedTuple):
    """What a person can do about a manifest or a line that is off: it is the command's own."""

    no_manifest: str
    broken: str

    def of(self, path: Path) -> "Advice":
        """The same about a file that may be a part of a run, which computes it again where it is gone."""
        if not (again := computed_again(path)):
            return self
        return Advice(f"Put its manifest back beside it, or {again}", f"Restore it, or {again}")

    def of_ablations(self, path: Path, run: str) -> str:
        """The same about a file of ablations of a run, where a run's records are meant."""
        if self is not READING:
            return self.no_manifest
        words = " ".join(map(shell_word, ["layerscope", "report", run, "--ablations", str(path)]))
        return f"Name the run that they are of; its report shows them: {words}"

    def about(self, path: Path, begins: int, added: bool) -> str:
        """What to do where a stretch of a file is off.

        Args:
            begins: where it does, in bytes.
            added: whether all that a run wrote comes before it.
        """
        if isinstance(path, StoredRun) and (name := path.object_with(begins)):
            return f"Restore {name}, or remove it and what follows it: the run's own command computes that again."
        if added and not is_address(path):
            keep = f"truncate -s {begins} {shell_word(str(path))}"
            return f"What comes before it is as it was written; keep that alone with: {keep}"
        return f"Nothing behind it can be trusted. {self.of(path).broken}"


READING = Advice("Name the .jsonl file of a run, or put its manifest back beside it.", "Restore it from a copy.")
RUNNING = Advice(
    "Name another --output-file, or start anew with --overwrite.",
    "Restore it, name another --output-file, or start anew with --overwrite.",
)


def part_number(path: Path) -> int | None:
    """Which part of its run a file is by its name, the first being 1; None where the name says nothing of it."""
    named = _PART.fullmatch(path.name)
    return None if named is None else int(named[2])


def computed_again(path: Path) -> str:
    """How a run of parts mends one of them, whatever it has, to go on a sentence; empty of what is no part of one."""
    named = None if is_address(path) else _PART.fullmatch(path.name)
    if named is None:
        return ""
    beginning = b""
    with suppress(OSError), path.with_name(f"{named[1]}{named[3] or ''}{MANIFEST_SUFFIX}").open("rb") as file:
        beginning = file.read(LOOK_BYTES)
    if not OF_PARTS.match(beginning):
        return ""
    away = shell_word(str(path.parent / "away"))
    return (
        "move it away, and the run's own command computes this part again:\n"
        f"mkdir -p {away} && mv {shell_word(str(path))}* {away}"
    )
