"""Gemma 3: 270m and 1b, which read text, and the half of 4b, 12b and 27b that does; pt and it.

Queries and keys are normed. Five of six layers look back a window only, and turn by another RoPE base; from 4b on the
others' positions are scaled. Nothing is soft-capped. transformers does all that by `config.json`, in which the larger
ones leave out whatever is as in `Gemma3TextConfig`.
"""

from collections.abc import Mapping
from typing import Any

from layerscope.models import gemma2
from layerscope.models.family import ModelFamily, SitePoint, Sizes, Tensors, d_model


def _tensors(sizes: Sizes, tied: bool) -> Tensors:
    as_gemma_2 = gemma2.tensors(sizes, tied)
    head = (sizes["head_dim"],)
    norms = {"self_attn.q_norm.weight": head, "self_attn.k_norm.weight": head}
    return Tensors(as_gemma_2.outer, {**as_gemma_2.of_layer, **norms}, optional=as_gemma_2.optional)


def _unlike(settings: Mapping[str, Any]) -> str:
    return "use_bidirectional_attention" if settings.get("use_bidirectional_attention") else ""


def _model_class() -> Any:
    from transformers import Gemma3ForCausalLM

    return Gemma3ForCausalLM


GEMMA_3 = ModelFamily(
    name="Gemma 3",
    model_types=("gemma3_text", "gemma3"),
    defaults={
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "bos_token_id": 2,
    },
    tensors=_tensors,
    model_class=_model_class,
    # Gemma Scope 2's transcoders were trained on what the MLP gets, gain included.
    sites={**gemma2.SITES, "transcoder": SitePoint("pre_feedforward_layernorm", "output", d_model)},
    attention="softmax in float32",
    # The hub's files, and those of a transformers that writes its own names.
    renamed={r"(language_model\.model|model\.language_model)\.": "model.", r"language_model\.lm_head\.": "lm_head."},
    other_halves=r"(model\.)?(vision_tower|multi_modal_projector)\.",
    text_settings="text_config",
    unlike=_unlike,
)
