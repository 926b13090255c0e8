"""Runs of every kind that a sentence has to be right about, as small as they can be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from layerscope.records.manifest.manifest import manifest_path
from made_up import edit_manifest
from synthetic_attributions import write_attributions
from synthetic_readings import write_readings
from synthetic_run import Effect, Spec, write_run

SIDES = ("positive_solution_details", "negative_solution_details")
Change = Callable[[dict[str, Any]], None]
LAYERS = (3, 4, 7)


def strong(*layers: int, towards: bool = True) -> list[Effect]:
    """A feature of each layer that fires for the right solution, or for the wrong one."""
    return [Effect(layer, 7, *((0.95, 0.05) if towards else (0.05, 0.95))) for layer in layers]


def rewrite(path: Path, change: Change) -> None:
    """Changes every record of a scored question."""
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        if not record["error"]:
            change(record)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    edit_manifest(path, lambda manifest: manifest.pop("progress", None))


def scored(right: bool) -> Change:
    def change(record: dict[str, Any]) -> None:
        scores = sorted((record[side]["log_likelihood"] for side in SIDES), reverse=right)
        for side, score in zip(SIDES, scores, strict=True):
            record[side]["log_likelihood"] = score
        record["model_is_correct"] = right

    return change


def of_one_goal(record: dict[str, Any]) -> None:
    record["question"] = f"Boil {record['example_id']} eggs."


def _of(change: Change | None = None, **spec: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        usual = {"questions": 120, "layers": LAYERS, "active": 8, "distinct": True, "d_sae": 64}
        write_run(path, Spec(**{**usual, **spec}))
        if change is not None:
            rewrite(path, change)

    return write


def _without_manifest(path: Path) -> None:
    _of(effects=strong(4))(path)
    manifest_path(path).unlink()


def _attributed(path: Path) -> None:
    spec = Spec(questions=120, layers=(1, 2), active=8, distinct=True, effects=[Effect(1, 7, 0.95, 0.05)])
    write_attributions(path, spec, {(2, 9): 0.8})


def _read(path: Path) -> None:
    write_readings(path, questions=120)


GRID: dict[str, Callable[[Path], None]] = {
    "no line yet": _of(questions=0, planned=5),
    "one question": _of(questions=1),
    "one question of many": _of(questions=1, planned=9),
    "two questions": _of(questions=2, planned=2, effects=strong(3)),
    "errors alone": _of(questions=3, errors=(0, 1, 2)),
    "one error": _of(errors=(5,), effects=strong(4)),
    "all right": _of(scored(right=True), effects=strong(4)),
    "all wrong": _of(scored(right=False), effects=strong(4)),
    "all ties": _of(identical=True),
    "twenty questions": _of(questions=20, effects=strong(3, 4)),
    "one half too small": _of(questions=34, effects=strong(3, 4)),
    "no findings": _of(questions=200, seed=8),
    "nothing fires": _of(active=0),
    "the first layer": _of(effects=strong(3)),
    "the last layer": _of(effects=strong(7)),
    "all layers": _of(effects=strong(*LAYERS)),
    "all layers, for the wrong one": _of(effects=strong(*LAYERS, towards=False)),
    "one layer, both ways": _of(layers=(5,), effects=[*strong(5), Effect(5, 9, 0.05, 0.95)]),
    "by the model alone": _of(questions=200, effects=[Effect(4, 7, 0.95, 0.05, by_model=True)]),
    "strength alone": _of(questions=200, effects=[Effect(4, 7, 0.95, 0.95, factor=2.0)]),
    "six layers, deeper and better": _of(layers=range(6), effects=[Effect(n, 7, 0.6 + n / 15, 0.1) for n in range(6)]),
    "lists cut": _of(active=20, top_k=5, effects=strong(4)),
    "one goal alone": _of(of_one_goal, effects=strong(4)),
    "unfinished": _of(planned=1000, effects=strong(4)),
    "four solutions": _of(solutions=4, effects=strong(4)),
    "without a manifest": _without_manifest,
    "attributions": _attributed,
    "several readings": _read,
}
