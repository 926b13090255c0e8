"""Ablations of one batch, from questions to lines, as plain functions that know nothing of Ray.

A question's own pass is that of a run. What is then taken out of its row is at the tokens of its solutions alone, where
the feature fires; nothing is reconstructed, so no error of the SAE enters. What stands before these is not run again,
and where nothing fires nothing is.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerscope.config import Site
from layerscope.engine.batches.batch import unscored_reason
from layerscope.errors import LayerscopeError
from layerscope.models.ablation import Change, KeptPass, keep_pass, moved, run_again
from layerscope.models.language_model import LanguageModel, PairScore
from layerscope.numerics.out_of_memory import give_back, is_out_of_memory
from layerscope.planning.to_ablate import ToAblate
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.plan import cut
from layerscope.questions.sources import Question
from layerscope.records.ablations import Place, ablation_line
from layerscope.records.line.record import strongest_wrong
from layerscope.records.manifest.identity import ChosenFeature, Control
from layerscope.saes.chosen import ChosenOfLayer, load_chosen, random_direction
from layerscope.standin import on_this_node


@dataclass(frozen=True)
class Begun:
    """A batch of questions as they are."""

    questions: Sequence[Question]
    reasons: Sequence[str]
    """Of each, why it cannot be scored; empty where it can."""
    numbers: Sequence[int]
    """Of each, which pair of the pass it is; -1 for none."""
    kept: KeptPass | None
    """None where no question can be scored."""
    halved: bool


class Ablator:
    """What an actor ablates with: the model, the features, and the batch that it was at last.

    The portions of a batch come one after the other, and its own pass is the same for all of them.
    """

    def __init__(self, model: LanguageModel, tokenizer: PairTokenizer, to_ablate: ToAblate, d_in: int) -> None:
        """
        Args:
            d_in: width of what the SAEs read.
        """
        self._model, self._tokenizer, self._to_ablate = model, tokenizer, to_ablate
        repository = on_this_node(to_ablate.repository)
        self._features = load_features(replace(to_ablate, repository=repository), d_in, model.device)
        self._at_last: tuple[int, Begun] | None = None
        self._turn = threading.Lock()

    def lines(self, call: int, questions: Sequence[Question]) -> tuple[list[bytes], bool, int]:
        """The lines of a portion of a batch, whether all fitted the memory at once, and how many tokens were read.

        Args:
            call: which of all calls, of which a batch has one for each portion.
        """
        batch, portion = divmod(call, len(self._to_ablate.portions))
        with self._turn:
            if self._at_last is None or self._at_last[0] != batch:
                self._at_last = None  # before there is another, whose memory it has
                begun = begin_batch(
                    self._model,
                    self._tokenizer,
                    questions,
                    self._to_ablate.layers,
                    self._to_ablate.site,
                    self._to_ablate.writes,
                )
                self._at_last = batch, begun
            begun = self._at_last[1]
            lines, halved = ablate(
                self._model, begun, self._features, self._to_ablate.portions[portion], self._to_ablate
            )
        return lines, halved, begun.kept.starts[-1] if begun.kept else 0


class _Wanted(NamedTuple):
    """One line's change."""

    line: int
    pair: int
    tokens: Tensor  # [n] int64, of the pair's row
    amounts: Tensor  # [n] float32
    direction: Tensor  # [D] float32
    again: int
    """How many tokens are run again."""


def load_features(to_ablate: ToAblate, d_in: int, device: torch.device) -> dict[int, ChosenOfLayer]:
    """The features that are ablated and compared with, by layer."""
    dtype = getattr(torch, to_ablate.sae_dtype)
    return {
        sae.layer: load_chosen(
            to_ablate.repository,
            sae,
            d_in,
            dtype,
            device,
            to_ablate.feature_ids(sae.layer),
            to_ablate.differences.get(sae.layer, {}),
        )
        for sae in to_ablate.saes
    }


def begin_batch(
    model: LanguageModel,
    tokenizer: PairTokenizer,
    questions: Sequence[Question],
    layers: Sequence[int],
    site: Site = "resid_post",
    writes: Site | None = None,
) -> Begun:
    """Scores the questions of a batch, and keeps what is needed to run it again from these layers on.

    Args:
        site: that SAEs read.
        writes: where they write, if it is elsewhere.
    """
    pairs = list(tokenizer.pairs(questions))
    scorable = [pair for pair in pairs if isinstance(pair, Pair)]
    kept, halved = _keep(model, scorable, layers, site, writes) if scorable else (None, False)
    scores = iter(kept.scores if kept else ())
    reasons = [unscored_reason(next(scores), [site]) if isinstance(pair, Pair) else str(pair) for pair in pairs]
    there = np.array([isinstance(pair, Pair) for pair in pairs])
    numbers = np.where(there, np.cumsum(there) - 1, -1).tolist()
    return Begun(questions, reasons, numbers, kept, halved)


def ablate(
    model: LanguageModel,
    begun: Begun,
    features: Mapping[int, ChosenOfLayer],
    portion: Sequence[ChosenFeature],
    to_ablate: ToAblate,
) -> tuple[list[bytes], bool]:
    """The lines of a batch for a portion of the features, and whether something did not fit the memory at once.

    Question by question, feature by feature, and of a feature kind by kind.
    """
    kinds = to_ablate.kinds
    ablated, halved = dict[int, PairScore](), begun.halved
    touched = dict[int, int]()
    for layer, of_layer in groupby(enumerate(portion), lambda numbered: numbered[1].layer):
        wanted = list(_wanted(begun, features[layer], list(of_layer), len(portion), kinds))
        touched |= {each.line: len(each.tokens) for each in wanted}
        wanted = [each for each in wanted if each.again]
        widths = np.array([each.again for each in wanted])
        for first, behind in pairwise(cut(widths, to_ablate.batch_tokens).tolist()):
            some = wanted[first:behind]
            scores, was_halved = _again(model, begun, layer, some, to_ablate.factor)
            ablated |= {each.line: score for each, score in zip(some, scores, strict=True)}
            halved |= was_halved
    return list(_lines(begun, portion, kinds, ablated, touched)), halved


