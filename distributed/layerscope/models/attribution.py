"""The gradient of every question's margin by the residual stream: the pass over a batch of pairs, and back through it.

The pass is that of `language_model.py` through transformers' modules, in the same arithmetic; from the first captured
layer on it keeps what the way back needs. Weights are frozen, tokens that solutions share are there once, and nothing
is read twice but attention's scores and the gate of the MLP, which are larger than what makes them.

Shapes: B pairs, T tokens of a batch, P positions that predict a solution token, N solution tokens, V vocabulary,
L captured layers, R captured rows, D d_model, or the width of whatever is captured, O where the gradient is taken.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerscope.config import AttributionRule, Site
from layerscope.models.attention_gradient import WITH_GRADIENT
from layerscope.models.family import SitePoint
from layerscope.models.language_model import (
    RESIDUAL,
    VOCABULARY_CHUNK,
    LanguageModel,
    PairScore,
    capped,
    log_sum_exp,
    logits_at,
    pair_scores,
)
from layerscope.models.norm_gradient import lean_norms
from layerscope.models.pair_attention import PairLayout, attention_by, lay_out, pair_masks
from layerscope.models.relevance import relevance_rules
from layerscope.models.sites import capture_rows, stacked
from layerscope.numerics.matrix_products import linear, product
from layerscope.questions.pairs import Pair


class MarginGradients(NamedTuple):
    """What a pass and its way back give."""

    scores: list[PairScore]  # B
    residuals: Tensor  # [L, R, D] in the model's dtype, on the CPU; the rows of a pair's tokens follow one another
    gradients: Tensor  # [L, R, O] of the margin by what one of the sites has of these


def differentiate(
    model: LanguageModel,
    pairs: Sequence[Pair],
    positives: Sequence[int],
    negative: Callable[[Sequence[float], int], int],
    layers: Sequence[int],
    places: Sequence[Sequence[int]],
    rule: AttributionRule,
    sites: Sequence[Site] = RESIDUAL,
    by: Site | None = None,
) -> MarginGradients:
    """Scores the solutions of every pair, and leads log-likelihood(positive) - log-likelihood(negative) back to a site.

    Args:
        positives: of every pair, the number of its right solution.
        negative: from the log-likelihoods and that number to the number of the solution that it is weighed against.
        places: of every pair, which tokens of its row.
        sites: where in the layers rows are taken, one behind the other.
        by: at which of them gradients; by default at the first.
    """
    by = by or sites[0]
    layout = lay_out(pairs, model.transfers, places, share=False)
    with model.turn:
        hidden, states, others = _forward(model, layout, layers, rule, sites, by)
        with torch.no_grad():
            output = Output.of(hidden.detach(), model, layout)
            here = (of_layer[0].index_select(0, layout.read_tokens) for of_layer in states)
            captured = {by: dict(zip(layers, here, strict=True)), **others}
            read = stacked([captured[site] for site in sites], layers)
            finite = torch.isfinite(read).all(dim=-1)  # [L, R]
            read, finite, log_probs = model.transfers.download(read, finite, output.log_probs()).wait()
            scores = pair_scores(log_probs.numpy(), layout, finite.numpy(), layers)
            sides = [(of.log_likelihoods, positive) for of, positive in zip(scores, positives, strict=True)]
            signs = [_signs(len(of), positive, negative(of, positive)) for of, positive in sides]
            sign = np.repeat(np.concatenate(signs), np.diff(layout.target_starts))
            by_hidden = output.gradient(model.transfers.upload(sign, np.float32))
        by_states = torch.autograd.grad(hidden, states, by_hidden)
        with torch.no_grad():
            by_read = torch.stack([of_layer[0].index_select(0, layout.read_tokens) for of_layer in by_states])
            download = model.transfers.download(by_read)
    return MarginGradients(scores, read, download.wait()[0])


def _forward(
    model: LanguageModel,
    layout: PairLayout,
    layers: Sequence[int],
    rule: AttributionRule,
    sites: Sequence[Site],
    by: Site,
) -> tuple[Tensor, list[Tensor], dict[Site, dict[int, Tensor]]]:
    """[T, D] after the final norm, and [1, T, O] of each chosen layer at one site, with the way back between.

    Also, of each of the other sites, the rows that are read of each layer.
    """
    config, body = model.model.config, model.model.model
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(attention_by(config, WITH_GRADIENT))
        stack.enter_context(relevance_rules(body) if rule == "relp" else lean_norms(body))
        captured = stack.enter_context(_captured(body.layers, layers, model.family.site(by)))
        others = {
            site: stack.enter_context(capture_rows(body.layers, layers, model.family.site(site), layout.read_tokens))
            for site in sites
            if site != by
        }
        hidden = body(
            input_ids=layout.tokens[None],
            position_ids=layout.positions[None],
            attention_mask=pair_masks(layout, config.sliding_window),
            use_cache=False,
        ).last_hidden_state[0]
    return hidden, [captured[layer] for layer in layers], others


@contextmanager
def _captured(decoder_layers: nn.ModuleList, layers: Sequence[int], point: SitePoint) -> Iterator[dict[int, Tensor]]:
    """What chosen layers have at a site, [1, T, D] each; nothing below the first of them takes part in the gradient."""
    captured: dict[int, Tensor] = {}

    def keep(layer: int, states: Tensor) -> Tensor:
        captured[layer] = states.detach().requires_grad_() if layer == min(layers) else states
        return captured[layer]

    def before(layer: int) -> Any:
        return lambda _module, inputs: (keep(layer, inputs[0]), *inputs[1:])

    def behind(layer: int) -> Any:
        return lambda _module, _inputs, output: keep(layer, output)

    with ExitStack() as stack:
        for layer in layers:
            module = decoder_layers[layer].get_submodule(point.module)
            handle = (
                module.register_forward_pre_hook(before(layer))
                if point.side == "input"
                else module.register_forward_hook(behind(layer))
            )
            stack.callback(handle.remove)
        yield captured


def _signs(n_solutions: int, positive: int, negative: int) -> NDArray[np.float32]:
    """Of every solution: 1 for the positive one, -1 for the negative one, 0 for any other."""
    signs = np.zeros(n_solutions, np.float32)
    signs[positive], signs[negative] = 1, -1
    return signs


class Output(NamedTuple):
    """What the positions that predict a solution token come to.

    Of a position from which several solutions go on, the softmaxes are one and cancel out, and of the targets what
    differs is left; so only positions of one solution take the products with the vocabulary once more.
    """

    hidden: Tensor  # [T, D] after the final norm
    weight: Tensor  # [V, D]
    layout: PairLayout
    softcap: float | None
    log_sums: Tensor  # [P] float32
    logits: Tensor  # [N] float32; of the targets, after the soft-cap

    @classmethod
    def of(cls, hidden: Tensor, model: LanguageModel, layout: PairLayout) -> "Output":
        """In the arithmetic of a plain pass."""
        weight, softcap = model.model.lm_head.weight, model.softcap
        rows = hidden[layout.predictors]  # [P, D]
        log_sums = log_sum_exp(rows, weight, softcap)
        logits = logits_at(rows, weight, layout.target_predictors, layout.targets, softcap)
        return cls(hidden, weight, layout, softcap, log_sums, logits)

    def log_probs(self) -> Tensor:
        """Of every solution token: [N] float32."""
        return self.logits - self.log_sums[self.layout.target_predictors]

    def gradient(self, sign: Tensor) -> Tensor:
        """Of the signed sum of log-probabilities by `hidden`: [T, D] in its format.

        Args:
            sign: [N] float32.
        """
        predictor = self.layout.target_predictors
        by_rows = torch.zeros((len(self.log_sums), self.hidden.shape[1]), dtype=self.log_sums.dtype, device=sign.device)
        # At most two of those that a position predicts are not 0, so that on a GPU too their order does not matter.
        by_logits = sign * _slope(self.logits, self.softcap)
        by_rows.index_add_(0, predictor, by_logits[:, None] * self.weight[self.layout.targets].float())
        net = torch.zeros_like(self.log_sums).index_add_(0, predictor, sign.to(self.log_sums.dtype))
        live = torch.nonzero(net)[:, 0]
        if len(live):
            rows = self.hidden[self.layout.predictors[live]]
            expected = _expected_weights(rows, self.weight, self.log_sums[live], self.softcap)
            by_rows[live] -= net[live, None] * expected
        by_hidden = torch.zeros_like(self.hidden)
        by_hidden[self.layout.predictors] = by_rows.to(self.hidden.dtype)
        return by_hidden


def _expected_weights(rows: Tensor, output_weight: Tensor, log_sums: Tensor, softcap: float | None) -> Tensor:
    """The gradient of `log_sums` by the rows: [P, D] float32, the vocabulary taken in chunks."""
    expected = torch.zeros(rows.shape, dtype=log_sums.dtype, device=rows.device)
    for weight in torch.split(output_weight, VOCABULARY_CHUNK):
        logits = capped(linear(rows, weight).float(), softcap)  # [P, chunk]
        by_product = torch.exp(logits - log_sums[:, None]) * _slope(logits, softcap)
        expected += product(by_product.to(weight.dtype), weight).float()
    return expected


def _slope(logits: Tensor, softcap: float | None) -> Tensor:
    """The derivative of the soft-cap where it gave these logits."""
    return torch.ones_like(logits) if softcap is None else 1 - (logits / softcap) ** 2
