"""Makes a random stand-in of any size from a seed, for tests and measurements; its numbers mean nothing.

`python -m layerscope.standin.build FOLDER` makes one with SAEs as wide as Gemma Scope's; `--family`, `--suite` and
`--site` make others, in the layout that the hub has them in. The stand-in that layerscope ships is one of these in
layout and beginning, which `scripts/train_standin.py` then trains.

Shapes: T tokens, D d_model, F d_sae.
"""

import argparse
import json
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from layerscope.config import Site
from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import user_path
from layerscope.models.families import family_of
from layerscope.models.lean_import import import_transformers
from layerscope.models.sites import capture_rows
from layerscope.questions.prompts import PROMPT
from layerscope.standin.layouts import SaeFiles, Suite, add_vision, save_sae

_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")  # Gemma's ids 0 to 3
Family = Literal["gemma2", "gemma3"]
SUITES: dict[Family, Suite] = {"gemma2": "gemma-scope", "gemma3": "gemma-scope-2"}
"""Which suite was made for which family."""
_LEAST_D_SAE = 256
_CONTROL = ("<mask>", "<unused0>", "<unused1>", "<start_of_turn>", "<end_of_turn>")
_TEXT_TOKENS = ("\n\n", "▁▁", "▁▁▁▁", "<table>")  # added tokens that are text, as Gemma's vocabulary has them
_QUESTIONS = Path(__file__).parent / "questions.jsonl"


@dataclass(frozen=True)
class StandinSpec:
    """The sizes of a stand-in."""

    seed: int = 0
    n_layers: int = 6
    d_model: int = 64
    vocabulary: int = 2048
    sliding_window: int = 32
    context: int = 8192
    width: str = "16k"
    d_sae: int = 16384
    l0s: tuple[tuple[int, ...], ...] = ((21, 105), (18, 141), (35, 71), (24, 84), (78, 160), (39, 116))
    """Average L0s of each layer's SAEs; of a Gemma 3 at most three, small, medium and big."""
    family: Family = "gemma2"
    site: Site = "resid_post"
    suite: Suite | None = None
    """In whose layout the SAEs are; None is that of the family."""
    affine: bool = False
    """Of transcoders: with an affine connection beside their features."""
    vision: bool = False
    """Of a Gemma 3: the layout of those that see pictures as well, with the text's half whole."""


def build(spec: StandinSpec, folder: Path) -> None:
    """Writes `folder/model` in Hugging Face format and `folder/saes` in Gemma Scope's layout; all or nothing.

    Raises:
        UsageError: the folder is there and not empty, or cannot be made.
    """
    temporary = _new_folder_for(folder)
    try:
        texts = _texts()
        tokenizer = make_tokenizer(texts, spec.vocabulary)
        model = make_model(spec, tokenizer.get_vocab_size())
        save_model(model, tokenizer, temporary / "model")
        if spec.vision:
            add_vision(temporary / "model")
        # A thousand tokens are enough for the SAEs: those of every seventh text, of one solution and the other in turn.
        make_saes(spec, residual_stream(model, tokenizer, texts[::7], spec.site), temporary / "saes")
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone where all went well


def _new_folder_for(folder: Path) -> Path:
    """A new folder beside one that is to be made, once it is sure that it can take its place."""
    try:
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise UsageError(f"{folder} is there already, and is no empty folder. Name a new one.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".standin-{secrets.token_hex(8)}.tmp")
        temporary.mkdir()
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror or error}. Name another one.") from error
    return temporary


def save_model(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a model and its tokeniser in Hugging Face format."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG, indent=2))
    model.save_pretrained(folder)


_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "clean_up_tokenization_spaces": False,
}


