"""A language model: one forward pass over a batch of pairs.

Knows nothing of Ray, SAEs or JSON. Shapes: B pairs, T tokens of a batch, P positions that predict a solution token,
N solution tokens, V vocabulary, L captured layers, R captured rows, D d_model.
"""

import math
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.config import Site
from layerscope.models.families import family_of
from layerscope.models.family import ModelFamily
from layerscope.models.pair_attention import PairLayout, lay_out, pair_masks
from layerscope.models.sites import capture_rows, stacked
from layerscope.numerics.matrix_products import linear, product_in_float32
from layerscope.numerics.transfers import Download, Transfers
from layerscope.questions.pairs import Pair

VOCABULARY_CHUNK = 4096  # columns of the output projection taken at once
_LARGEST_BOUND = 40.0  # soft-cap; float32 has the exponentials of numbers from minus twice as much to 0
_PAIRS_OF_ROWS = 2048  # single logits taken at once
RESIDUAL: tuple[Site, ...] = ("resid_post",)
_LIKELY = 1e-3  # probability from which a token's logit needs more digits than bfloat16 has


class PairScore(NamedTuple):
    """Log-likelihoods of a pair's solutions: sums over their tokens, natural logarithm, float32."""

    log_likelihoods: tuple[float, ...]
    failed_layer: int | None
    """The first captured layer at which the residual of a token that is read is not finite."""


class BatchResult(NamedTuple):
    """What one forward pass gives."""

    scores: list[PairScore]  # B
    residuals: Tensor  # [L, R, D] in the model's dtype, on the CPU; the rows of a pair's tokens follow one another


class Decoder(Protocol):
    """Another way through the decoder layers than transformers' own modules."""

    def forward(
        self, layout: PairLayout, layers: Sequence[int], rows: Tensor, sites: Sequence[Site] = RESIDUAL
    ) -> tuple[Tensor, Tensor]:
        """[T, D] after the final norm, and [L, R, D] of what chosen layers have at some sites in chosen rows."""


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model, which several threads may use: each makes ready for its turn while another's pass runs.

    A turn ends when the device has been given all its work, not when that is done: a GPU goes from one pass to the next
    without a pause.
    """

    model: Any
    """transformers' model, with the attention of pairs."""
    decoder: Decoder | None = None
    """None is transformers' modules."""
    transfers: Transfers = field(default_factory=lambda: Transfers(None))
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def family(self) -> ModelFamily:
        return family_of({"model_type": self.model.config.model_type}, type(self.model).__name__)

    @property
    def softcap(self) -> float | None:
        """Of the logits; None where they are not capped."""
        return getattr(self.model.config, "final_logit_softcapping", None)

    @torch.inference_mode()
    def forward(
        self,
        pairs: Sequence[Pair],
        layers: Sequence[int],
        places: Sequence[Sequence[int]] | None = None,
        sites: Sequence[Site] = RESIDUAL,
    ) -> BatchResult:
        """Scores the solutions of every pair and captures what some layers have at some sites for some tokens.

        Args:
            places: of every pair, which tokens of its row; by default the final ones of all solutions.
            sites: each once; a captured row is what all of them have, one behind the other.
        """
        layout = lay_out(pairs, self.transfers, places)
        residuals, finite, log_probs = self._measure(layout, layers, sites)
        return BatchResult(pair_scores(log_probs.numpy(), layout, finite.numpy(), layers), residuals)

    @torch.inference_mode()
    def raw(self, pairs: Sequence[Pair], layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What `forward` makes its scores of, and its residuals: [N] float32 of solution tokens, and [L, 2 B, D]."""
        residuals, _, log_probs = self._measure(lay_out(pairs, self.transfers), layers, RESIDUAL)
        return log_probs, residuals

    def _measure(self, layout: PairLayout, layers: Sequence[int], sites: Sequence[Site]) -> tuple[Tensor, ...]:
        """[L, R, D], [L, R] whether they are finite, and [N] log-probabilities, on the CPU."""
        with self.turn:
            download = self._begin(layout, layers, sites)
        return tuple(download.wait())

    def _begin(self, layout: PairLayout, layers: Sequence[int], sites: Sequence[Site]) -> Download:
        """Gives the device all work of a batch, and waits for none of it."""
        through = self.through_modules if self.decoder is None else self.decoder.forward
        hidden, residuals = through(layout, layers, layout.read_tokens, sites)
        finite = torch.isfinite(residuals).all(dim=-1)  # [L, R]
        log_probs = target_log_probs(hidden, self.model.lm_head.weight, layout, self.softcap)
        return self.transfers.download(residuals, finite, log_probs)

    def through_modules(
        self, layout: PairLayout, layers: Sequence[int], rows: Tensor, sites: Sequence[Site] = RESIDUAL
    ) -> tuple[Tensor, Tensor]:
        """What `Decoder.forward` gives, from transformers' modules."""
        body = self.model.model
        points = [self.family.site(site) for site in sites]
        with ExitStack() as stack:
            captured = [stack.enter_context(capture_rows(body.layers, layers, point, rows)) for point in points]
            hidden = body(
                input_ids=layout.tokens[None],
                position_ids=layout.positions[None],
                attention_mask=pair_masks(layout, self.model.config.sliding_window),
                use_cache=False,
            ).last_hidden_state[0]
        return hidden, stacked(captured, layers)


def target_log_probs(hidden: Tensor, output_weight: Tensor, layout: PairLayout, softcap: float | None) -> Tensor:
    """The log-probability of every solution token, in float32: [N].

    The projection runs only at the positions that predict one.

    Args:
        hidden: [T, D] after the final norm; output_weight: [V, D].
    """
    rows = hidden[layout.predictors]  # [P, D]
    log_sums = log_sum_exp(rows, output_weight, softcap)
    logits = logits_at(rows, output_weight, layout.target_predictors, layout.targets, softcap)
    return logits - log_sums[layout.target_predictors]


def log_sum_exp(rows: Tensor, output_weight: Tensor, softcap: float | None) -> Tensor:
    """The logarithm of the sum of the exponentials of every row's logits, in float32: [P].

    The vocabulary is taken in chunks, so that the logits stay in a CPU's cache and never lie in memory as a whole.

    On a CPU no product of torch takes bfloat16 and gives float32, and one of widened weights takes five times as long.
    Rounded to bfloat16 a logit of 20 is off by up to 0.06. Where many tokens share the probability that cancels out; of
    the few likely ones (at most 1 / _LIKELY of a row) the logits are taken again, in float32.

    Args:
        rows: [P, D] after the final norm.
    """
    if rows.device.type != "cpu":
        return _log_sum_exp_on_gpu(rows, output_weight, softcap)
    rounded = rows.dtype != torch.float32
    total = torch.zeros(len(rows), device=rows.device)
    likely: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(output_weight), VOCABULARY_CHUNK):
        weight = output_weight[start : start + VOCABULARY_CHUNK]
        # Weights times rows is 8 % faster than rows times weights, which come from memory.
        logits = linear(weight, rows).float()  # [chunk, P]
        exponentials = _exp(logits, softcap)
        total = total + exponentials.sum(dim=0)
        if rounded:
            # Measured by the sum so far, so these are all that will be likely, and some more. numpy finds them several
            # times as fast as torch.
            found = torch.from_numpy(np.flatnonzero((exponentials > _LIKELY * total).numpy()))
            token, row = found // len(rows), found % len(rows)
            likely.append((row, token + start, exponentials.view(-1)[found]))
    if rounded:
        row, token, value = (torch.cat(column) for column in zip(*likely, strict=True))
        row, token, value = (column[value > _LIKELY * total[row]] for column in (row, token, value))
        exact = _exp(logits_at(rows, output_weight, row, token, None), softcap)
        total = total.index_add(0, row, exact - value)
    return (total.double().log() + _shift(softcap)).float()


