"""A family that layerscope does not have, as one would add it: Qwen 3's layers with Gemma's tokeniser."""

from typing import Any

from layerscope.models.family import ModelFamily, SitePoint, Sizes, Tensors, d_heads, d_model


def _tensors(sizes: Sizes, tied: bool) -> Tensors:
    width, inner, heads, head = sizes["hidden_size"], sizes["intermediate_size"], d_heads(sizes), sizes["head_dim"]
    kv_heads, vocabulary = sizes["num_key_value_heads"] * head, (sizes["vocab_size"], width)
    of_layer = {
        "self_attn.q_proj.weight": (heads, width),
        "self_attn.k_proj.weight": (kv_heads, width),
        "self_attn.v_proj.weight": (kv_heads, width),
        "self_attn.o_proj.weight": (width, heads),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    outer = {"model.embed_tokens.weight": vocabulary, "model.norm.weight": (width,), "lm_head.weight": vocabulary}
    return Tensors(outer, of_layer, optional=frozenset({"lm_head.weight"} if tied else ()))


def _model_class() -> Any:
    from transformers import Qwen3ForCausalLM

    return Qwen3ForCausalLM


MADE_UP = ModelFamily(
    name="Made-up",
    model_types=("qwen3",),
    defaults={},
    tensors=_tensors,
    model_class=_model_class,
    sites={
        "resid_post": SitePoint("", "output", d_model, takes="output"),
        "attn_out": SitePoint("self_attn.o_proj", "input", d_heads, takes="projection"),
        "mlp_out": SitePoint("mlp", "output", d_model, takes="output"),  # no norm follows it
        "transcoder": SitePoint("mlp", "input", d_model),
    },
    attention="softmax in float32",
    renamed={},
    other_halves=r"(?!)",
)
