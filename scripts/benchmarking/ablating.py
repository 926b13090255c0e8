"""What it costs to ablate a feature on a question: ours, the forward from its layer on, and a whole forward each."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarking.contenders import STRONG_TOKENS, Batch, Strong
from benchmarking.measure import synchronise
from benchmarking.ours import Clock, loaded_model, timing_projection
from layerscope.engine.batches.ablating import Begun, ablate, begin_batch, load_features
from layerscope.models.language_model import LanguageModel
from layerscope.planning.job import Job
from layerscope.planning.to_ablate import ToAblate
from layerscope.questions.sources import Question
from layerscope.records.ablations import parse_ablation
from layerscope.records.manifest.identity import ChosenFeature
from layerscope.saes.cache import load_encoder
from layerscope.saes.chosen import ChosenOfLayer
from layerscope.saes.encoder import active

_PLAIN_SHARE = 10  # of the ablations, one in so many is enough for the slow way


@dataclass
class Ablations:
    """Seconds a feature and question."""

    count: int
    layers: list[int]
    ours: float
    forward_from_there: float
    """The layers above, by their share of the body of our pass over the same questions, and the scores."""
    plain: float
    """A whole pass of plain transformers for each over both solutions, padded, logits where they are needed."""
    plain_together: float
    """The same in batches of 2,048 padded tokens: many ablations after a layer in one pass."""
    plain_alone: float
    """The same one solution at a time with all logits, as the baseline does it."""
    plain_count: int
    largest_difference: float
    """Between a margin of ours and the plain way's."""
    products: float
    """FLOP of our matrix products, without those inside attention: of an ablation, as they were run."""
    plain_products: float
    """The same of both solutions' whole texts, without padding, and logits where they are needed."""


@dataclass(frozen=True)
class _Wanted:
    """One ablation, and the margin that ours found."""

    question: int
    layer: int
    feature: int
    """Which of the layer's that were chosen."""
    margin: float


