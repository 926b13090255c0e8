"""The settings of published models as their `config.json` has them, and folders with everything of one but weights."""

import json
from pathlib import Path
from typing import Any

from layerscope.models.families import family_of

_GEMMA_2: dict[str, Any] = {
    "model_type": "gemma2",
    "vocab_size": 256_000,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "bos_token_id": 2,
}
_SCALED = {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024, "model_type": "gemma3_text"}


def _gemma_2(d_model: int, d_ff: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": d_model, "intermediate_size": d_ff, "num_hidden_layers": layers}
    return {**_GEMMA_2, **sizes, "num_attention_heads": heads, "num_key_value_heads": kv_heads, **more}


def _gemma_3_text(d_model: int, d_ff: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "gemma3_text",
        "vocab_size": 262_144,
        "hidden_size": d_model,
        "intermediate_size": d_ff,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "max_position_embeddings": 32_768,
        "sliding_window": 512,
        "bos_token_id": 2,
    }


def _gemma_3(**text: Any) -> dict[str, Any]:
    """Of those that see: what is as in transformers' own class they leave out."""
    return {"model_type": "gemma3", "text_config": {**_SCALED, **text}, "vision_config": {"hidden_size": 1152}}


CONFIGS: dict[str, dict[str, Any]] = {
    "gemma-2-2b": _gemma_2(2304, 9216, 26, 8, 4),
    "gemma-2-9b": _gemma_2(3584, 14_336, 42, 16, 8),
    "gemma-2-27b": _gemma_2(4608, 36_864, 46, 32, 16, head_dim=128, query_pre_attn_scalar=144),
    "gemma-3-270m": _gemma_3_text(640, 2048, 18),
    "gemma-3-1b-pt": _gemma_3_text(1152, 6912, 26),
    "gemma-3-4b-pt": _gemma_3(hidden_size=2560, intermediate_size=10_240, num_hidden_layers=34),
    "gemma-3-12b-pt": _gemma_3(
        hidden_size=3840,
        intermediate_size=15_360,
        num_hidden_layers=48,
        num_attention_heads=16,
        num_key_value_heads=8,
    ),
    "gemma-3-27b-pt": _gemma_3(
        hidden_size=5376,
        intermediate_size=21_504,
        num_hidden_layers=62,
        num_attention_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        query_pre_attn_scalar=168,
    ),
}


def published(name: str, folder: Path, tokenizer: bytes = b"{}") -> Path:
    """A folder as the hub has a model, in two files of weights that hold nothing."""
    config = CONFIGS[name]
    family = family_of(config, name)
    settings = family.settings(config)
    sizes = {key: value for key, value in settings.items() if isinstance(value, int)}
    tensors = family.tensors(sizes, True)
    names = [each for each in tensors.outer if each not in tensors.optional]
    names += [
        f"model.layers.{layer}.{each}" for layer in range(sizes["num_hidden_layers"]) for each in tensors.of_layer
    ]
    if config["model_type"] == "gemma3":
        names = [f"language_{each.replace('model.', 'model.model.', 1)}" for each in names] + ["vision_tower.a.weight"]
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    folder.mkdir()
    for file in shards:
        (folder / file).write_bytes(b"")
    index = {"weight_map": {each: shards[number % 2] for number, each in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return folder
