"""Every line of the finished files against what the plain functions give for its place in the plan."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from layerscope.planning.job import Job
from layerscope.records.line.lines import join_record
from layerscope.records.reading.stretches import read_lines
from simulation.workload import Features, first_rows, make_frame


def check(paths: Sequence[Path], job: Job, features: Features) -> None:
    """Compares every line with what the plain functions give: count, order and bytes.

    Args:
        paths: the file, or those of its parts.
    """
    lines = chain.from_iterable(map(read_lines, paths))
    for batch in range(len(job.plan)):
        questions = [job.selection[int(example_id)] for example_id in job.plan.batch(batch)]
        blocks = [first_rows(block, 2 * len(questions)) for block in features.values()]
        for index, question in enumerate(questions):
            if next(lines, None) != b"".join(join_record(make_frame(question, index), blocks)):
                raise SystemExit(f"{paths[0]}: the line of question {question.example_id} is not what it should be")
    if next(lines, None) is not None:
        raise SystemExit(f"{paths[-1]} goes on behind the last question")
