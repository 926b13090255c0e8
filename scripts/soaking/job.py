"""The command that is soaked, and what it leaves: at every moment the beginning of what it leaves undisturbed."""

import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_PIECE = 1 << 20
_NO_RECORDS = (".manifest.json", ".marks", ".lock")
"""How names end of what lies beside the records, and goes or says when it was written."""


@dataclass(frozen=True)
class Run:
    """A command that runs."""

    process: "subprocess.Popen[bytes]"
    errors: Path

    def said(self) -> str:
        """The last of what it said on its standard error."""
        return self.errors.read_text()[-3000:]


@dataclass(frozen=True)
class Job:
    """`layerscope run`, or `layerscope ablate` of a finished run."""

    words: list[str]
    """The command's, but for where its output goes."""
    form: str
    """How the output's name ends: .jsonl, .jsonl.zst or .jsonl.gz."""

    def start(self, output: Path, more: list[str]) -> "Run":
        words = [sys.executable, "-m", "layerscope", *self.words, *more, "--output-file", str(output)]
        errors = output.with_name("said.txt")  # a pipe that nobody reads would stop it
        with errors.open("wb") as stream:
            return Run(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=stream), errors)

    def spread(self, dice: random.Random) -> list[str]:
        """Options that change how the work is spread, and no byte."""
        gemma = ["--gemma-actors", str(dice.randint(1, 2))]
        if self.words[0] == "ablate":
            return gemma
        blocks, encoders = dice.choice([(1, 1), (1, 2), (2, 1)])
        return [*gemma, "--layer-blocks", str(blocks), "--encoders-per-block", str(encoders)]


def outputs(output: Path) -> dict[str, Path]:
    """The files of a job's records and residuals, by what follows the output's stem in their names."""
    stem = output.name.partition(".")[0]
    found = [path for path in output.parent.rglob("*") if path.is_file() and not path.name.endswith(_NO_RECORDS)]
    names = {str(path.relative_to(output.parent)): path for path in found}
    return {name.removeprefix(stem): path for name, path in names.items() if name.startswith(stem)}


def size(output: Path) -> int:
    """Bytes of all of them."""
    return sum(path.stat().st_size for path in outputs(output).values())


def difference(output: Path, undisturbed: Path, finished: bool, counts: Counter[str]) -> str:
    """What differs from an undisturbed job's files, of which these must be beginnings, or all; empty if nothing."""
    ours, theirs = outputs(output), outputs(undisturbed)
    if (stray := ours.keys() - theirs.keys()) or (finished and theirs.keys() - ours.keys()):
        return f"the files are {sorted(ours)}, and undisturbed {sorted(theirs)}; {sorted(stray)} are strange"
    for name, path in ours.items():
        if (at := _first_difference(path, theirs[name], counts)) is not None:
            return f"{path} differs from the undisturbed one's from byte {at} on"
        if finished and path.stat().st_size != theirs[name].stat().st_size:
            return f"{path} has {path.stat().st_size} bytes, and {theirs[name].stat().st_size} undisturbed"
    return ""


def _first_difference(path: Path, whole: Path, counts: Counter[str]) -> int | None:
    with path.open("rb") as ours, whole.open("rb") as theirs:
        at = 0
        while piece := ours.read(_PIECE):
            other = theirs.read(len(piece))
            counts["bytes compared"] += len(piece)
            if piece != other:
                same = [mine == its for mine, its in zip(piece, other, strict=False)]
                return at + (same.index(False) if False in same else len(same))
            at += len(piece)
    return None
