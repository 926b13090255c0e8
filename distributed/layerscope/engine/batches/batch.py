"""A batch from questions to frames and activations, as plain functions that know nothing of Ray.

The Gemma actors call these, the encoders those of `encoding.py`; the driver joins what they return (`lines.py`).
Composed in one process they give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.config import Site
from layerscope.engine.batches.readings import read_batch, rows_among
from layerscope.errors import LayerscopeError
from layerscope.numerics.out_of_memory import give_back, is_out_of_memory
from layerscope.questions.pairs import Pair, PairTokenizer, UnscorableError, tokens_read
from layerscope.questions.reading import FINAL, Reading
from layerscope.questions.sources import Question
from layerscope.questions.spelling import last_word
from layerscope.records.line.attributions import AttributionRows
from layerscope.records.line.lines import Outcome, error_line, frame_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.line.record import strongest_wrong
from layerscope.saes.spans import Groups, Spans

if TYPE_CHECKING:  # transformers takes seconds to import, and encoders do without it
    from layerscope.models.language_model import LanguageModel, PairScore


class ScoredBatch(NamedTuple):
    """What a Gemma actor knows of a batch."""

    outcomes: list[Outcome]
    """The frame or the error line of every question, in order."""
    residuals: Tensor  # [L, R, D]; R is 0 where no question can be scored
    gradients: Tensor | None  # [L, R, O] of the margin by these, or by some of their numbers, where it is attributed
    spans: Spans | None
    """Which rows are of which solution, where lists are made over several tokens."""
    groups: Groups | None
    """Which rows are of which group of tokens, where the margin is attributed."""
    halved: bool
    """The batch did not fit the memory as a whole, so its numbers may differ in the last digit."""
    tokens: int
    """That the model read, shared ones once."""


def score_batch(
    model: LanguageModel,
    tokenizer: PairTokenizer,
    questions: Sequence[Question],
    layers: Sequence[int],
    reading: Reading = FINAL,
) -> ScoredBatch:
    """Scores the questions of a batch in one forward pass, or in halves where the memory is too small for it.

    Args:
        tokenizer: that spells, where the reading needs it.

    Raises:
        LayerscopeError: a single question does not fit.
    """
    pairs = list(tokenizer.pairs(questions))
    scorable = [pair for pair in pairs if isinstance(pair, Pair)]
    ids = [question.example_id for question, pair in zip(questions, pairs, strict=True) if isinstance(pair, Pair)]
    labels = [question.label for question, pair in zip(questions, pairs, strict=True) if isinstance(pair, Pair)]
    attributed = reading.attribution is not None
    rows = read_batch(scorable, reading.names, None, attributed)
    if scorable:
        passed = _pass(model, scorable, ids, labels, layers, rows.places, reading)
        scores, residuals, gradients, halved = passed
    else:
        scores, residuals, gradients, halved = [], torch.empty(len(layers), 0, 0), None, False
    if reading.solutions == 2 and any(len(pair.solutions) > 2 for pair in scorable):
        scored = zip(labels, scores, strict=True)
        two = [sorted((label, strongest_wrong(score.log_likelihoods, label))) for label, score in scored]
        every, rows = rows, read_batch(scorable, reading.names, two, attributed)
        wanted = rows_among(every, rows)
        residuals, gradients = residuals[:, wanted], None if gradients is None else gradients[:, wanted]
    further = rows.further(reading.dictionaries)
    none: list[AttributionRows | None] = [None] * len(scores)
    score_of = iter(zip(scores, rows.lists, rows.attributions or none, strict=True))
    outcomes = [
        error_line(question.example_id, str(pair), reading.more, question.metadata, attributed)
        if isinstance(pair, UnscorableError)
        else _outcome(question, pair, tokenizer, reading, further, *next(score_of))
        for question, pair in zip(questions, pairs, strict=True)
    ]
    tokens = tokens_read(scorable, share=not attributed)
    return ScoredBatch(outcomes, residuals, gradients, rows.spans, rows.groups, halved, tokens)


def _pass(
    model: LanguageModel,
    pairs: Sequence[Pair],
    ids: Sequence[int],
    labels: Sequence[int],
    layers: Sequence[int],
    places: Sequence[Sequence[int]],
    reading: Reading,
) -> tuple[list[PairScore], Tensor, Tensor | None, bool]:
    """Forward, and where it is asked for back; also whether the pairs did not fit the memory at once."""
    try:
        if reading.attribution is None:
            return (*model.forward(pairs, layers, places, reading.sites), None, False)
        from layerscope.models.attribution import differentiate

        how = reading.attribution, reading.sites, reading.acts_at
        return (*differentiate(model, pairs, labels, strongest_wrong, layers, places, *how), False)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(pairs) == 1:
            raise LayerscopeError(
                f"Question {ids[0]} ({len(pairs[0].tokens)} tokens) does not fit the memory even alone.\n"
                "Use a GPU with more memory, --dtype bfloat16 or fewer --gemma-actors on it, and run again to go on."
            ) from error
    give_back()  # outside the handler, which keeps the failed pass's tensors alive
    half = len(pairs) // 2
    parts = [
        _pass(model, pairs[part], ids[part], labels[part], layers, places[part], reading)
        for part in (slice(half), slice(half, None))
    ]
    scores, residuals, gradients, _ = zip(*parts, strict=True)
    by_rows = None if reading.attribution is None else torch.cat(gradients, dim=1)
    return [score for part in scores for score in part], torch.cat(residuals, dim=1), by_rows, True


def unscored_reason(score: PairScore, sites: Sequence[Site]) -> str:
    """Why what a pass gave of a question is no score; empty where it is one."""
    if score.failed_layer is not None:
        where = "in the residual stream after" if tuple(sites) == ("resid_post",) else f"at {' or '.join(sites)} of"
        return f"non-finite activation {where} layer {score.failed_layer}"
    if not all(map(math.isfinite, score.log_likelihoods)):
        return "non-finite log-likelihood, after the last layer"
    return ""


def _outcome(
    question: Question,
    pair: Pair,
    tokenizer: PairTokenizer,
    reading: Reading,
    further: Mapping[str, int],
    score: PairScore,
    lists: Mapping[int, Mapping[str, int]],
    attributions: AttributionRows | None,
) -> Outcome:
    if reason := unscored_reason(score, reading.sites):
        return error_line(question.example_id, reason, reading.more, question.metadata, attributions is not None)
    scores = [
        SolutionScore(
            score.log_likelihoods[solution],
            len(pair.solution_tokens(solution)),
            tokenizer.token_text(pair.tokens[pair.final_index(solution)]),
            pair.spelled[solution] if reading.tokens and pair.spelled else None,
            last_word(pair.spelled[solution]) if pair.spelled else 0,
        )
        for solution in pair.solutions
    ]
    rows = [lists[solution]["final"] if solution in lists else None for solution in pair.solutions]
    others = [
        {name: row for name, row in lists.get(solution, {}).items() if name != "final"} for solution in pair.solutions
    ]
    return frame_record(question, scores, rows, others, reading.more, attributions, further)


def warm_up_model(
    model: LanguageModel, tokenizer: PairTokenizer, layers: Sequence[int], reading: Reading = FINAL
) -> None:
    """Has a GPU load its libraries and compile its kernels, which takes seconds, before the first batch."""
    score_batch(model, tokenizer, [Question(0, "a", "b", "c d", 0)] * 8, layers, reading)


def to_array(tensor: Tensor) -> NDArray[np.generic]:
    """A tensor as an array that Ray passes between processes without a copy; numpy has no bfloat16, so as its bits."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def from_array(array: NDArray[np.generic]) -> Tensor:
    """The tensor that `to_array` took."""
    # The array lies in shared memory and must not be written to, which torch would warn of; a copy of it is small.
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
