"""One batch from questions to lines, as plain functions that know nothing of Ray.

The actors call these; the driver joins what they return (`records.py`). Composed in one process they give the same
bytes.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.language_model import LanguageModel
from layerscope.pairs import PairTokenizer, UnscorableError
from layerscope.questions import Question
from layerscope.records import LayerBlock, Outcome, SolutionScore, error_line, frame_record, serialise_block
from layerscope.sae import SaeEncoder, encode_top_k


def score_batch(
    model: LanguageModel, tokenizer: PairTokenizer, questions: Sequence[Question], layers: Sequence[int]
) -> tuple[list[Outcome], Tensor]:
    """Scores the questions of a batch in one forward pass.

    Returns:
        every question's frame or error line, and the residual stream at the final tokens: [L, R, D] in the model's
        dtype on its device, where a frame says which rows are its own (R is 0 where no question can be scored).
    """
    outcomes: list[Outcome | None] = [None] * len(questions)
    pairs, places = [], []
    for place, (question, pair) in enumerate(zip(questions, tokenizer.pairs(questions), strict=True)):
        if isinstance(pair, UnscorableError):
            outcomes[place] = error_line(question.example_id, str(pair))
        else:
            pairs.append(pair)
            places.append(place)
    if not pairs:
        return [outcome for outcome in outcomes if outcome], torch.empty(len(layers), 0, 0)
    result = model.forward(pairs, layers)
    for index, (place, pair, score) in enumerate(zip(places, pairs, result.scores, strict=True)):
        question = questions[place]
        if score.failed_layer is not None:
            reason = f"non-finite activation in the residual stream after layer {score.failed_layer}"
            outcomes[place] = error_line(question.example_id, reason)
        elif not all(map(math.isfinite, score.log_likelihoods)):
            outcomes[place] = error_line(question.example_id, "non-finite log-likelihood after the last layer")
        else:
            solutions = [
                SolutionScore(
                    score.log_likelihoods[solution],
                    len(pair.solution_tokens(solution)),
                    tokenizer.token_text(pair.tokens[pair.final_index(solution)]),
                )
                for solution in (0, 1)
            ]
            outcomes[place] = frame_record(question, (solutions[0], solutions[1]), (2 * index, 2 * index + 1))
    return [outcome for outcome in outcomes if outcome], result.residuals


def encode_block(residuals: Tensor, layers: Sequence[int], encoders: Sequence[SaeEncoder], k: int | None) -> LayerBlock:
    """Encodes a block of layers and serialises the strongest features of every row.

    Args:
        residuals: [L, R, D] of these layers, on the encoders' device.
    """
    found = [encode_top_k(rows, sae, k) for rows, sae in zip(residuals, encoders, strict=True)]
    return serialise_block(layers, found)


def to_array(tensor: Tensor) -> NDArray[np.generic]:
    """A tensor as an array that Ray passes between processes without a copy; numpy has no bfloat16, so as its bits."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def from_array(array: NDArray[np.generic]) -> Tensor:
    """The tensor that `to_array` took."""
    # The array lies in shared memory and must not be written to, which torch would warn of; a copy of it is small.
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
