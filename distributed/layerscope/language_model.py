"""Gemma 2: what a model folder holds, loading it, and one forward pass over a batch of pairs.

Knows nothing of Ray, SAEs or JSON. Shapes: B pairs, T tokens of a batch, W tokens of its widest row, H heads,
P positions that predict a solution token, V vocabulary, L captured layers, D d_model.

All rows of a batch lie end to end as one row of T tokens, so that no linear layer sees padding. Only inside attention
are they laid out side by side as [B, W], and there each token sees what it would see if its solution were alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, Gemma2ForCausalLM
from transformers.utils import logging as transformers_logging

from layerscope.errors import LayerscopeError, first_line
from layerscope.pairs import Pair

ATTENTION = "layerscope_pairs"
_VOCABULARY_CHUNK = 8192  # columns of the output projection taken at once
_MAX_SCORES = 1 << 25  # attention scores held at once: 128 MiB in float32


class PairScore(NamedTuple):
    """Log-likelihoods of a pair's two solutions: sums over their tokens, natural logarithm, float32."""

    log_likelihoods: tuple[float, float]
    failed_layer: int | None
    """The first captured layer at which a final token's residual is not finite."""


class BatchResult(NamedTuple):
    """What one forward pass gives."""

    scores: list[PairScore]  # B
    residuals: Tensor  # [L, 2 B, D] in the model's dtype, on its device; rows 2 b and 2 b + 1 are pair b's solutions


@dataclass(frozen=True)
class PairLayout:
    """Where the tokens of a batch lie: end to end for the linear layers, side by side inside attention."""

    tokens: Tensor  # [T] int64
    positions: Tensor  # [T] int64; of each token in its own text
    gather: Tensor  # [B, W] int64; where in T each place of the rows comes from (0 for padding)
    scatter: Tensor  # [T] int64; where in B * W each token lies
    row_positions: Tensor  # [B, W] int64
    row_segments: Tensor  # [B, W] int64; 0 shared, 1 rest of solution 1, 2 rest of solution 2, 3 padding
    final_tokens: Tensor  # [2 B] int64 into T
    predictors: Tensor  # [P] int64 into T; every position that predicts a solution token, once
    targets: Tensor  # [N] int64; the solution tokens of all solutions, one after the other
    target_predictors: Tensor  # [N] int64 into P; which position predicts each
    target_starts: NDArray[np.int64]  # [2 B + 1]; where each solution's tokens begin


def lay_out(pairs: Sequence[Pair], device: torch.device) -> PairLayout:
    """The index arithmetic of a batch."""
    widths = [len(pair.tokens) for pair in pairs]
    offsets = np.concatenate([[0], np.cumsum(widths)])
    width = max(widths)
    gather = np.zeros((len(pairs), width), dtype=np.int64)
    row_positions = np.zeros_like(gather)
    row_segments = np.full_like(gather, 3)
    final_tokens: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    target_starts = [0]
    for row, pair in enumerate(pairs):
        offset, length = int(offsets[row]), widths[row]
        gather[row, :length] = np.arange(offset, offset + length)
        row_positions[row, :length] = pair.positions()
        row_segments[row, :length] = pair.segments()
        for solution in (0, 1):
            final_tokens.append(offset + pair.final_index(solution))
            before = range(pair.prompt - 1, pair.lengths[solution] - 1)
            predictors += [offset + pair.row_index(solution, position) for position in before]
            targets += pair.solution_tokens(solution)
            target_starts.append(len(targets))
    real = row_segments != 3
    unique_predictors, target_predictors = np.unique(np.array(predictors), return_inverse=True)

    def tensor(array: Any) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.int64)).to(device, non_blocking=True)

    return PairLayout(
        tokens=tensor(np.concatenate([pair.tokens for pair in pairs])),
        positions=tensor(row_positions[real]),
        gather=tensor(gather),
        scatter=tensor(np.flatnonzero(real)),
        row_positions=tensor(row_positions),
        row_segments=tensor(row_segments),
        final_tokens=tensor(final_tokens),
        predictors=tensor(unique_predictors),
        targets=tensor(targets),
        target_predictors=tensor(target_predictors),
        target_starts=np.array(target_starts),
    )


