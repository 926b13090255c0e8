"""Tiny random models of every family, as transformers itself writes them, with the tokeniser of the stand-ins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WINDOW = 8
_CONTROL = ("<start_of_image>", "<end_of_image>", "<image_soft_token>", "[multimodal]")  # of Gemma 3's vocabulary
_SIZES: dict[str, Any] = {
    "vocab_size": 1400,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,  # heads of 32 beside a residual stream of 24: no site can pass for another
    "sliding_window": WINDOW,
    "max_position_embeddings": 4096,
    "query_pre_attn_scalar": 13,  # not the heads' width, as 27B's is not
}
# Local, global, local; with the two RoPE bases and the scaling of 4b on.
_GEMMA_3 = {**_SIZES, "sliding_window_pattern": 2, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def _gemma_2() -> Any:
    return Gemma2ForCausalLM(Gemma2Config(**_SIZES))


def _gemma_3() -> Any:
    return Gemma3ForCausalLM(Gemma3TextConfig(**_GEMMA_3))


def _gemma_3_with_vision() -> Any:
    config = Gemma3Config(text_config=_GEMMA_3, vision_config=_VISION, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


def _made_up() -> Any:
    sizes = {name: value for name, value in _SIZES.items() if not name.startswith(("sliding", "query"))}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, bos_token_id=2, tie_word_embeddings=False))


MODELS: dict[str, Callable[[], Any]] = {
    "gemma2": _gemma_2,
    "gemma3_text": _gemma_3,
    "gemma3": _gemma_3_with_vision,
    "made-up": _made_up,
}


def save_tiny(kind: str, folder: Path, tokenizer: Path, seed: int = 0, **saving: Any) -> Any:
    """Writes a model of a kind with random weights and norms, and gives it, with transformers' own attention.

    Args:
        tokenizer: a `tokenizer.json`.
        saving: more of `save_pretrained`.
    """
    torch.manual_seed(seed)
    model = MODELS[kind]()
    model.set_attn_implementation("eager")
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "norm" in name or parameter.dim() == 1 else 0.15)
    model.save_pretrained(folder, **saving)
    vocabulary = Tokenizer.from_file(str(tokenizer))
    if kind.startswith("gemma3"):
        vocabulary.add_tokens([AddedToken(name, normalized=False) for name in _CONTROL])
    vocabulary.save(str(folder / "tokenizer.json"))
    return model.eval()
