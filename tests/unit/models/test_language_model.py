"""A pair row gives each solution what it would get alone: against plain transformers, one solution at a time."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2ForCausalLM

from layerscope.engine.batches.batch import score_batch
from layerscope.errors import LayerscopeError
from layerscope.models.language_model import LanguageModel, log_sum_exp, target_log_probs
from layerscope.models.loading import load_language_model
from layerscope.models.pair_attention import lay_out
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.sources import Question
from plain import DEVICES

CPU = torch.device("cpu")
LAYERS = [0, 1, 2]


@pytest.fixture(scope="module", params=DEVICES, ids=str)
def model(tiny: Path, request: pytest.FixtureRequest) -> LanguageModel:
    torch.set_num_threads(1)
    return load_language_model(tiny / "model", torch.float32, request.param)


@pytest.fixture(scope="module")
def plain(tiny: Path) -> Gemma2ForCausalLM:
    """The same weights as anybody would load them, with transformers' own eager attention and masks."""
    loaded = AutoModelForCausalLM.from_pretrained(tiny / "model", dtype=torch.float32, attn_implementation="eager")
    assert isinstance(loaded, Gemma2ForCausalLM)
    return loaded.eval()


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> PairTokenizer:
    return PairTokenizer(tiny / "model" / "tokenizer.json", 8192)


@torch.inference_mode()
def alone(plain: Gemma2ForCausalLM, tokens: list[int], prompt: int) -> tuple[float, np.ndarray]:
    """Log-likelihood of the tokens behind the prompt, and the final token's residual after every layer: [L, D]."""
    residuals: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output: residuals.append(output[0, -1]))
        for layer in plain.model.layers
    ]
    logits = plain(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    log_probs = logits.double().log_softmax(dim=-1)
    predicted = range(prompt, len(tokens))
    return sum(float(log_probs[position - 1, tokens[position]]) for position in predicted), torch.stack(
        residuals
    ).numpy()


def whole(pair: Pair, solution: int) -> list[int]:
    return [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]


def assert_as_if_alone(model: LanguageModel, plain: Gemma2ForCausalLM, pairs: list[Pair]) -> None:
    result = model.forward(pairs, LAYERS)
    rows = iter(range(result.residuals.shape[1]))
    for pair, score in zip(pairs, result.scores, strict=True):
        assert len(score.log_likelihoods) == len(pair.lengths)
        for solution in pair.solutions:
            log_likelihood, residuals = alone(plain, whole(pair, solution), pair.prompt)
            assert score.log_likelihoods[solution] == pytest.approx(log_likelihood, rel=1e-5, abs=1e-4)
            got = result.residuals[:, next(rows)].numpy()
            np.testing.assert_allclose(got, residuals, rtol=1e-4, atol=2e-4)


# Few words, so that solutions often share a beginning, are a prefix of one another, or are the same.
WORDS = st.sampled_from(["cut", "the ", " bread", "ice", " ", "\n", "a", "é", "☃", "<bos>", "12", "knife "])
SOLUTION = st.lists(WORDS, min_size=1, max_size=25).map("".join).filter(str.strip)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=st.lists(st.tuples(SOLUTION, SOLUTION, SOLUTION), min_size=1, max_size=4))
def test_each_solution_of_a_batch_gets_what_it_would_get_alone(
    model: LanguageModel, plain: Gemma2ForCausalLM, tokenizer: PairTokenizer, questions: list[tuple[str, str, str]]
) -> None:
    pairs = [tokenizer.pair(Question(i, goal, sol1, sol2, 0)) for i, (goal, sol1, sol2) in enumerate(questions)]
    assert_as_if_alone(model, plain, pairs)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_of_many_solutions_gets_what_it_would_get_alone(
    model: LanguageModel, plain: Gemma2ForCausalLM, tokenizer: PairTokenizer, data: st.DataObject
) -> None:
    """Whatever length they share, beyond the sliding window too, and beside rows of two."""
    questions = []
    for number in range(data.draw(st.integers(1, 2))):
        trunk = "ice " * data.draw(st.integers(0, 40))
        ends = data.draw(st.lists(SOLUTION, min_size=2, max_size=10))
        first, second, *more = [trunk + end for end in ends]
        questions.append(Question(number, "Keep soup warm", first, second, 0, tuple(more)))
    assert_as_if_alone(model, plain, [tokenizer.pair(question) for question in questions])


