"""Features beside baselines, all on the same halves, goal groups and draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from layerscope.analysis.baselines.measuring import Drawn, discovery_auroc, drawn
from layerscope.analysis.baselines.residuals import Differences, dense_probes
from layerscope.analysis.baselines.result import (
    NAMES,
    OF_FEATURES,
    Ahead,
    Baseline,
    Comparison,
    HiddenKnowledge,
    Measured,
)
from layerscope.analysis.baselines.ridge import Probe, Scores, ridge
from layerscope.analysis.baselines.sparse_probes import SIZES
from layerscope.analysis.baselines.split import LEAST_GROUPS, Split
from layerscope.analysis.baselines.texts import Texts
from layerscope.analysis.result import Questions
from layerscope.analysis.testing.draws import DRAWS
from layerscope.analysis.testing.statistics import sign_test, sums


class Chosen(NamedTuple):
    """The score that stands for a baseline."""

    score: int
    discovery: float
    drawn: Drawn


def compare(
    questions: Questions,
    split: Split | None,
    layers: Sequence[int],
    texts: Texts,
    features: Scores,
    residuals: Differences | str,
    missing: Mapping[str, str],
    progress: Callable[[str, float], None],
) -> Comparison:
    """Measures everything that there is.

    Args:
        features: scores of features, and of random ones, by the names of `result.NAMES`.
        residuals: reads those of a layer, or says why there are none.
        missing: what else cannot be measured, with what it needs.
    """
    if split is None:
        return Comparison(f"either half of the questions needs {LEAST_GROUPS} goals that differ")
    scores: Scores = dict(_without_depth(questions, split, texts))
    missing = dict(missing)
    if isinstance(residuals, str):
        missing |= {"means": residuals, "dense": residuals}
    else:
        scores |= dense_probes(residuals, layers, split)
    scores |= features
    found = {}
    for number, (key, probes) in enumerate(scores.items()):
        found[key] = _measured(probes, split)
        progress("comparing", (number + 1) / len(scores))
    best = max((f"sparse-{size}" for size in SIZES), key=lambda key: found[key][1].discovery)
    ours = found[best][1].drawn
    baselines = tuple(
        Baseline(key, measured, chosen.score, None if key in OF_FEATURES else _ahead(ours, chosen.drawn))
        for key, (measured, chosen) in found.items()
    )
    probe = "dense" if "dense" in scores else f"sparse-{max(SIZES)}"  # few features leave many pairs undecided
    return Comparison(
        "",
        baselines,
        tuple((key, missing[key]) for key in NAMES if key in missing),
        best,
        _hidden_knowledge(probe, scores[probe], questions, split),
        len(split.draws),
        texts.tokens,
    )


def _without_depth(questions: Questions, split: Split, texts: Texts) -> Iterator[tuple[str, list[Probe | None]]]:
    """What is known without looking into the model."""
    margin, length = questions.margin, (questions.positive_tokens - questions.negative_tokens).astype(np.float64)
    yield "likelihood", [Probe(margin, discovery_auroc(margin, split))]
    longer = discovery_auroc(length, split)
    yield "length", [Probe(length if longer >= 0.5 else -length, max(longer, 1 - longer))]
    yield "words", [ridge(texts.words().columns(split), split)]
    yield "last", [ridge(texts.last_tokens().columns(split), split)]


def _measured(probes: Sequence[Probe | None], split: Split) -> tuple[Measured, Chosen]:
    """Every score of a baseline, and the one that the discovery half prefers: the earliest of equal ones."""
    rows, best = [], Chosen(0, float("-inf"), _nothing())
    for index, probe in enumerate(probes):
        draws = _nothing() if probe is None else drawn(probe.difference, split)
        rows.append([number for values in draws for number in (values[0], *np.quantile(values[1:], [0.025, 0.975]))])
        if probe is not None and probe.discovery > best.discovery:
            best = Chosen(index, probe.discovery, draws)
    return Measured(*np.array(rows).reshape(-1, 6).T), best


def _nothing() -> Drawn:
    unknown = np.full(1 + DRAWS, np.nan)
    return Drawn(unknown, unknown)


def _ahead(features: Drawn, other: Drawn) -> Ahead:
    difference = features.auroc - other.auroc
    return Ahead(float(difference[0]), *map(float, np.quantile(difference[1:], [0.025, 0.975])))


def _hidden_knowledge(key: str, probes: Sequence[Probe | None], questions: Questions, split: Split) -> HiddenKnowledge:
    """In which groups a probe ranks more pairs right than the log-likelihood does, layer by layer."""
    held_out, n_groups = split.held_out, len(split.draws)
    by_likelihood = np.sign(questions.margin[held_out])
    votes = np.zeros((len(probes), n_groups), dtype=np.int8)
    for vote, probe in zip(votes, probes, strict=True):
        if probe is not None:
            vote[:] = np.sign(sums(split.group, np.sign(probe.difference[held_out]) - by_likelihood, n_groups))
    test = sign_test((votes > 0).sum(axis=1), (votes < 0).sum(axis=1), min_pairs=1)
    return HiddenKnowledge(key, test.first_only, test.second_only, test.p)
