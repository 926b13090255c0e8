"""What it costs to ablate a feature on a question: ours, the forward from its layer on, and a whole forward each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarking.contenders import Strong
from benchmarking.measure import synchronise
from benchmarking.ours import Clock, loaded_model, timing_projection
from layerscope.engine.ablating import ablate, begin_batch, load_features
from layerscope.planning.job import Job
from layerscope.planning.to_ablate import ToAblate
from layerscope.questions.pairs import Pair
from layerscope.records.ablations import parse_ablation
from layerscope.records.identity import ChosenFeature
from layerscope.saes.cache import load_encoder
from layerscope.saes.chosen import ChosenOfLayer
from layerscope.saes.encoder import active

_FEATURES_OF_LAYER = 3
_PLAIN_SHARE = 5  # of the ablations, one in so many is enough for the slow way


@dataclass
class Ablations:
    """Seconds a feature and question."""

    count: int
    layers: list[int]
    ours: float
    forward_from_there: float
    """The layers above, by their share of the body of our pass over the same questions, and the scores."""
    plain: float
    """A whole pass of plain transformers over both solutions, padded, logits where they are needed."""
    plain_count: int
    largest_difference: float
    """Between a margin of ours and the plain way's."""


@dataclass(frozen=True)
class _Wanted:
    """One ablation, and the margin that ours found."""

    question: int
    layer: int
    feature: int
    """Which of the layer's that were chosen."""
    margin: float


def ablations(job: Job, device: str) -> Ablations:
    """Those that fire most on the questions of the plan's middle batch, after layers at a quarter, half and three."""
    layers = sorted({job.spec.n_layers * part // 4 for part in (1, 2, 3)})
    ids = [int(example_id) for example_id in job.plan.batch(len(job.plan) // 2)]
    wanted, chosen, ours, forward = _ours(job, device, layers, ids)
    some = wanted[_PLAIN_SHARE // 2 :: _PLAIN_SHARE] or wanted[:1]
    plain, difference = _plain(job, device, some, ids, chosen)
    return Ablations(len(wanted), layers, ours, forward, plain, len(some), difference)


def _ours(
    job: Job, device: str, layers: list[int], ids: Sequence[int]
) -> tuple[list[_Wanted], dict[int, ChosenOfLayer], float, float]:
    model, tokenizer, place = loaded_model(job, device)
    questions = [job.selection[example_id] for example_id in ids]
    begun = begin_batch(model, tokenizer, questions, layers)
    assert begun.kept is not None
    pairs = list(begun.kept.pairs)
    portion = [
        ChosenFeature(layer, feature_id, None)
        for layer in layers
        for feature_id in _firing_most(job, layer, begun.kept.states[layer], place)
    ]
    saes = tuple(sae for sae in job.saes if sae.layer in layers)
    numerics = job.numerics
    to_ablate = ToAblate(
        job.sae_repository, saes, numerics.sae_dtype, [portion], (None,), -1.0, {}, numerics.batch_tokens
    )
    features = load_features(to_ablate, job.spec.d_model, place)
    clock = Clock()
    with timing_projection(clock):
        model.forward(pairs, layers)  # to warm up
        clock.seconds.clear()
        with clock("forward"):
            model.forward(pairs, layers)
        scores = clock.seconds["projection and scores"]
        body = clock.seconds["forward"] - scores
    lines, seconds = list[bytes](), 0.0
    for features_of in (portion[:1], portion):  # the first time to warm up
        synchronise()
        start = time.perf_counter()
        lines, _ = ablate(model, begun, features, features_of, to_ablate)
        synchronise()
        seconds = time.perf_counter() - start
    number = {example_id: at for at, example_id in enumerate(ids)}
    found = [parsed for parsed in map(parse_ablation, lines) if parsed.tokens]
    place_of = {layer: list(of.feature_ids) for layer, of in features.items()}
    wanted = [
        _Wanted(
            number[each.example_id],
            each.layer,
            place_of[each.layer].index(each.feature_id),
            each.margin_ablated or 0.0,
        )
        for each in found
    ]
    n_layers = job.spec.n_layers
    from_there = np.mean([body * (n_layers - 1 - each.layer) / n_layers + scores for each in wanted])
    return wanted, features, seconds / len(wanted), float(from_there) / len(questions)


def _firing_most(job: Job, layer: int, states: Tensor, place: torch.device) -> list[int]:
    """Those features of a layer that fire at most of these tokens [T, D], ascending."""
    (sae,) = (sae for sae in job.saes if sae.layer == layer)
    dtype = getattr(torch, job.numerics.sae_dtype)
    _, feature_id, _ = active(states, load_encoder(job.sae_repository, sae, job.spec.d_model, dtype, place))
    counts = np.bincount(feature_id.cpu().numpy(), minlength=job.d_sae)
    return sorted(np.argsort(-counts, kind="stable")[:_FEATURES_OF_LAYER].tolist())


@torch.inference_mode()
def _plain(
    job: Job, device: str, wanted: Sequence[_Wanted], ids: Sequence[int], chosen: dict[int, ChosenOfLayer]
) -> tuple[float, float]:
    """Seconds an ablation by whole passes, and how far a margin is from ours at most."""
    strong = Strong(job, device, with_saes=False)
    differences, seconds = [], 0.0
    for number, each in enumerate([wanted[0], *wanted]):  # the first time to warm up
        question = job.selection[ids[each.question]]
        pair = strong.tokenizer.pair(question)
        synchronise()
        start = time.perf_counter()
        margin = _plain_margin(strong, question.label, pair, each, chosen[each.layer])
        synchronise()
        if number:
            seconds += time.perf_counter() - start
            differences.append(abs(margin - each.margin))
    return seconds / len(wanted), max(differences)


def _plain_margin(strong: Strong, label: int, pair: Pair, wanted: _Wanted, chosen: ChosenOfLayer) -> float:
    """The margin with the feature taken out of the solutions' tokens by a hook."""

    def hook(_module: object, _inputs: object, output: Tensor) -> Tensor:
        solution = output[:, pair.prompt :]
        activations = chosen.activations(solution.flatten(0, 1))[:, wanted.feature]
        taken = activations[:, None] * chosen.directions[wanted.feature]
        changed = (solution.flatten(0, 1).float() - taken).to(output.dtype).view_as(solution)
        return torch.cat([output[:, : pair.prompt], changed], dim=1)

    handle = strong.model.model.layers[wanted.layer].register_forward_hook(hook)
    try:
        likelihoods, _ = strong.score([(0, pair)])
    finally:
        handle.remove()
    return float(likelihoods[label] - likelihoods[1 - label])
