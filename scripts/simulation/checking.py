"""Every line of the finished file against what the plain functions give for its place in the plan."""

from pathlib import Path

from layerscope.planning.job import Job
from layerscope.records.lines import join_record
from layerscope.records.stretches import read_lines
from simulation.workload import Features, first_rows, make_frame


def check(path: Path, job: Job, features: Features) -> None:
    """Compares every line with what the plain functions give: count, order and bytes."""
    lines = read_lines(path)
    for batch in range(len(job.plan)):
        questions = [job.selection[int(example_id)] for example_id in job.plan.batch(batch)]
        blocks = [first_rows(block, 2 * len(questions)) for block in features.values()]
        for index, question in enumerate(questions):
            if next(lines, None) != b"".join(join_record(make_frame(question, index), blocks)):
                raise SystemExit(f"{path}: the line of question {question.example_id} is not what it should be")
    if next(lines, None) is not None:
        raise SystemExit(f"{path} goes on behind the last question")