def pair_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: PairLayout,
    scaling: float,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each solution of each pair, with Gemma 2's soft-cap and sliding window, softmax in float32.

    The function that transformers calls in every decoder layer; the layout travels in place of the mask.

    Args:
        query: [1, H, T, d]; key and value: [1, K, T, d] with H = K * G.

    Returns:
        [1, T, H, d], as transformers expects it.
    """
    layout = attention_mask
    n_pairs, width = layout.gather.shape
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]

    def side_by_side(states: Tensor) -> Tensor:  # [1, h, T, d] -> [B, h, W, d]
        return states[0][:, layout.gather].transpose(0, 1)

    query, key, value = side_by_side(query), side_by_side(key), side_by_side(value)
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    chunk = max(1, _MAX_SCORES // (n_pairs * heads * width))  # of queries, so that long rows do not fill the memory
    outputs = []
    for start in range(0, width, chunk):
        rows = slice(start, start + chunk)
        scores = (query[:, :, rows] @ key.transpose(2, 3)).float() * scaling  # [B, H, rows, W]
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill(~visible(layout, rows, sliding_window)[:, None], -torch.inf)
        outputs.append(torch.softmax(scores, dim=-1).to(value.dtype) @ value)
    output = torch.cat(outputs, dim=2).transpose(1, 2).flatten(0, 1)  # [B * W, H, d]
    return output[layout.scatter][None], None


def visible(layout: PairLayout, rows: slice, sliding_window: int | None) -> Tensor:
    """Which tokens of its row each query may look at: [B, rows, W], true where it would see them in its own text.

    A query sees what stands before it in the row, but the rest of solution 2 does not see the rest of solution 1, and
    in a layer with a sliding window nobody looks further back than that in the text's own positions. Padding looks at
    the row's first token, so that no softmax is empty; nothing reads it.
    """
    index = torch.arange(layout.gather.shape[1], device=layout.gather.device)
    causal = index[rows, None] >= index
    query_segments, segments = layout.row_segments[:, rows, None], layout.row_segments[:, None]
    query_positions, positions = layout.row_positions[:, rows, None], layout.row_positions[:, None]
    mask = causal & ~((query_segments == 2) & (segments == 1)) & (segments != 3)
    return mask if sliding_window is None else mask & (query_positions - positions < sliding_window)


AttentionInterface.register(ATTENTION, pair_attention)


@dataclass(frozen=True)
class LanguageModel:
    """A loaded Gemma 2."""

    model: Gemma2ForCausalLM

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.inference_mode()
    def forward(self, pairs: Sequence[Pair], layers: Sequence[int]) -> BatchResult:
        """Scores both solutions of every pair and captures their final tokens' residual stream after some layers."""
        layout = lay_out(pairs, self.device)
        with capture_rows(self.model.model.layers, layers, layout.final_tokens) as captured:
            hidden = self.model.model(
                input_ids=layout.tokens[None],
                position_ids=layout.positions[None],
                attention_mask={"full_attention": layout, "sliding_attention": layout},
                use_cache=False,
            ).last_hidden_state[0]  # [T, D], after the final norm
        config = self.model.config
        log_probs = target_log_probs(hidden, self.model.lm_head.weight, layout, config.final_logit_softcapping)
        residuals = torch.stack([captured[layer] for layer in layers])
        finite = torch.isfinite(residuals).all(dim=-1).cpu().numpy()  # [L, 2 B]
        return BatchResult(_scores(log_probs.cpu().numpy(), layout.target_starts, finite, layers), residuals)


@contextmanager
def capture_rows(decoder_layers: nn.ModuleList, layers: Sequence[int], rows: Tensor) -> Iterator[dict[int, Tensor]]:
    """Collects rows of the residual stream that chosen decoder layers return, through forward hooks.

    Args:
        rows: [R] int64 into the tokens; everything else is dropped inside the hook.

    Yields:
        by layer, [R, D], filled by the forward pass that follows.
    """
    captured: dict[int, Tensor] = {}

    def hook_for(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            captured[layer] = output[0].index_select(0, rows)

        return hook

    handles = [decoder_layers[layer].register_forward_hook(hook_for(layer)) for layer in layers]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def target_log_probs(hidden: Tensor, output_weight: Tensor, layout: PairLayout, softcap: float | None) -> Tensor:
    """The log-probability of every solution token, in float32: [N].

    The projection runs only at the positions that predict one, a chunk of the vocabulary at a time.

    Args:
        hidden: [T, D] after the final norm; output_weight: [V, D].
    """
    rows = hidden[layout.predictors].float()  # [P, D]
    log_sum = torch.full((len(rows),), -torch.inf, device=rows.device)
    target_logits = torch.zeros(len(layout.targets), device=rows.device)
    for start in range(0, len(output_weight), _VOCABULARY_CHUNK):
        # Logits in bfloat16 are off by up to 0.06 near 30, so weights are widened chunk by chunk.
        logits = rows @ output_weight[start : start + _VOCABULARY_CHUNK].float().T  # [P, chunk]
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        log_sum = torch.logaddexp(log_sum, logits.logsumexp(dim=1))
        column = layout.targets - start
        inside = (column >= 0) & (column < logits.shape[1])
        values = logits[layout.target_predictors, column.clamp(0, logits.shape[1] - 1)]
        target_logits = torch.where(inside, values, target_logits)
    return target_logits - log_sum[layout.target_predictors]


def _scores(
    log_probs: NDArray[np.float32], starts: NDArray[np.int64], finite: NDArray[np.bool_], layers: Sequence[int]
) -> list[PairScore]:
    sums = [float(np.float32(log_probs[start:end].sum(dtype=np.float64))) for start, end in pairwise(starts)]
    scores = []
    for pair in range(len(sums) // 2):
        bad = ~finite[:, 2 * pair : 2 * pair + 2].all(axis=1)
        failed_layer = layers[int(bad.argmax())] if bad.any() else None
        scores.append(PairScore((sums[2 * pair], sums[2 * pair + 1]), failed_layer))
    return scores


def load_language_model(folder: Path, dtype: torch.dtype, device: torch.device) -> LanguageModel:
    """Loads a Gemma 2 from a folder in Hugging Face format, from safetensors only, without remote code.

    Raises:
        LayerscopeError: the weights are broken, incomplete, or not Gemma 2's.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=ATTENTION,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise LayerscopeError(f"The model in {folder} cannot be loaded: {first_line(error)}") from error
    model, info = loaded
    if not isinstance(model, Gemma2ForCausalLM):
        raise LayerscopeError(f"The model in {folder} is a {type(model).__name__}; layerscope reads Gemma 2.")
    # transformers fills what a file lacks with random numbers, and says so only in a warning.
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if keys := sorted(str(key) for key in info.get(problem, ())):
            raise LayerscopeError(
                f"The weights in {folder} are not whole: {problem.replace('_', ' ')} {', '.join(keys[:3])}"
                f"{' and more' if len(keys) > 3 else ''}. Get the files again."
            )
    return LanguageModel(model.eval().requires_grad_(False).to(device))