def ablations(job: Job, device: str) -> dict[str, Ablations]:
    """Of two kinds of features, on the questions of the plan's middle batch, after layers at a quarter, half and three.

    Those that fire at most of the solutions' tokens are the dearest there are: all of these are run again. Others are
    drawn from all that fire at any, as `layerscope ablate --check` draws them.
    """
    layers = sorted({job.spec.n_layers * part // 4 for part in (1, 2, 3)})
    ids = [int(example_id) for example_id in job.plan.batch(len(job.plan) // 2)]
    ours = _ours(job, device, layers, ids)
    strong = Strong(job, device, with_saes=False)
    found = {}
    for kind, of in ours.items():
        some = of.wanted[_PLAIN_SHARE // 2 :: _PLAIN_SHARE] or of.wanted[:1]
        ablations = [_Ablation(job.selection[ids[each.question]], strong, each) for each in some]
        plain = _plain(strong, ablations, of.chosen)
        every = [_Ablation(job.selection[ids[each.question]], strong, each).pair for each in of.wanted]
        whole = sum(sum(pair.lengths) for pair in every) * job.spec.n_layers
        scored = sum(sum(pair.lengths) - 2 * pair.prompt for pair in every)
        products = (
            _products(strong, *counts) / len(of.wanted) for counts in ((of.through_layers, of.read), (whole, scored))
        )
        found[kind] = Ablations(len(of.wanted), layers, of.seconds, of.forward_from_there, *plain, *products)
    return found


def _products(strong: Strong, through_layers: int, scored: int) -> float:
    """FLOP of tokens through layers, one layer each, and of positions at which there are logits."""
    of_layer = sum(each.numel() for each in strong.model.model.layers[0].parameters() if each.dim() == 2)
    return 2.0 * (through_layers * of_layer + scored * strong.model.lm_head.weight.numel())


@dataclass(frozen=True)
class _Ours:
    wanted: list[_Wanted]
    chosen: dict[int, ChosenOfLayer]
    seconds: float
    """An ablation."""
    through_layers: int
    """Tokens that were run again, each as often as there are layers that it went through."""
    read: int
    """Tokens that were run again, at each of which something is predicted."""
    forward_from_there: float


def _ours(job: Job, device: str, layers: list[int], ids: Sequence[int]) -> dict[str, _Ours]:
    model, tokenizer, place = loaded_model(job, device)
    questions = [job.selection[example_id] for example_id in ids]
    begun = begin_batch(model, tokenizer, questions, layers)
    assert begun.kept is not None
    pairs = list(begun.kept.pairs)
    clock = Clock()
    with timing_projection(clock):
        model.forward(pairs, layers)  # to warm up
        clock.seconds.clear()
        with clock("forward"):
            model.forward(pairs, layers)
    scores = clock.seconds["projection and scores"]
    body = clock.seconds["forward"] - scores
    counts = {layer: _counts(job, layer, begun, place) for layer in layers}
    found = {}
    for kind, choose in KINDS.items():
        portion = [
            ChosenFeature(layer, feature_id, None) for layer in layers for feature_id in sorted(choose(counts[layer]))
        ]
        wanted, chosen, *timed = _timed(job, model, begun, portion, place)
        above = np.mean([1 - (each.layer + 1) / job.spec.n_layers for each in wanted])
        found[kind] = _Ours(wanted, chosen, *timed, (body * float(above) + scores) / len(questions))
    return found


def _timed(
    job: Job, model: LanguageModel, begun: Begun, portion: list[ChosenFeature], place: torch.device
) -> tuple[list[_Wanted], dict[int, ChosenOfLayer], float, int, int]:
    """What was ablated, with what, seconds an ablation, and tokens that were run again: through layers, and read."""
    saes = tuple(sae for sae in job.saes if sae.layer in {feature.layer for feature in portion})
    numerics = job.numerics
    to_ablate = ToAblate(
        job.sae_repository, saes, numerics.sae_dtype, [portion], (None,), -1.0, {}, numerics.batch_tokens
    )
    features = load_features(to_ablate, job.spec.d_model, place)
    lines, seconds = list[bytes](), 0.0
    for features_of in (portion[:1], portion):  # the first time to warm up
        with _counting([layer.mlp for layer in model.model.model.layers], [model.model.model.norm]) as counted:
            synchronise()
            start = time.perf_counter()
            lines, _ = ablate(model, begun, features, features_of, to_ablate)
            synchronise()
            seconds = time.perf_counter() - start
    number = {question.example_id: at for at, question in enumerate(begun.questions)}
    place_of = {layer: list(of.feature_ids) for layer, of in features.items()}
    wanted = [
        _Wanted(
            number[each.example_id],
            each.layer,
            place_of[each.layer].index(each.feature_id),
            each.margin_ablated or 0.0,
        )
        for each in map(parse_ablation, lines)
        if each.tokens
    ]
    return wanted, features, seconds / len(wanted), *counted


@contextmanager
def _counting(*groups: Sequence[nn.Module]) -> Iterator[list[int]]:
    """How many rows [1, T, D] pass through each group of modules."""
    counted, hooks = [0] * len(groups), list[RemovableHandle]()
    for number, group in enumerate(groups):

        def count(_module: nn.Module, inputs: tuple[Tensor, ...], number: int = number) -> None:
            counted[number] += inputs[0].shape[1]

        hooks += [module.register_forward_pre_hook(count) for module in group]
    yield counted
    for hook in hooks:
        hook.remove()


def _counts(job: Job, layer: int, begun: Begun, place: torch.device) -> NDArray[np.int64]:
    """At how many of a batch's solution tokens each feature of a layer fires: [F]."""
    (sae,) = (sae for sae in job.saes if sae.layer == layer)
    kept, dtype = begun.kept, getattr(torch, job.numerics.sae_dtype)
    assert kept is not None
    of_solutions = np.concatenate([pair.positions() >= pair.prompt for pair in kept.pairs])
    states = kept.states[layer][torch.from_numpy(of_solutions).to(place)]
    _, feature_id, _ = active(states, load_encoder(job.sae_repository, sae, job.spec.d_model, dtype, place))
    return np.bincount(feature_id.cpu().numpy(), minlength=job.d_sae)


def _frequent(counts: NDArray[np.int64]) -> list[int]:
    return np.argsort(-counts, kind="stable")[:3].tolist()


def _drawn(counts: NDArray[np.int64]) -> list[int]:
    fires = np.flatnonzero(counts)
    return np.random.default_rng(0).choice(fires, min(12, len(fires)), replace=False).tolist()


KINDS = {"drawn": _drawn, "frequent": _frequent}


@torch.inference_mode()
def _plain(
    strong: Strong, ablations: Sequence["_Ablation"], chosen: dict[int, ChosenOfLayer]
) -> tuple[float, float, float, int, float]:
    """Seconds an ablation by whole passes, one each, many of a layer at once and one a solution; of how many, and what
    their margins differ by at most."""
    alone = [[each] for each in ablations]
    together = [
        batch for layer in chosen for batch in _batches([each for each in ablations if each.wanted.layer == layer])
    ]
    differences, seconds = [], []
    ways = [(batches, strong.score) for batches in (alone[:1], alone, together[:1], together)]
    ways += [(batches, strong.score_alone) for batches in (alone[:1], alone)]
    for batches, score in ways:  # each the first time to warm up
        synchronise()
        start = time.perf_counter()
        margins = [_plain_margins(strong, score, batch, chosen[batch[0].wanted.layer]) for batch in batches]
        synchronise()
        seconds.append((time.perf_counter() - start) / sum(map(len, batches)))
        differences += [
            abs(margin - each.wanted.margin)
            for batch, of_batch in zip(batches, margins, strict=True)
            for each, margin in zip(batch, of_batch, strict=True)
        ]
    return seconds[1], seconds[3], seconds[5], len(ablations), max(differences)


class _Ablation:
    """One for the plain way."""

    def __init__(self, question: Question, strong: Strong, wanted: _Wanted) -> None:
        self.label, self.pair, self.wanted = question.label, strong.tokenizer.pair(question), wanted


def _batches(ablations: Sequence[_Ablation]) -> Iterator[list[_Ablation]]:
    """So many that their padded rows hold as many tokens as a batch of the strong baseline's; the longest first."""
    batch: list[_Ablation] = []
    for each in sorted(ablations, key=lambda each: -max(each.pair.lengths)):
        if batch and 2 * (len(batch) + 1) * max(batch[0].pair.lengths) > STRONG_TOKENS:
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _plain_margins(
    strong: Strong, score: Callable[[Batch], tuple[Tensor, Any]], batch: Sequence[_Ablation], chosen: ChosenOfLayer
) -> list[float]:
    """The margins with the features taken out of the solutions' tokens by a hook, all after the same layer."""
    of_row = [each for each in batch for _ in each.pair.lengths]
    column = torch.tensor([each.wanted.feature for each in of_row], device=strong.device)
    prompt = torch.tensor([each.pair.prompt for each in of_row], device=strong.device)

    def hook(_module: object, _inputs: object, output: Tensor) -> Tensor:
        activations = chosen.amounts(output.flatten(0, 1)).view(*output.shape[:2], -1)
        columns, prompts = column[: len(output)], prompt[: len(output)]  # one row of a question, where each is alone
        own = activations.gather(2, columns[:, None, None].expand(-1, output.shape[1], 1))  # [R, T, 1]
        own = own * (torch.arange(output.shape[1], device=output.device) >= prompts[:, None])[..., None]
        return (output.float() - own * chosen.directions[columns][:, None]).to(output.dtype)

    handle = strong.model.model.layers[batch[0].wanted.layer].register_forward_hook(hook)
    try:
        likelihoods, _ = score([(0, each.pair) for each in batch])
    finally:
        handle.remove()
    two = likelihoods.view(-1, 2).tolist()
    return [of[each.label] - of[1 - each.label] for each, of in zip(batch, two, strict=True)]