@pytest.mark.parametrize(
    ("sol1", "sol2"),
    [
        ("Cut it", "Cut it with a knife and then wait"),  # one is a prefix of the other
        ("Cut it with a knife and then wait", "Cut it"),
        ("Use a rope.", "Use a rope."),  # the same: nothing but shared tokens
        ("x", "y"),
        ("ice " * 40, "ice " * 30 + "melts " * 20),  # several times the sliding window, shared beyond it
        ("<bos> <end_of_turn>", "<eos>"),
        ("العربية مكسورة", "日本語 ☃"),
    ],
)
def test_edge_cases_of_sharing(
    model: LanguageModel, plain: Gemma2ForCausalLM, tokenizer: PairTokenizer, sol1: str, sol2: str
) -> None:
    assert_as_if_alone(model, plain, [tokenizer.pair(Question(0, "Keep soup warm", sol1, sol2, 0))])


def test_threads_that_share_a_model_get_what_each_would_get_alone(
    model: LanguageModel, tokenizer: PairTokenizer
) -> None:
    """On a GPU one batch is made ready while another is computed."""
    texts = [("Cut bread", "a knife", "a spoon"), ("Make ice", "freeze water", "freeze"), ("a", "b", "c d e f g")]
    questions = [Question(i, goal, *rest, 0) for i, (goal, *rest) in enumerate(texts)]
    alone = [score_batch(model, tokenizer, [question], LAYERS) for question in questions]
    with ThreadPoolExecutor(3) as threads:
        for _ in range(10):
            together = threads.map(lambda question: score_batch(model, tokenizer, [question], LAYERS), questions)
            for mine, expected in zip(together, alone, strict=True):
                assert mine.outcomes == expected.outcomes
                assert torch.equal(mine.residuals, expected.residuals)


def test_a_shared_prefix_may_end_inside_the_prompt(model: LanguageModel, plain: Gemma2ForCausalLM) -> None:
    """A tokeniser that merges across the boundary makes the rows differ before the solutions begin."""
    pair = Pair(tokens=(2, 300, 301, 302, 303, 400, 401, 402), shared=3, lengths=(5, 6), prompt=4)
    assert_as_if_alone(model, plain, [pair])


def test_the_reference_applies_the_caps(plain: Gemma2ForCausalLM) -> None:
    """Without this the comparison above could pass with both sides wrong."""
    assert plain.config.attn_logit_softcapping == 50
    assert plain.config.final_logit_softcapping == 30
    assert plain.config._attn_implementation == "eager"


def test_chunks_of_queries_and_vocabulary_do_not_change_the_result(
    model: LanguageModel, plain: Gemma2ForCausalLM, tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long rows and Gemma's vocabulary are taken in pieces, which the tiny model alone would never reach."""
    monkeypatch.setattr("layerscope.models.pair_attention._MAX_SCORES", 500)
    monkeypatch.setattr("layerscope.models.language_model.VOCABULARY_CHUNK", 100)
    pairs = [tokenizer.pair(Question(0, "Cut bread", "Use a sharp knife.", "Use a blunt spoon for it.", 0))]
    assert_as_if_alone(model, plain, [*pairs, *pairs])


def test_log_probs_sum_to_one(model: LanguageModel, tokenizer: PairTokenizer) -> None:
    pair = tokenizer.pair(Question(0, "a", "b", "c", 0))
    layout = lay_out([pair], model.transfers)
    hidden = torch.randn(len(pair.tokens), model.model.config.hidden_size, device=model.device)
    vocabulary = model.model.config.vocab_size
    every = layout.__class__(
        **{
            **vars(layout),
            "targets": torch.arange(vocabulary, device=model.device),
            "target_predictors": torch.zeros(vocabulary, dtype=torch.int64, device=model.device),
        }
    )
    log_probs = target_log_probs(hidden, model.model.lm_head.weight, every, 30.0)
    assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("softcap", [30.0, 50.0, None])
def test_bfloat16_logits_cost_no_digits_where_it_matters(softcap: float | None, device: torch.device) -> None:
    """Rounded to bfloat16, a likely token's logit near 20 would be off by up to 0.06, and so its log-probability."""
    generator = torch.Generator().manual_seed(0)
    n_rows, width, vocabulary = 300, 64, 5000  # more rows and columns than are taken at once
    weight = torch.randn(vocabulary, width, generator=generator).bfloat16()
    # Some rows prefer one token by far, some share their favour among several, and some have no favourite.
    favour = torch.linspace(0.2, 3, n_rows)[:, None]
    hidden = (weight[torch.arange(n_rows) * 7] * favour / 8).bfloat16()
    targets = torch.stack([torch.arange(n_rows) * 7, torch.arange(n_rows) + 1]).flatten()
    index = {
        "predictors": torch.arange(n_rows),
        "targets": targets,
        "target_predictors": torch.arange(n_rows).repeat(2),
    }
    layout = SimpleNamespace(**{name: tensor.to(device) for name, tensor in index.items()})
    got = target_log_probs(hidden.to(device), weight.to(device), layout, softcap).cpu()  # type: ignore[arg-type]
    logits = hidden.double() @ weight.double().T
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    exact = logits.log_softmax(dim=1)[index["target_predictors"], targets]
    assert float(logits.max()) > 18
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), exact.numpy(), atol=2e-3)
    rounded = logits.bfloat16().double().log_softmax(dim=1)[index["target_predictors"], targets]
    assert float((rounded - exact).abs().max()) > 0.02  # what this test would let through otherwise


