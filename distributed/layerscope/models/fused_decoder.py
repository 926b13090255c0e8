"""Gemma 2's decoder layers on a GPU: the same weights as transformers' modules, with `kernels` between the products.

Shapes: T tokens, D d_model, L captured layers, R captured rows, H heads, K key-value heads, d their width, I width of
the MLP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Gemma2ForCausalLM

from layerscope.config import Site
from layerscope.models.pair_attention import PairLayout
from layerscope.models.sites import stacked
from layerscope.numerics import attention_kernel, kernels


@dataclass(frozen=True)
class _Layer:
    """The weights of a decoder layer, as its products take them."""

    attention_in: Tensor  # [(H + 2 K) d, D]
    attention_out: Tensor  # [D, H d]
    mlp_in: Tensor  # [2 I, D]
    mlp_out: Tensor  # [D, I]
    scales: list[Tensor]  # 4 of [D] float32, of the norms in their order
    window: int | None


class FusedDecoder:
    """The decoder layers of a model on a GPU, whose weights it rearranges; the model's own modules keep working."""

    def __init__(self, model: Gemma2ForCausalLM) -> None:
        config, body = model.config, model.model
        self._body = body
        self._epsilon = config.rms_norm_eps
        self._heads = (config.num_attention_heads, config.num_key_value_heads)
        self._scaling = config.query_pre_attn_scalar**-0.5
        self._softcap = config.attn_logit_softcapping
        self._layers = [_layer(layer) for layer in body.layers]
        self._last_scale = _scale(body.norm)
        self._no_gain = torch.ones_like(self._last_scale)

    def forward(
        self, layout: PairLayout, layers: Sequence[int], rows: Tensor, sites: Sequence[Site] = ("resid_post",)
    ) -> tuple[Tensor, Tensor]:
        """Reads a batch.

        Args:
            rows: [R] int64 into the tokens, of which `layers` are wanted.

        Returns:
            [T, D] after the final norm, and [L, R, D] of the sites one behind the other, in the model's format.
        """
        texts = self._texts(layout)
        stream = self._body.embed_tokens(layout.tokens)  # [T, D]
        normed = kernels.norm(stream, self._layers[0].scales[0], self._epsilon)
        next_scales = [layer.scales[0] for layer in self._layers[1:]] + [self._last_scale]
        captured: dict[Site, dict[int, Tensor]] = {site: {} for site in sites}
        for number, (layer, next_scale) in enumerate(zip(self._layers, next_scales, strict=True)):
            _, after_attention, before_mlp, after_mlp = layer.scales
            projected = nn.functional.linear(normed, layer.attention_in)
            seen = attention_kernel.attention(projected, texts, self._heads, self._scaling, self._softcap, layer.window)
            if number in layers and "attn_out" in captured:
                captured["attn_out"][number] = seen.index_select(0, rows)
            branch = nn.functional.linear(seen, layer.attention_out)
            normed = kernels.add_norm(stream, branch, after_attention, before_mlp, self._epsilon)
            if number in layers and "transcoder" in captured:
                captured["transcoder"][number] = kernels.norm(
                    stream.index_select(0, rows), self._no_gain, self._epsilon
                )
            gated = kernels.gelu_product(nn.functional.linear(normed, layer.mlp_in))
            branch = nn.functional.linear(gated, layer.mlp_out)
            if number in layers and "mlp_out" in captured:
                captured["mlp_out"][number] = kernels.norm(branch.index_select(0, rows), after_mlp, self._epsilon)
            normed = kernels.add_norm(stream, branch, after_mlp, next_scale, self._epsilon)
            if number in layers and "resid_post" in captured:
                captured["resid_post"][number] = stream.index_select(0, rows)
        return normed, stacked(list(captured.values()), layers)

    def _texts(self, layout: PairLayout) -> attention_kernel.Texts:
        angles = layout.positions[:, None].float() * self._body.rotary_emb.inv_freq  # [T, d / 2]
        scaling = self._body.rotary_emb.attention_scaling
        return attention_kernel.Texts(
            layout.positions.int(),
            layout.common,
            layout.row_starts,
            layout.segments,
            angles.cos() * scaling,
            angles.sin() * scaling,
        )


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = (
        layer.input_layernorm,
        layer.post_attention_layernorm,
        layer.pre_feedforward_layernorm,
        layer.post_feedforward_layernorm,
    )
    return _Layer(
        _joined(attention.q_proj, attention.k_proj, attention.v_proj),
        attention.o_proj.weight.detach(),
        _joined(mlp.gate_proj, mlp.up_proj),
        mlp.down_proj.weight.detach(),
        [_scale(norm) for norm in norms],
        attention.sliding_window,
    )


def _joined(*linears: nn.Linear) -> Tensor:
    """The weights of several layers as one, in which each layer's own now lies: no second copy stays."""
    joined = torch.cat([linear.weight.detach() for linear in linears])
    pieces = joined.split([linear.out_features for linear in linears])
    for linear, piece in zip(linears, pieces, strict=True):
        linear.weight.data = piece
    return joined


def _scale(norm: Any) -> Tensor:
    scale: Tensor = 1.0 + norm.weight.detach().float()
    return scale