def make_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """A byte-fallback BPE like Gemma's: blanks written as `▁`, unknown characters as bytes, BOS first."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    words = pre_tokenizers.Split("▁", "merged_with_next")
    learner.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Punctuation("isolated")])
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False, min_frequency=2))
    learned = json.loads(learner.to_str())["model"]
    names = [*_SPECIAL, *_CONTROL, *_TEXT_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    names += [token for token in sorted(learned["vocab"], key=learned["vocab"].get) if token not in names]
    merges = [tuple(merge) for merge in learned["merges"]]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in _SPECIAL])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in (*_CONTROL, *_TEXT_TOKENS)])
    return tokenizer


def make_model(spec: StandinSpec, vocabulary: int) -> Any:
    """A Gemma with random weights under which every layer adds a vector of about unit size to the residual stream."""
    import_transformers()
    from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

    classes = {"gemma2": (Gemma2Config, Gemma2ForCausalLM), "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM)}
    config_class, model_class = classes[spec.family]
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=spec.d_model,
        intermediate_size=4 * spec.d_model,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=spec.d_model // 4,
        query_pre_attn_scalar=spec.d_model // 4,
        sliding_window=spec.sliding_window,
        max_position_embeddings=spec.context,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    model = model_class(config)
    generator = torch.Generator().manual_seed(spec.seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() == 2:  # [out, in]; the embedding is scaled by sqrt(D) in the model
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
        elif name.endswith("norm.weight"):
            nn.init.zeros_(parameter)  # Gemma's norms multiply by 1 + weight
    model.eval()
    return model


@torch.inference_mode()
def residual_stream(model: Any, tokenizer: Tokenizer, texts: list[str], site: Site = "resid_post") -> list[Tensor]:
    """The residual stream after every layer, or another site of it, at every token but BOS: by layer, [T, D]."""
    layers = range(len(model.model.layers))
    point = family_of({"model_type": model.config.model_type}, "the stand-in").site(site)
    collected: list[list[Tensor]] = [[] for _ in layers]
    for text in texts:
        tokens = torch.tensor([tokenizer.encode(text).ids])
        with capture_rows(model.model.layers, layers, point, torch.arange(1, tokens.shape[1])) as captured:
            model.model(input_ids=tokens, use_cache=False)
        for layer, seen in enumerate(collected):
            seen.append(captured[layer])
    return [torch.cat(seen) for seen in collected]


def make_saes(spec: StandinSpec, residuals: list[Tensor], folder: Path) -> None:
    """Random JumpReLU SAEs whose thresholds let about as many features fire as the folder's name says."""
    generator = torch.Generator().manual_seed(spec.seed + 1)
    for layer, (states, l0s) in enumerate(zip(residuals, spec.l0s, strict=True)):
        width = states.shape[1]
        for number, l0 in enumerate(l0s):
            w_enc = torch.randn(width, spec.d_sae, generator=generator) * width**-0.5
            b_enc = torch.randn(spec.d_sae, generator=generator) * 0.1
            pre = states[:: 1 + len(states) // 1024] @ w_enc + b_enc  # [T, F]
            mean, deviation = pre.mean(dim=0), pre.std(dim=0)
            scores = ((pre - mean) / deviation).flatten()[::16]
            share_active = l0 / spec.d_sae
            threshold = mean + deviation * scores.kthvalue(round(len(scores) * (1 - share_active))).values
            arrays = {
                "W_enc": w_enc,
                "W_dec": w_enc.T.contiguous(),
                "b_enc": b_enc,
                "b_dec": torch.zeros(width),
                "threshold": threshold.clamp(min=1e-3),
            }
            if spec.affine:
                arrays["affine_skip_connection"] = torch.randn(width, width, generator=generator) * width**-0.5
            files = SaeFiles(spec.family, spec.site, layer, spec.width, number, l0, arrays)
            save_sae(spec.suite or SUITES[spec.family], files, folder)


def _texts() -> list[str]:
    rows = [json.loads(line) for line in _QUESTIONS.read_text(encoding="utf-8").splitlines()]
    return [f"{PROMPT.format(goal=row['goal'])} {row[name]}" for row in rows for name in ("sol1", "sol2")]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: `python -m layerscope.standin.build FOLDER`."""
    parser = argparse.ArgumentParser(prog="python -m layerscope.standin.build", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", metavar="FOLDER", help="where model/ and saes/ go; made, and to be new or empty")
    parser.add_argument("--family", choices=get_args(Family), default="gemma2", help="of the model")
    parser.add_argument("--suite", choices=get_args(Suite), help="of the SAEs; that of the family by default")
    parser.add_argument("--site", choices=get_args(Site), default="resid_post", help="where in a layer the SAEs read")
    parser.add_argument("--affine", action="store_true", help="give transcoders an affine connection as well")
    parser.add_argument("--vision", action="store_true", help="lay a gemma3 out as those that see pictures as well")
    parser.add_argument("--layers", type=int, default=StandinSpec.n_layers, help="how many (%(default)s)")
    parser.add_argument("--d-model", type=int, default=StandinSpec.d_model, help="a multiple of 8 (%(default)s)")
    parser.add_argument("--d-sae", type=int, default=StandinSpec.d_sae, help="features of each SAE (%(default)s)")
    told = parser.parse_args(arguments)
    try:
        build(_spec(told), user_path(told.folder))
    except LayerscopeError as error:
        print(f"standin.build: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _spec(told: argparse.Namespace) -> StandinSpec:
    """What the command line asks for.

    Raises:
        UsageError: there can be no such stand-in.
    """
    if told.vision and told.family != "gemma3":
        raise UsageError(
            "--vision is of --family gemma3 alone: no Gemma 2 sees pictures. Name it, or leave out --vision."
        )
    if told.layers < 1 or told.d_model < 8 or told.d_model % 8 or told.d_sae < _LEAST_D_SAE:
        raise UsageError(
            f"There is no stand-in of {told.layers} layers, d_model {told.d_model} and {told.d_sae} features.\n"
            f"It has at least 1 layer, a d_model that is a multiple of 8, and at least {_LEAST_D_SAE} features."
        )
    if told.affine and told.site != "transcoder":
        raise UsageError("--affine is of --site transcoder alone: other SAEs have no such connection. Leave it out.")
    suite = told.suite or SUITES[told.family]
    of_scope = tuple(StandinSpec.l0s[layer % len(StandinSpec.l0s)] for layer in range(told.layers))
    l0s = {"gemma-scope": of_scope, "gemma-scope-2": ((18, 60, 120),) * told.layers, "saelens": ((60,),) * told.layers}
    return StandinSpec(
        n_layers=told.layers,
        d_model=told.d_model,
        width=str(told.d_sae) if told.d_sae % 1024 else f"{told.d_sae // 1024}k",
        d_sae=told.d_sae,
        l0s=l0s[suite],
        family=told.family,
        site=told.site,
        suite=suite,
        affine=told.affine,
        vision=told.vision,
    )


if __name__ == "__main__":
    main()
