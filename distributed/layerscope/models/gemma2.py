"""Gemma 2: 2B, 9B and 27B, pt and it. Soft-caps, and a sliding window in every second layer.

9B's query scalar is 256 and 27B's 144, which is not their heads' width; the square root by which 9B's embeddings are
multiplied is rounded to the format of the weights: transformers does both by `config.json`.
"""

from typing import Any

from layerscope.config import Site
from layerscope.models.family import ModelFamily, Shape, SitePoint, Sizes, Tensors, d_heads, d_model

OUTPUT = "lm_head.weight"
NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


def tensors(sizes: Sizes, tied: bool) -> Tensors:
    """The tensors of a Gemma of `sizes`.

    Args:
        tied: the output projection is the embedding; files may hold it twice.
    """
    width, inner, heads = sizes["hidden_size"], sizes["intermediate_size"], d_heads(sizes)
    kv_heads = sizes["num_key_value_heads"] * sizes["head_dim"]
    vocabulary = (sizes["vocab_size"], width)
    of_layer: dict[str, Shape] = {
        "self_attn.q_proj.weight": (heads, width),
        "self_attn.k_proj.weight": (kv_heads, width),
        "self_attn.v_proj.weight": (kv_heads, width),
        "self_attn.o_proj.weight": (width, heads),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        **{f"{norm}.weight": (width,) for norm in NORMS},
    }
    outer = {"model.embed_tokens.weight": vocabulary, "model.norm.weight": (width,), OUTPUT: vocabulary}
    return Tensors(outer, of_layer, optional=frozenset({OUTPUT} if tied else ()))


def _normed_without_gain(norm: Any, rows: Any) -> Any:
    """Rows [R, D] divided by their root mean square, in float32 and rounded once, as the norm itself does."""
    return norm._norm(rows.float()).type_as(rows)


SITES: dict[Site, SitePoint] = {
    "resid_post": SitePoint("", "output", d_model, takes="output"),
    "attn_out": SitePoint("self_attn.o_proj", "input", d_heads, takes="projection"),
    "mlp_out": SitePoint("post_feedforward_layernorm", "output", d_model, takes="output"),
}
_TRANSCODER = SitePoint("pre_feedforward_layernorm", "input", d_model, _normed_without_gain)


def _model_class() -> Any:
    from transformers import Gemma2ForCausalLM

    return Gemma2ForCausalLM


def _decoder(model: Any) -> Any:
    from layerscope.models.fused_decoder import FusedDecoder  # Triton comes with torch for GPUs alone

    return FusedDecoder(model)


GEMMA_2 = ModelFamily(
    name="Gemma 2",
    model_types=("gemma2",),
    defaults={},
    tensors=tensors,
    model_class=_model_class,
    sites={**SITES, "transcoder": _TRANSCODER},
    attention="soft-capped, softmax in float32",
    renamed={},
    other_halves=r"(?!)",
    decoder=_decoder,
)