def _wanted(
    begun: Begun,
    chosen: ChosenOfLayer,
    numbered: Sequence[tuple[int, ChosenFeature]],
    n_features: int,
    kinds: Sequence[Control | None],
) -> Iterator[_Wanted]:
    """What is to be changed in a layer, line by line; nothing where nothing fires.

    Args:
        numbered: the layer's features, with their numbers among the portion's, of which there are `n_features`.
    """
    kept = begun.kept
    if kept is None:
        return
    layer = numbered[0][1].layer
    read, place_of = kept.read[layer], {feature: place for place, feature in enumerate(chosen.feature_ids)}
    ways = [
        (number * len(kinds) + at, _way(chosen, place_of, feature, kind))
        for number, feature in numbered
        for at, kind in enumerate(kinds)
    ]
    for question, (pair_number, reason) in enumerate(zip(begun.numbers, begun.reasons, strict=True)):
        if reason:
            continue
        pair = kept.pairs[pair_number]
        of_solutions = torch.from_numpy(np.flatnonzero(pair.positions() >= pair.prompt)).to(read.device)
        amounts = chosen.amounts(read[kept.starts[pair_number] + of_solutions])  # [tokens, n]
        for place, way in ways:
            if way is None:
                continue
            column, direction = way
            fires = torch.nonzero(amounts[:, column])[:, 0]
            if len(fires):
                line, tokens = question * n_features * len(kinds) + place, of_solutions[fires]
                again = len(moved(pair, tokens.cpu().numpy()))
                yield _Wanted(line, pair_number, tokens, amounts[fires, column], direction, again)


def _way(
    chosen: ChosenOfLayer, place_of: Mapping[int, int], feature: ChosenFeature, kind: Control | None
) -> tuple[int, Tensor] | None:
    """Whose activations are taken, and along which direction [D] as much is changed; None for nothing."""
    if kind == "matched":
        if feature.matched is None:
            return None
        return place_of[feature.matched], chosen.directions[place_of[feature.matched]]
    place = place_of[feature.feature_id]
    own = chosen.directions[place]
    if kind is None:
        return place, own
    other = chosen.mean_difference
    if kind == "random":
        other = random_direction(feature.layer, feature.feature_id, len(own)).to(own.device)
    return place, other * torch.linalg.vector_norm(own)


def _again(
    model: LanguageModel, begun: Begun, layer: int, wanted: Sequence[_Wanted], factor: float
) -> tuple[list[PairScore], bool]:
    """The scores with the changes, in halves where the memory is too small."""
    assert begun.kept is not None
    changes = [Change(each.pair, each.tokens, factor * each.amounts[:, None] * each.direction[None]) for each in wanted]
    try:
        return run_again(model, begun.kept, layer, changes), False
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(wanted) == 1:
            raise _does_not_fit(begun, wanted[0].pair) from error
    give_back()  # outside the handler, which keeps the failed pass's tensors alive
    half = len(wanted) // 2
    parts = [_again(model, begun, layer, wanted[part], factor)[0] for part in (slice(half), slice(half, None))]
    return [*parts[0], *parts[1]], True


def _keep(
    model: LanguageModel, pairs: Sequence[Pair], layers: Sequence[int], site: Site, writes: Site | None
) -> tuple[KeptPass, bool]:
    try:
        return keep_pass(model, pairs, layers, site, writes), False
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(pairs) == 1:
            raise LayerscopeError(
                f"A question of {len(pairs[0].tokens)} tokens does not fit the memory even alone.\n"
                "Use a GPU with more memory or fewer --layers, and run again to go on."
            ) from error
    give_back()
    half = len(pairs) // 2
    parts = slice(half), slice(half, None)
    (first, _), (second, _) = (_keep(model, pairs[part], layers, site, writes) for part in parts)
    return first.joined(second), True


def _does_not_fit(begun: Begun, pair: int) -> LayerscopeError:
    question = begun.questions[begun.numbers.index(pair)]
    return LayerscopeError(
        f"Question {question.example_id} does not fit the memory even alone.\n"
        "Use a GPU with more memory or fewer --layers, and run again to go on."
    )


def _lines(
    begun: Begun,
    portion: Sequence[ChosenFeature],
    kinds: Sequence[Control | None],
    ablated: Mapping[int, PairScore],
    touched: Mapping[int, int],
) -> Iterator[bytes]:
    line = 0
    for question, reason, number in zip(begun.questions, begun.reasons, begun.numbers, strict=True):
        margin = None if reason or begun.kept is None else _margin(begun.kept.scores[number], question.label)
        for feature in portion:
            for kind in kinds:
                place = Place(question.example_id, feature.layer, feature.feature_id, kind)
                afterwards = _margin(ablated[line], question.label) if line in ablated else margin
                if margin is None or afterwards is None or not isfinite(afterwards):
                    yield ablation_line(place, None, None, 0, reason or "non-finite log-likelihood, when changed")
                else:
                    yield ablation_line(place, margin, afterwards, touched.get(line, 0))
                line += 1


def _margin(score: PairScore, label: int) -> float:
    """log-likelihood(right) - log-likelihood(strongest wrong), in double precision."""
    return score.log_likelihoods[label] - score.log_likelihoods[strongest_wrong(score.log_likelihoods, label)]