def test_sums_of_exponentials_are_as_often_too_large_as_too_small() -> None:
    """A constant of the soft-cap in float32 would make each 1.2e-6 too large, which a long solution adds up."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(400, 64, generator=generator), torch.randn(6000, 64, generator=generator) / 8
    exact = torch.logsumexp(torch.tanh(rows.double() @ weight.double().T / 30) * 30, dim=1)
    off = log_sum_exp(rows, weight, 30.0).double() - exact
    assert abs(float(off.mean())) < 1e-7
    assert float(off.abs().max()) < 1e-6


def test_bfloat16_stays_near_float32(tiny: Path, model: LanguageModel, tokenizer: PairTokenizer) -> None:
    half = load_language_model(tiny / "model", torch.bfloat16, model.device)
    pair = tokenizer.pair(Question(0, "Cut bread", "Use a sharp knife.", "Use a blunt spoon.", 0))
    wide, narrow = model.forward([pair], LAYERS), half.forward([pair], LAYERS)
    assert narrow.residuals.dtype == torch.bfloat16
    assert narrow.scores[0].log_likelihoods == pytest.approx(wide.scores[0].log_likelihoods, rel=0.02)


def test_hooks_are_gone_after_a_failure(model: LanguageModel) -> None:
    bad = Pair(tokens=(2, 10**9), shared=1, lengths=(2, 1), prompt=1)
    with pytest.raises(IndexError):
        model.forward([bad], LAYERS)
    assert not any(layer._forward_hooks for layer in model.model.model.layers)


def test_a_non_finite_residual_names_its_first_layer(tiny: Path, tokenizer: PairTokenizer) -> None:
    broken = load_language_model(tiny / "model", torch.float32, CPU)
    pairs = [tokenizer.pair(Question(i, goal, "a", "b", 0)) for i, goal in enumerate(["ice", "soap"])]
    only_first = sorted(set(pairs[0].tokens) - set(pairs[1].tokens))[0]

    def spoil(_module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((inputs[0] == only_first)[..., None], torch.nan)

    broken.model.model.embed_tokens.register_forward_hook(spoil)
    scores = broken.forward(pairs, [1, 2]).scores
    assert [score.failed_layer for score in scores] == [1, None]
    assert np.isfinite(scores[1].log_likelihoods).all()


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    for file in (tiny / "model").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "stored", [[torch.float32], [torch.bfloat16], [torch.float16], [torch.float32, torch.bfloat16]]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whatever_format_the_file_has_each_weight_is_rounded_once(
    copied: Path, tokenizer: PairTokenizer, stored: list[torch.dtype], dtype: torch.dtype
) -> None:
    file = copied / "model.safetensors"
    weights = {name: tensor.to(stored[i % len(stored)]) for i, (name, tensor) in enumerate(load_file(file).items())}
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((copied / "config.json").read_text()) | {"dtype": "float16", "torch_dtype": "float16"}
    (copied / "config.json").write_text(json.dumps(config))  # which does not say what the file is
    loaded = load_language_model(copied, dtype, CPU)
    assert torch.equal(loaded.model.lm_head.weight, weights["model.embed_tokens.weight"].to(dtype))
    wide = {name: tensor.to(dtype).float() for name, tensor in weights.items()}
    save_file(wide, file, metadata={"format": "pt"})
    plain = AutoModelForCausalLM.from_pretrained(copied, dtype=torch.float32, attn_implementation="eager")
    pair = tokenizer.pair(Question(0, "Cut bread", "Use a sharp knife.", "Use a blunt spoon.", 0))
    expected, residuals = alone(plain, whole(pair, 0), pair.prompt)
    got = loaded.forward([pair], LAYERS)
    assert got.scores[0].log_likelihoods[0] == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 0.02)
    if dtype == torch.float32:
        np.testing.assert_allclose(got.residuals[:, 0].numpy(), residuals, rtol=1e-5, atol=1e-5)


def test_weights_cut_short_are_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(LayerscopeError, match="cannot be loaded"):
        load_language_model(copied, torch.float32, CPU)


def test_missing_weights_are_refused_not_made_up(copied: Path) -> None:
    """transformers would fill them with random numbers and warn."""
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LayerscopeError, match=r"missing keys model\.layers\.1\.mlp\.up_proj\.weight"):
        load_language_model(copied, torch.float32, CPU)
