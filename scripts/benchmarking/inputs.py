"""What is measured: a model, SAEs, a tokeniser and questions of a given shape, made on the spot from a seed."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from layerscope.models.loading import load_language_model
from layerscope.questions.opening import Wanted
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.prompts import PROMPT
from layerscope.questions.selection import select_questions
from layerscope.questions.sources import Question
from layerscope.standin.build import Family, make_tokenizer, save_model

_BLOCK = (1 << 24) - 7  # random numbers that fill the weights again and again, shifted, because drawing takes longer
_EXTRA_TOKENS = 1024  # room for the bytes and control tokens that a tokeniser has beside what it learns
_DONE = "made-with-decoders"
_CALIBRATION = 16  # questions from which the SAEs' thresholds are set


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its SAEs."""

    name: str
    n_layers: int
    d_model: int
    d_mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    d_sae: int = 16384
    l0: int = 100
    """Average number of features that fire."""
    family: Family = "gemma2"
    window: int = 4096
    """How many tokens its layers with a sliding window look back."""

    @property
    def body_parameters(self) -> int:
        """Elements of the weights that every token is multiplied with."""
        attention = 2 * self.d_model * self.head_dim * (self.heads + self.kv_heads)
        return self.n_layers * (attention + 3 * self.d_model * self.d_mlp)

    @property
    def parameters(self) -> int:
        return self.body_parameters + self.vocabulary * self.d_model


SHAPES = {
    "tiny": Shape("tiny", 2, 64, 256, 2, 1, 32, 4096, 512, 20),  # for a test of the benchmark itself
    "small": Shape("small", 8, 512, 2048, 4, 2, 128, 32_000),
    "full": Shape("full", 26, 2304, 9216, 8, 4, 256, 256_000),  # Gemma-2-2B and Gemma Scope's SAEs of width 16k
    "gemma3-1b": Shape("gemma3-1b", 26, 1152, 6912, 4, 1, 256, 262_144, family="gemma3", window=512),
}
_CLASSES: dict[Family, Any] = {
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}


def make(shape: Shape, dataset: Path, folder: Path, device: str = "cpu") -> None:
    """Writes `folder/model` and `folder/saes` in their public layouts, if they are not there; drawn on a device."""
    if (folder / _DONE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    questions, _ = select_questions(Wanted(str(dataset)))
    texts = [f"{PROMPT.format(goal=q.goal)} {solution}" for q in questions for solution in (q.sol1, q.sol2)]
    # Learned from the questions, so about as many tokens as Gemma's: 49 and 70 a pair of PIQA, against 48 and 70.
    tokenizer = make_tokenizer(sorted(set(texts)), min(16384, shape.vocabulary - _EXTRA_TOKENS))
    save_model(make_model(shape, device), tokenizer, folder / "model")
    _make_saes(shape, [question for question, _ in zip(questions, range(_CALIBRATION), strict=False)], folder, device)
    (folder / _DONE).touch()


def make_more_saes(shape: Shape, folder: Path) -> None:
    """Writes `folder/more-saes`, if they are not there: the encoders of `folder/saes`, which fire as often, with every
    feature under another id; so they are other files, of which nothing lies in memory twice."""
    if (folder / "more-saes" / _DONE).exists():
        return
    for layer in range(shape.n_layers):
        path = folder / "more-saes" / _sae_path(shape, layer)
        path.parent.mkdir(parents=True, exist_ok=True)
        with np.load(folder / "saes" / _sae_path(shape, layer)) as arrays:
            np.savez(path, **{name: np.roll(arrays[name], 1, axis=-1) for name in ("W_enc", "b_enc", "threshold")})
    (folder / "more-saes" / _DONE).touch()


def write_four_choices(dataset: Path, count: int, path: Path) -> None:
    """Questions of a file with the solutions of two others beside their own, as JSON lines."""
    questions = list(select_questions(Wanted(str(dataset)), count)[0])
    rows = []
    for number, question in enumerate(questions):
        choices = [*question.solutions[:2]]
        for other in [*questions[number + 1 :], *questions[:number]]:
            if len(choices) == 4:
                break
            choices += [text for text in other.solutions[:2] if text not in choices][:1]
        rows.append({"question": question.goal, "choices": choices, "answer": question.label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_model(shape: Shape, device: str) -> Gemma2ForCausalLM | Gemma3ForCausalLM:
    """A Gemma with random weights in bfloat16."""
    config_class, model_class = _CLASSES[shape.family]
    config = config_class(
        vocab_size=shape.vocabulary,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        query_pre_attn_scalar=shape.head_dim,
        sliding_window=shape.window,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.device("meta"):
        model = model_class(config).to(torch.bfloat16)
    model.to_empty(device=device).tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)  # its numbers are computed, not drawn
    model.model.embed_tokens.embed_scale = torch.tensor(shape.d_model**0.5, device=device)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(_BLOCK + 64, dtype=np.float32)).to(device)
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        flat = parameter.data.view(-1)
        if parameter.dim() == 2:
            scaled = (noise * parameter.shape[1] ** -0.5).to(parameter.dtype)
            for start in range(0, len(flat), _BLOCK):
                piece = flat[start : start + _BLOCK]
                piece.copy_(scaled[number % 64 : number % 64 + len(piece)])
        elif name.endswith("norm.weight"):
            flat.zero_()  # Gemma's norms multiply by 1 + weight
    return model


@torch.inference_mode()
def _make_saes(shape: Shape, questions: list[Question], folder: Path, device: str) -> None:
    """Random JumpReLU SAEs with one threshold under which `l0` features fire on average."""
    model = load_language_model(folder / "model", torch.bfloat16, torch.device(device))
    tokenizer = PairTokenizer(folder / "model" / "tokenizer.json", 8192)
    pairs = [pair for pair in tokenizer.pairs(questions) if isinstance(pair, Pair)]
    residuals = model.forward(pairs, range(shape.n_layers)).residuals.float()
    dice = torch.Generator(device).manual_seed(1)
    with ThreadPoolExecutor() as writers:
        for layer, states in enumerate(residuals):
            path = folder / "saes" / _sae_path(shape, layer)
            path.parent.mkdir(parents=True)
            writers.submit(np.savez, path, **_sae(shape, states, dice, device))


def _sae_path(shape: Shape, layer: int) -> Path:
    return Path(f"layer_{layer}") / "width_16k" / f"average_l0_{shape.l0}" / "params.npz"


def _sae(shape: Shape, states: torch.Tensor, dice: torch.Generator, device: str) -> dict[str, np.ndarray]:
    """The arrays of one SAE, set by the residual stream [R, D] of some questions."""
    w_enc = torch.randn(shape.d_model, shape.d_sae, generator=dice, device=device) * shape.d_model**-0.5
    b_enc = torch.randn(shape.d_sae, generator=dice, device=device) * 0.1
    pre = (states.to(device) @ w_enc + b_enc).flatten()
    threshold = float(pre.topk(shape.l0 * len(states) + 1).values[-1])
    arrays = {
        "W_enc": w_enc,
        "b_enc": b_enc,
        "threshold": torch.full((shape.d_sae,), threshold),
        "W_dec": torch.nn.functional.normalize(w_enc.T, dim=1).contiguous(),  # as untrained decoders are tied
        "b_dec": torch.zeros(shape.d_model),
    }
    return {name: array.cpu().numpy() for name, array in arrays.items()}
