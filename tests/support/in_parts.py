"""Small files as a run, its shards, or the parts of a run leave them; of one job, plain or compressed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layerscope.questions.sources import Question
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.parts import dump_parts, part_paths
from layerscope.records.writing.journal import open_journal
from layerscope.records.writing.packing import Packed, pack, packing, packing_suffix
from made_up import about, compressed, identity, record_line, typed

LAYERS = (0, 8)
ORDER = (4, 2, 7, 0, 5, 1, 3)
PARTS = (ORDER[:3], ORDER[3:5], ORDER[5:])


def line_of(number: int, score: float = -2.5) -> bytes:
    if number == ORDER[2]:
        return error_line(number, "sol1 is empty").line
    question = Question(number, f"goal {number}", f"do {number}", "leave it", number % 2)
    scores = (SolutionScore(score, 2, "a"), SolutionScore(-3.0, 2, "b"))
    return record_line(question, scores, dict.fromkeys(LAYERS, ([(7, 4.0), (9, 1.5 + number / 10)], [(9, 0.25)])))


def run(path: Path, order: Sequence[int], shard: str | None = None, written: int = 99, **settings: Any) -> Path:
    """The file of a run or of a shard, as its run leaves it."""
    score = settings.pop("score", -2.5)
    made = identity(LAYERS, questions=len(order), shard=shard, **{"num_samples": len(ORDER), **settings})
    said, method = about(LAYERS, order), packing_suffix(path)
    lines = [line_of(number, score) for number in order[:written]]
    if method is not None:  # every question is a batch of its own
        made, said = compressed(made, said, method, [1] * len(order))
        packed = [np.frombuffer(pack([line], packing(method)), dtype=np.uint8) for line in lines]
    with open_journal(path, *typed(made, said), overwrite=False) as journal:
        journal.recover(lambda _: None)
        journal.append(lines if method is None else [Packed(each, 1) for each in packed])
    return path


def run_of_parts(path: Path, **settings: Any) -> list[Path]:
    """The files of a run of parts, which is finished."""
    files = part_paths(path, len(PARTS))
    manifest_path(path).write_bytes(dump_parts(path, len(PARTS), "layerscope run --writers 3"))
    for number, (file, order) in enumerate(zip(files, PARTS, strict=True), start=1):
        run(file, order, f"{number}/{len(PARTS)}", **settings)
    return files
