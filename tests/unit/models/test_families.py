"""Every family gives each solution what plain transformers gives it alone: log-likelihoods, and every site's tensor."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import made_up_family
from layerscope.config import Site
from layerscope.engine.batches.batch import score_batch
from layerscope.errors import LayerscopeError, UsageError
from layerscope.hub.repository import open_repository
from layerscope.models.families import FAMILIES
from layerscope.models.language_model import LanguageModel
from layerscope.models.loading import load_language_model
from layerscope.models.pair_attention import lay_out, pair_masks
from layerscope.models.spec import read_spec
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.reading import Reading
from layerscope.questions.sources import Question
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice
from layerscope.saes.encoder import SaeEncoder, encode_top_k
from paths import ROOT
from tiny_models import MODELS, WINDOW, save_tiny

CPU = torch.device("cpu")
LAYERS = [0, 1, 2]
SITES: tuple[Site, ...] = get_args(Site)
QUESTIONS = [
    ("Cut bread", "Use a sharp knife.", "Use a blunt spoon for it, and wait."),
    ("Make ice", "Freeze water", "Freeze water."),  # a prefix of the other
    ("a", "b", "b"),  # one token, and nothing but shared tokens
    ("Keep soup warm", "ice " * 20, "ice " * 12 + "melts " * 9),  # longer than the window, shared beyond it
    ("dry <image_soft_token> <bos>", "<start_of_image>", "<end_of_turn> <eos>"),
]


BEFORE_MLP = {"made-up": "post_attention_layernorm"}
BEHIND_MLP = {"made-up": "mlp"}


@pytest.fixture(scope="module", autouse=True)
def made_up() -> Iterator[None]:
    """A family more: its file, and its line in `families.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, made_up_family.MADE_UP.name, made_up_family.MADE_UP)
        yield


class Case:
    """A model of a family in its files, as layerscope and as transformers have it."""

    def __init__(self, kind: str, folder: Path, tokenizer: Path, **saving: Any) -> None:
        self.kind, self.folder = kind, folder
        self.plain = save_tiny(kind, folder, tokenizer, **saving)
        self.model = load_language_model(folder, torch.float32, CPU)
        self.pairs = [
            PairTokenizer(folder / "tokenizer.json", 4096).pair(Question(number, *texts, 0))
            for number, texts in enumerate(QUESTIONS)
        ]

    @property
    def layers(self) -> torch.nn.ModuleList:
        body = self.plain.model
        layers: torch.nn.ModuleList = (body.language_model if hasattr(body, "language_model") else body).layers
        return layers


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / request.param
    return Case(request.param, folder, tiny / "model" / "tokenizer.json")


def expected_at(layer: Any, site: Site, kind: str, seen: dict[str, torch.Tensor]) -> torch.Tensor:
    """What FORMATS says of a site, from a decoder layer's own tensors: written anew, without layerscope's table."""
    if site == "transcoder" and kind == "gemma2":
        before = seen["before_mlp"].double()
        return before / torch.sqrt((before**2).mean(dim=-1, keepdim=True) + layer.pre_feedforward_layernorm.eps)
    if site == "transcoder":
        return layer.get_submodule(BEFORE_MLP.get(kind, "pre_feedforward_layernorm"))(seen["before_mlp"])
    return seen[site]


@torch.inference_mode()
def alone(case: Case, tokens: list[int], prompt: int) -> tuple[float, dict[Site, list[torch.Tensor]]]:
    """Of one text by transformers alone: the log-likelihood behind the prompt, and the final token's at every site."""
    found: dict[Site, list[torch.Tensor]] = {site: [] for site in SITES}
    seen: list[dict[str, torch.Tensor]] = [{} for _ in case.layers]
    handles = []
    for layer, of_layer in zip(case.layers, seen, strict=True):
        hooks = (
            layer.register_forward_hook(lambda _m, _i, output, of=of_layer: of.update(resid_post=output[0, -1])),
            layer.self_attn.o_proj.register_forward_pre_hook(
                lambda _m, inputs, of=of_layer: of.update(attn_out=inputs[0][0, -1])
            ),
            layer.get_submodule(BEHIND_MLP.get(case.kind, "post_feedforward_layernorm")).register_forward_hook(
                lambda _m, _i, output, of=of_layer: of.update(mlp_out=output[0, -1])
            ),
            layer.get_submodule(BEFORE_MLP.get(case.kind, "pre_feedforward_layernorm")).register_forward_pre_hook(
                lambda _m, inputs, of=of_layer: of.update(before_mlp=inputs[0][0, -1])
            ),
        )
        handles += hooks
    logits = case.plain(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    for site in SITES:
        found[site] = [expected_at(layer, site, case.kind, of) for layer, of in zip(case.layers, seen, strict=True)]
    log_probs = logits.double().log_softmax(dim=-1)
    predicted = range(prompt, len(tokens))
    return sum(float(log_probs[position - 1, tokens[position]]) for position in predicted), found


def whole(pair: Pair, solution: int) -> list[int]:
    return [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]


@pytest.mark.parametrize("site", SITES)
def test_a_batch_gives_what_plain_transformers_gives_one_solution_at_a_time(case: Case, site: Site) -> None:
    """Another tensor, mask, RoPE base, scalar or norm than the family's would show in one of these."""
    result = case.model.forward(case.pairs, LAYERS, sites=[site])
    assert max(len(pair.tokens) for pair in case.pairs) > 4 * WINDOW
    for row, (pair, score) in enumerate(zip(case.pairs, result.scores, strict=True)):
        for solution in (0, 1):
            log_likelihood, sites = alone(case, whole(pair, solution), pair.prompt)
            assert score.log_likelihoods[solution] == pytest.approx(log_likelihood, abs=1e-4)
            got = result.residuals[:, 2 * row + solution].double().numpy()
            np.testing.assert_allclose(got, torch.stack(sites[site]).double().numpy(), rtol=1e-4, atol=1e-4)


def test_the_page_shows_the_family_that_is_tested_here() -> None:
    file = Path(made_up_family.__file__).read_text(encoding="utf-8")
    assert f"```python\n{file}```" in (ROOT / "distributed/docs/models.md").read_text(encoding="utf-8")


def test_no_site_can_pass_for_another(case: Case) -> None:
    """The comparison above tells them apart: each differs from the others by more than a tenth of its own size."""
    found = {site: case.model.forward(case.pairs, LAYERS, sites=[site]).residuals for site in SITES}
    spec = read_spec(open_repository(str(case.folder)))
    for one in SITES:
        assert found[one].shape[-1] == spec.width(one)
        for other in SITES:
            if one != other and found[one].shape == found[other].shape:
                assert (found[one] - found[other]).norm() > 0.1 * found[one].norm(), (one, other)


def trained_at(folder: Path, rows: np.ndarray) -> tuple[SaeEncoder, dict[str, np.ndarray]]:
    """An SAE in Gemma Scope's layout whose features are the two directions of every axis that the rows [R, D] vary in.

    With a bias as trained ones have, which stands for the mean of what it was trained on.
    """
    mean = rows.mean(axis=0)
    _, sizes, axes = np.linalg.svd(rows - mean, full_matrices=False)
    kept = axes[sizes > 1e-3 * sizes[0]]
    w_dec = np.concatenate([kept, -kept])
    arrays = {
        "W_enc": w_dec.T,
        "W_dec": w_dec,
        "b_enc": -w_dec @ mean,
        "b_dec": mean,
        "threshold": np.zeros(len(w_dec)),
    }
    path = folder / "layer_0" / "width_1k" / "average_l0_9" / "params.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})  # type: ignore[arg-type]
    choice = SaeChoice(0, "", None, path.relative_to(folder).as_posix(), None)
    return load_encoder(open_repository(str(folder)), choice, rows.shape[1], torch.float32, CPU), arrays


def explained(rows: torch.Tensor, sae: SaeEncoder, arrays: dict[str, np.ndarray]) -> float:
    """The share of the variance of rows [R, D] that the SAE's decoder gives back of what its encoder finds."""
    found = encode_top_k(rows, sae, None)
    reconstructed = np.tile(arrays["b_dec"], (len(rows), 1))
    for row, (start, end) in enumerate(zip(found.starts[:-1], found.starts[1:], strict=True)):
        own = slice(int(start), int(end))
        reconstructed[row] += found.activations[own] @ arrays["W_dec"][found.feature_ids[own]]
    told = rows.double().numpy()
    return float(1 - ((told - reconstructed) ** 2).sum() / ((told - told.mean(axis=0)) ** 2).sum())


def test_an_sae_explains_the_site_that_it_was_trained_at_and_no_other(case: Case, tmp_path: Path) -> None:
    """Trained on what transformers has there. Of every other site's tensor that would fit a tenth is left, and of the
    MLP's input with its norm's gain or without it, which these models have near one, thirty times what may be."""
    texts = [alone(case, whole(pair, solution), pair.prompt)[1] for pair in case.pairs for solution in (0, 1)]
    taken = {site: case.model.forward(case.pairs, LAYERS, sites=[site]).residuals for site in SITES}
    for layer, module in enumerate(case.layers):
        gain = module.get_submodule(BEFORE_MLP.get(case.kind, "pre_feedforward_layernorm")).weight.detach()
        by_gain = 1 + gain if case.kind != "made-up" else gain
        normed = taken["transcoder"][layer]
        wrong_gain = normed * by_gain if case.kind == "gemma2" else normed / by_gain
        for site in SITES:
            rows = np.stack([text[site][layer].double().numpy() for text in texts])
            sae, arrays = trained_at(tmp_path / site / str(layer), rows)
            assert explained(taken[site][layer], sae, arrays) > 0.999
            others = {other: taken[other][layer] for other in SITES if other != site}
            for name, other in others.items():
                if other.shape == taken[site][layer].shape:
                    assert explained(other, sae, arrays) < 0.9, (site, layer, name)
            if site == "transcoder":
                assert explained(wrong_gain, sae, arrays) < 0.97, layer


def test_the_bits_do_not_depend_on_which_site_is_read(case: Case) -> None:
    scores = [case.model.forward(case.pairs, LAYERS, sites=[site]).scores for site in SITES]
    assert all(other == scores[0] for other in scores)


@pytest.mark.parametrize("site", SITES)
def test_the_reading_of_a_run_says_which_site_its_batches_bring(case: Case, site: Site) -> None:
    tokenizer = PairTokenizer(case.folder / "tokenizer.json", 4096)
    questions = [Question(number, *texts, 0) for number, texts in enumerate(QUESTIONS)]
    batch = score_batch(case.model, tokenizer, questions, LAYERS, Reading(sites=[site]))
    assert torch.equal(batch.residuals, case.model.forward(case.pairs, LAYERS, sites=[site]).residuals)


def test_what_is_counted_is_what_is_loaded(case: Case) -> None:
    """A picture's encoder costs no memory, and the plan does not say that it does."""
    spec = read_spec(open_repository(str(case.folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerscope.models.loading.pack", lambda *_: None)
        loaded = load_language_model(case.folder, torch.float32, CPU).model
    assert spec.n_parameters == sum(parameter.numel() for parameter in loaded.parameters())
    assert not any("vision" in name for name, _ in loaded.named_parameters())


@pytest.mark.parametrize("kind", list(MODELS))
def test_sharded_files_are_read_as_one(kind: str, tiny: Path, tmp_path: Path) -> None:
    case = Case(kind, tmp_path / "model", tiny / "model" / "tokenizer.json", max_shard_size="20KB")
    assert len(list(case.folder.glob("*.safetensors"))) > 3
    score = case.model.forward(case.pairs[:1], [2]).scores[0]
    pair = case.pairs[0]
    for solution in (0, 1):
        expected, _ = alone(case, whole(pair, solution), pair.prompt)
        assert score.log_likelihoods[solution] == pytest.approx(expected, abs=1e-4)
    assert read_spec(open_repository(str(case.folder))).n_layers == 3


def test_the_embeddings_scale_is_rounded_to_the_format_of_the_weights(tiny: Path, tmp_path: Path) -> None:
    """The square root of 24 is 4.899, and 4.90625 in bfloat16: as transformers has it in each format."""
    for kind in ("gemma2", "gemma3_text", "gemma3"):
        save_tiny(kind, tmp_path / kind, tiny / "model" / "tokenizer.json")
        for dtype, scale in ((torch.float32, 24**0.5), (torch.bfloat16, 4.90625)):
            embedding = load_language_model(tmp_path / kind, dtype, CPU).model.model.embed_tokens
            tokens = torch.tensor([[5, 6]])
            expected = embedding.weight[tokens] * torch.tensor(scale, dtype=dtype)
            assert torch.equal(embedding(tokens), expected), (kind, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modules_that_write_over_what_they_made_give_the_bits_of_transformers_own(
    case: Case, dtype: torch.dtype
) -> None:
    model = load_language_model(case.folder, dtype, CPU).model
    lean = [module for module in model.modules() if "forward" in vars(module)]
    assert {type(module).__name__[-3:] for module in lean} >= {"MLP"} | ({"orm"} if case.kind != "made-up" else set())
    for module in lean:
        width = model.config.hidden_size if hasattr(module, "gate_proj") else len(module.weight)
        states = torch.randn(1, 7, width).to(dtype)
        before = states.clone()
        with torch.inference_mode():
            given, expected = module(states), type(module).forward(module, states)
        assert given.dtype == expected.dtype == dtype
        assert torch.equal(given, expected)
        assert torch.equal(states, before)  # the residual stream is what a norm reads, and what is added to later


def test_gradients_pass_through_every_layer(case: Case) -> None:
    """Attribution asks for them: no step overwrites what another needs to go backwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerscope.models.loading.pack", lambda *_: None)  # oneDNN's packed weights have no backward
        model = load_language_model(case.folder, torch.float32, CPU)
    layout = lay_out(case.pairs[:1], model.transfers)
    embedded = model.model.model.embed_tokens(layout.tokens[None]).detach().requires_grad_()
    masks = pair_masks(layout, model.model.config.sliding_window)
    hidden = model.model.model(
        inputs_embeds=embedded, position_ids=layout.positions[None], attention_mask=masks, use_cache=False
    ).last_hidden_state
    (gradient,) = torch.autograd.grad(hidden.square().sum(), embedded)
    assert torch.isfinite(gradient).all()
    assert (gradient[0, 1:].abs().sum(dim=-1) > 0).all()


def test_control_tokens_of_every_family_are_text_inside_a_question(case: Case) -> None:
    """A question that names one would put a picture's place into the row."""
    tokenizer = PairTokenizer(case.folder / "tokenizer.json", 4096)
    for text in ("<image_soft_token>", "<start_of_image>", "<end_of_image>", "[multimodal]", "<start_of_turn>"):
        assert len(tokenizer.pair(Question(0, "a", text, "b", 0)).solution_tokens(0)) > 1, text


# What is refused


def spoiled(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


NORM = "model.layers.1.self_attn.q_norm.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda weights: weights.pop(NORM), rf"missing keys {NORM}"),
        (
            lambda weights: weights.update({"model.layers.3.mlp.up_proj.weight": torch.ones(2)}),
            r"unexpected keys model\.layers\.3",
        ),
        (lambda weights: weights.update(extra=torch.ones(2)), "unexpected keys extra"),
        (lambda weights: weights.update({NORM: torch.ones(9)}), rf"other shapes {NORM} \[9\] for \[8\]"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], object], told: str, tiny: Path, tmp_path: Path
) -> None:
    """By the plan, before anything is loaded, and by what loads: transformers would fill gaps with random numbers."""
    save_tiny("gemma3_text", tmp_path, tiny / "model" / "tokenizer.json")
    spoiled(tmp_path, change)
    with pytest.raises(UsageError, match=told) as refusal:
        read_spec(open_repository(str(tmp_path)))
    assert len(str(refusal.value).splitlines()) == 2
    with pytest.raises(LayerscopeError):
        load_language_model(tmp_path, torch.float32, CPU)


def test_a_text_only_config_over_multimodal_files_is_no_random_model(tiny: Path, tmp_path: Path) -> None:
    """transformers starts one with random weights where no name fits, and warns."""
    save_tiny("gemma3", tmp_path, tiny / "model" / "tokenizer.json")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config["text_config"]))
    assert read_spec(open_repository(str(tmp_path))).n_layers == 3
    model: LanguageModel = load_language_model(tmp_path, torch.float32, CPU)
    stored = load_file(tmp_path / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert torch.equal(model.model.lm_head.weight, stored)


def test_a_model_that_reads_in_both_directions_is_refused(tiny: Path, tmp_path: Path) -> None:
    save_tiny("gemma3_text", tmp_path, tiny / "model" / "tokenizer.json")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"use_bidirectional_attention": True}))
    with pytest.raises(UsageError, match="use_bidirectional_attention"):
        read_spec(open_repository(str(tmp_path)))