def _log_sum_exp_on_gpu(rows: Tensor, output_weight: Tensor, softcap: float | None) -> Tensor:
    """`_log_sum_exp` where products give float32 from whatever they take, and one kernel does the rest."""
    from layerscope.numerics.kernels import add_exponentials

    peak = torch.full((len(rows),), -torch.inf, device=rows.device)
    total = torch.zeros_like(peak)
    for weight in torch.split(output_weight, VOCABULARY_CHUNK):
        add_exponentials(product_in_float32(rows, weight), peak, total, softcap)
    return peak + total.log()


def _shift(softcap: float | None) -> float:
    """What is subtracted from logits before their exponentials are taken, so that none is too large for float32.

    It is half of what `_exp` multiplies by once that is rounded to float32. With the soft-cap as it stands every
    log-likelihood of a token would be too low, by 1.2e-6 where the soft-cap is 30.
    """
    if softcap is None or softcap > _LARGEST_BOUND:
        return 0.0
    return float(np.float32(2 * softcap / math.log(2))) * math.log(2) / 2


def _exp(logits: Tensor, softcap: float | None) -> Tensor:
    """Exponentials of logits after the soft-cap, less `_shift`; may overwrite the logits."""
    if softcap is None or softcap > _LARGEST_BOUND:
        return capped(logits, softcap).double().exp()
    # cap * tanh(x / cap) - cap = -2 cap * sigmoid(-2 x / cap). On a CPU torch takes tanh and exp from MKL, which does
    # without AVX-512 on AMD's; its own sigmoid and exp2 are nine and three times as fast.
    return logits.mul_(-2 / softcap).sigmoid_().mul_(-2 * softcap / math.log(2)).exp2_()


def logits_at(rows: Tensor, output_weight: Tensor, row: Tensor, token: Tensor, softcap: float | None) -> Tensor:
    """The logits of chosen tokens after the soft-cap, in float32: [M].

    Args:
        rows: [P, D]; row: [M] into them; token: [M] into the vocabulary.
    """
    chosen = zip(torch.split(row, _PAIRS_OF_ROWS), torch.split(token, _PAIRS_OF_ROWS), strict=True)
    products = [(rows[some].float() * output_weight[tokens].float()).sum(dim=1) for some, tokens in chosen]
    return capped(torch.cat(products), softcap)


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def pair_scores(
    log_probs: NDArray[np.float32], layout: PairLayout, finite: NDArray[np.bool_], layers: Sequence[int]
) -> list[PairScore]:
    starts = pairwise(layout.target_starts)
    sums = [float(np.float32(log_probs[start:end].sum(dtype=np.float64))) for start, end in starts]
    scores = []
    of_pairs = zip(pairwise(layout.solution_starts), pairwise(layout.read_starts), strict=True)
    for (first, behind), (start, end) in of_pairs:
        bad = ~finite[:, start:end].all(axis=1)
        failed_layer = layers[int(bad.argmax())] if bad.any() else None
        scores.append(PairScore(tuple(sums[first:behind]), failed_layer))
    return scores
