"""Writes a run's file and manifest without a model: random features in the real format, with effects planted in them.

    python tests/support/synthetic_run.py FILE [QUESTIONS [LAYERS [ACTIVE]]]

The bytes of a record are made by the functions that make a real one.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import serialise_block
from layerscope.records.line.lines import ErrorLine, error_line, frame_record, join_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.line.record import choice
from layerscope.records.manifest.manifest import FORMAT, manifest_path
from layerscope.records.writing.extent import Extent
from layerscope.saes.encoder import TopK
from made_up import about, identity

Cell = tuple[NDArray[np.int64], NDArray[np.float32]]  # active features, and their activations


@dataclass(frozen=True)
class Effect:
    """A feature that fires more often, or more strongly, on one side."""

    layer: int
    feature_id: int
    first: float = 0.5
    """Probability that it fires for the right (the chosen) solution."""
    second: float = 0.5
    """For the wrong (the rejected) one."""
    factor: float = 1.0
    """How much stronger it then is for the first."""
    by_model: bool = False
    """First is the chosen solution, not the right one."""


@dataclass(frozen=True)
class Spec:
    """What to write."""

    questions: int = 200
    layers: Sequence[int] = (0, 1, 2)
    active: float = 12.0
    """Mean number of active features per solution and layer; 0 is none at all."""
    top_k: int = 100
    d_sae: int = 512
    effects: Sequence[Effect] = ()
    errors: Sequence[int] = ()
    """Questions that get an error line."""
    distinct: bool = False
    """No two questions have the same goal."""
    identical: bool = False
    """Both solutions are the same text with the same features."""
    solutions: int = 2
    """Of every question; the features of all are recorded."""
    planned: int | None = None
    """Questions of the whole run, if it is not finished."""
    seed: int = 0


def write_run(path: Path, spec: Spec) -> None:
    """Writes the file and the manifest beside it."""
    rng = np.random.default_rng(spec.seed)
    popularity = [_popularity(rng, spec.d_sae) for _ in spec.layers]
    extent = Extent()
    with path.open("wb") as stream:
        for example_id in range(spec.questions):
            line = _line(rng, spec, popularity, example_id)
            stream.write(line)
            extent.add(line)
    manifest_path(path).write_bytes(orjson.dumps(_manifest(path, spec, extent)))


def _line(rng: np.random.Generator, spec: Spec, popularity: list[NDArray[np.float64]], example_id: int) -> bytes:
    if example_id in spec.errors:
        outcome: ErrorLine = error_line(example_id, "sol1 is empty", spec.solutions > 2)
        return outcome.line
    question, scores = _question(rng, spec, example_id)
    right = question.label
    chosen = choice(*(score.log_likelihood for score in scores))
    found = []
    for layer, cumulative in zip(spec.layers, popularity, strict=True):
        cells = list(_background(rng, spec, cumulative))
        while len(cells) < spec.solutions:
            cells.append(_background(rng, spec, cumulative)[0])
        for effect in (effect for effect in spec.effects if effect.layer == layer):
            first = chosen if effect.by_model else right
            for side in range(spec.solutions):
                cells[side] = _planted(rng, effect, cells[side], side == first)
        if spec.identical:
            cells[1] = cells[0]
        found.append(_top_k(cells, spec.top_k))
    block = serialise_block(spec.layers, found)
    return b"".join(join_record(frame_record(question, scores, range(spec.solutions)), [block]))


def _question(rng: np.random.Generator, spec: Spec, example_id: int) -> tuple[Question, list[SolutionScore]]:
    """A question whose right solution is preferred three times in four, and whose solutions often end alike."""
    label = int(rng.integers(2))
    ending = "." if rng.random() < 0.6 else "it"
    endings = [ending if rng.random() < 0.7 else rng.choice([".", "it", "cup"]) for _ in (0, 1)]
    lengths = rng.integers(3, 30, 2)
    log_likelihoods = (-2.5 * lengths - 10 * rng.random(2)).astype(np.float32)
    if (log_likelihoods[label] > log_likelihoods[1 - label]) != (rng.random() < 0.75):
        log_likelihoods = log_likelihoods[::-1]
    if spec.identical:
        endings, lengths, log_likelihoods = [ending] * 2, lengths[[0, 0]], log_likelihoods[[0, 0]]
    texts = ["put " * int(length - 1) + end for length, end in zip(lengths, endings, strict=True)]
    scores = [
        SolutionScore(float(score), int(length), end)
        for score, length, end in zip(log_likelihoods, lengths, endings, strict=True)
    ]
    for number in range(2, spec.solutions):
        texts.append(f"put number {number}")
        scores.append(SolutionScore(float(np.float32(-60 * rng.random())), 3, "it"))
    return Question(example_id, _goal(spec, example_id), texts[0], texts[1], label, tuple(texts[2:])), scores


def _goal(spec: Spec, example_id: int) -> str:
    """In words, because goals that differ in a number are one; one in thirty has the goal of the one before."""
    named = example_id if spec.distinct else example_id - example_id % 30 // 29
    return "goal " + str(named).translate(str.maketrans("0123456789", "abcdefghij"))


def _popularity(rng: np.random.Generator, d_sae: int) -> NDArray[np.float64]:
    """Cumulative probabilities of the features: a few are everywhere, most are rare."""
    weights = rng.permutation(1 / (5 + np.arange(d_sae)))
    return np.cumsum(weights / weights.sum())


def _background(rng: np.random.Generator, spec: Spec, cumulative: NDArray[np.float64]) -> tuple[Cell, Cell]:
    """Active features of both solutions, which share most of them."""
    active = spec.active * np.exp(0.2 * rng.standard_normal())
    shared = rng.random(int(rng.poisson(0.7 * active)))
    cells = []
    for _ in (0, 1):
        draws = np.concatenate([shared, rng.random(int(rng.poisson(0.5 * active)))])
        ids = np.fromiter(sorted(set(cumulative.searchsorted(draws).tolist())), np.int64)  # so few need no np.unique
        strengths = (1 + ids % 7) * np.exp(0.3 * rng.standard_normal(len(ids)))
        cells.append((ids, strengths.astype(np.float32)))
    return cells[0], cells[1]


def _planted(rng: np.random.Generator, effect: Effect, cell: Cell, first: bool) -> Cell:
    others = cell[0] != effect.feature_id
    ids, activations = cell[0][others], cell[1][others]
    if rng.random() >= (effect.first if first else effect.second):
        return ids, activations
    strength = 20 * np.exp(0.3 * rng.standard_normal()) * (effect.factor if first else 1)
    return np.append(ids, effect.feature_id), np.append(activations, np.float32(strength))


def _top_k(cells: Sequence[Cell], k: int) -> TopK:
    listed = [np.lexsort((ids, -activations))[:k] for ids, activations in cells]
    return TopK(
        feature_ids=np.concatenate([ids[order] for (ids, _), order in zip(cells, listed, strict=True)]),
        activations=np.concatenate([values[order] for (_, values), order in zip(cells, listed, strict=True)]),
        starts=np.array([0, *accumulate(map(len, listed))]),
        active_counts=np.array([len(ids) for ids, _ in cells]),
    )


def _manifest(path: Path, spec: Spec, extent: Extent) -> dict[str, object]:
    layers = [str(layer) for layer in spec.layers]
    planned = spec.planned or spec.questions
    run = identity(spec.layers, spec.top_k, planned)
    run["questions"] = {"dataset": "synthetic"}
    run["settings"]["all_solutions"] = spec.solutions > 2
    run["model"]["commit"], run["saes"]["commit"] = "c" * 40, "d" * 40
    ids = {layer: f"gemma-2-2b/{layer}-gemmascope-res-16k" for layer in layers}
    more = {"command": f"layerscope run --output-file {path.name}", "folder": str(path.parent)}
    more |= {"neuronpedia": ids, "d_sae": spec.d_sae, "average_l0": dict.fromkeys(layers, 71)}
    said = about(spec.layers, range(planned), **more)
    return {"format": FORMAT, "identity": run, "about": said, "progress": msgspec.to_builtins(extent.note())}


if __name__ == "__main__":
    target, *sizes = sys.argv[1:]
    questions, layers, active = [*map(int, sizes), *(1838, 26, 100)[len(sizes) :]]
    write_run(
        Path(target),
        Spec(
            questions=questions,
            layers=range(layers),
            active=active,
            d_sae=16384,
            effects=[Effect(layer, 16000 + layer, 0.3 + layer / 100, 0.3 - layer / 100) for layer in range(layers)]
            + [Effect(layer, 15000, 0.6, 0.6, factor=1.1) for layer in range(layers // 2, layers)]
            + [Effect(layers - 1, 14000, 0.4, 0.2, by_model=True)],
        ),
    )
