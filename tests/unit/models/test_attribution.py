"""The margin's gradient is what transformers' autograd gives, one solution at a time, and what differences give."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2ForCausalLM

from layerscope.config import AttributionRule, Site
from layerscope.models.attribution import MarginGradients, differentiate
from layerscope.models.language_model import LanguageModel
from layerscope.models.loading import load_language_model
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.sources import Question
from layerscope.records.line.record import strongest_wrong
from plain import DEVICES
from plain_gradients import gradient_alone
from tiny_models import save_tiny

LAYERS = [0, 1, 2]
# A window of 12 tokens, and caps that bend what random weights give.
BITING = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 1.5}
WORDS = st.sampled_from(["cut", "the ", " bread", "ice", " ", "\n", "a", "é", "☃", "<bos>", "12", "knife "])
SOLUTION = st.lists(WORDS, min_size=1, max_size=25).map("".join).filter(str.strip)
EDGES = [
    ("Cut it", "Cut it with a knife and then wait"),  # one is a prefix of the other
    ("Use a rope.", "Use a rope."),  # the same: nothing but shared tokens
    ("x", "y"),
    ("ice " * 40, "ice " * 30 + "melts " * 20),  # several times the sliding window, shared beyond it
]


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("biting") / "model"
    shutil.copytree(tiny / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    assert BITING.keys() <= config.keys()
    (folder / "config.json").write_text(json.dumps(config | BITING))
    return folder


@pytest.fixture(scope="module", params=DEVICES, ids=str)
def model(folder: Path, request: pytest.FixtureRequest) -> LanguageModel:
    torch.set_num_threads(1)
    return load_language_model(folder, torch.float32, request.param)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Gemma2ForCausalLM:
    """The same weights as anybody would load them, with transformers' own eager attention and masks."""
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert isinstance(loaded, Gemma2ForCausalLM)
    return loaded.eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PairTokenizer:
    return PairTokenizer(folder / "tokenizer.json", 8192)


def pair_of(tokenizer: PairTokenizer, goal: str, sol1: str, sol2: str) -> Pair:
    return tokenizer.pair(Question(0, goal, sol1, sol2, 0))


def everywhere(
    model: LanguageModel, pairs: list[Pair], positives: list[int], rule: AttributionRule = "gradient"
) -> MarginGradients:
    places = [list(range(len(pair.tokens))) for pair in pairs]
    return differentiate(model, pairs, positives, strongest_wrong, LAYERS, places, rule)


def assert_as_if_alone(
    model: LanguageModel, plain: nn.Module, pairs: list[Pair], positives: list[int], rule: AttributionRule = "gradient"
) -> None:
    tolerance = 1e-4
    found = everywhere(model, pairs, positives, rule).gradients
    start = 0
    for pair, positive in zip(pairs, positives, strict=True):
        mine = found[:, start : start + len(pair.tokens)]
        start += len(pair.tokens)
        branches = [torch.zeros_like(mine) for _ in range(2)]
        for solution, branch in enumerate(branches):
            places = [pair.row_index(solution, position) for position in range(pair.lengths[solution])]
            branch[:, places] = gradient_alone(plain, pair, solution)[1].to(mine.dtype)
        expected = branches[positive] - branches[1 - positive]
        scale = max(float(branch.abs().amax()) for branch in branches)
        torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance * scale)
        for solution in (0, 1):
            if pair.lengths[solution] > pair.shared:  # else the other solution goes on behind it
                assert not mine[:, pair.final_index(solution)].any()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=st.lists(st.tuples(SOLUTION, SOLUTION, SOLUTION, st.integers(0, 1)), min_size=1, max_size=4))
def test_the_gradient_is_the_difference_of_what_each_solution_has_alone(
    model: LanguageModel, plain: nn.Module, tokenizer: PairTokenizer, questions: list[tuple[str, str, str, int]]
) -> None:
    pairs = [pair_of(tokenizer, *texts) for *texts, _ in questions]
    assert_as_if_alone(model, plain, pairs, [positive for *_, positive in questions])


@pytest.mark.parametrize(("sol1", "sol2"), EDGES)
def test_edge_cases_of_sharing(
    model: LanguageModel, plain: nn.Module, tokenizer: PairTokenizer, sol1: str, sol2: str
) -> None:
    assert_as_if_alone(model, plain, [pair_of(tokenizer, "Keep soup warm", sol1, sol2)] * 2, [0, 1])


def test_a_shared_prefix_may_end_inside_the_prompt(model: LanguageModel, plain: nn.Module) -> None:
    pair = Pair(tokens=(2, 300, 301, 302, 303, 400, 401, 402), shared=3, lengths=(5, 6), prompt=4)
    assert_as_if_alone(model, plain, [pair], [1])


def test_the_caps_and_the_window_matter_here(plain: nn.Module, tokenizer: PairTokenizer) -> None:
    """Without this the comparisons above could pass with their derivatives left out."""
    pair = pair_of(tokenizer, "Keep soup warm", *EDGES[3])
    with_all = gradient_alone(plain, pair, 0)[1]
    for change in (
        {"final_logit_softcapping": 1e6},
        {"sliding_window": 10_000},
    ):
        before = {name: getattr(plain.config, name) for name in change}
        for name, value in change.items():
            setattr(plain.config, name, value)
        assert not torch.allclose(gradient_alone(plain, pair, 0)[1], with_all, rtol=0.01)
        for name, value in before.items():
            setattr(plain.config, name, value)
    for layer in plain.model.layers:
        layer.self_attn.attn_logit_softcapping = 1e6
    assert not torch.allclose(gradient_alone(plain, pair, 0)[1], with_all, rtol=0.01)
    for layer in plain.model.layers:
        layer.self_attn.attn_logit_softcapping = BITING["attn_logit_softcapping"]


def test_scores_and_residuals_are_those_of_a_plain_pass_to_the_bit(
    model: LanguageModel, tokenizer: PairTokenizer
) -> None:
    if model.decoder is not None:
        pytest.skip("a GPU's own kernels round otherwise than the modules")
    pairs = [pair_of(tokenizer, "Keep soup warm", *solutions) for solutions in EDGES]
    places = [list(range(len(pair.tokens))) for pair in pairs]
    found, expected = everywhere(model, pairs, [0, 1, 0, 1]), model.forward(pairs, LAYERS, places)
    assert found.scores == expected.scores
    assert torch.equal(found.residuals, expected.residuals)


def test_layers_below_the_chosen_ones_change_nothing(model: LanguageModel, tokenizer: PairTokenizer) -> None:
    pair = pair_of(tokenizer, "Keep soup warm", "in a pan", "in a sieve")
    places = [list(range(len(pair.tokens)))]
    some = differentiate(model, [pair], [0], strongest_wrong, [1, 2], places, "gradient")
    assert torch.equal(some.gradients, everywhere(model, [pair], [0]).gradients[1:])


@pytest.fixture(scope="module")
def by_relevance(folder: Path) -> nn.Module:
    return by_rules(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    )


def by_rules(plain: nn.Module) -> nn.Module:
    """transformers' model with the rules of RelP written into its norms and MLPs, the shortest way."""

    def norm(self: nn.Module, states: Tensor) -> Tensor:
        denominator = (states.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        return states / denominator.detach() * (1 + self.weight)

    def mlp(self: nn.Module, states: Tensor) -> Tensor:
        gate = self.gate_proj(states)
        product = gate * (nn.functional.gelu(gate, approximate="tanh") / gate).detach() * self.up_proj(states)
        return self.down_proj(product / 2 + product.detach() / 2)

    for module in plain.modules():
        for kind, forward in (("RMSNorm", norm), ("MLP", mlp)):
            if type(module).__name__ in (f"Gemma2{kind}", f"Gemma3{kind}"):
                module.forward = MethodType(forward, module)
    return plain


def test_relevance_is_what_its_rules_written_into_the_model_give(
    model: LanguageModel, plain: nn.Module, by_relevance: nn.Module, tokenizer: PairTokenizer
) -> None:
    pairs = [pair_of(tokenizer, "Keep soup warm", *solutions) for solutions in EDGES]
    assert_as_if_alone(model, by_relevance, pairs, [0, 1, 1, 0], "relp")
    assert_as_if_alone(model, plain, pairs, [0, 1, 1, 0])  # the rules are gone with their pass
    ruled, ordinary = (everywhere(model, pairs, [0, 1, 1, 0], rule) for rule in ("relp", "gradient"))
    assert ruled.scores == ordinary.scores
    assert torch.equal(ruled.residuals, ordinary.residuals)
    assert not torch.allclose(ruled.gradients[:-1], ordinary.gradients[:-1], rtol=0.1)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes norms, angles and the softmax in float32 whatever the model's format; here in float64."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    softmax = nn.functional.softmax
    monkeypatch.setattr(nn.functional, "softmax", lambda states, dim, dtype=None: softmax(states, dim=dim))  # noqa: ARG005


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("site", ["resid_post", "mlp_out"])
def test_finite_differences_in_double_precision(site: Site, folder: Path, tokenizer: PairTokenizer) -> None:
    model = load_language_model(folder, torch.float64, torch.device("cpu"))
    pairs = [pair_of(tokenizer, "Keep soup warm", *solutions) for solutions in EDGES]
    positives = [0, 1, 1, 0]
    everywhere = [list(range(len(pair.tokens))) for pair in pairs]
    found = differentiate(model, pairs, positives, strongest_wrong, LAYERS, everywhere, "gradient", [site])
    gradients = found.gradients
    assert gradients.dtype == torch.float64
    rng = np.random.default_rng(0)
    places = np.concatenate([[0], np.cumsum([len(pair.tokens) for pair in pairs])])
    for layer in LAYERS:
        direction = torch.from_numpy(rng.normal(size=gradients.shape[1:])) * 1e-5
        at = model.model.model.layers[layer].get_submodule(model.family.site(site).module)
        above, below = (_margins(model, pairs, positives, at, sign * direction) for sign in (1, -1))
        for number, (start, end) in enumerate(pairwise(places)):
            by_gradient = float((gradients[layer, start:end] * direction[start:end]).sum())
            by_difference = (above[number] - below[number]) / 2
            scale = float((gradients[layer, start:end] * direction[start:end]).abs().sum())
            assert by_gradient == pytest.approx(by_difference, rel=1e-6, abs=1e-6 * scale)


def _margins(
    model: LanguageModel, pairs: list[Pair], positives: list[int], at: nn.Module, shift: Tensor
) -> list[float]:
    hook = at.register_forward_hook(lambda _m, _i, output: output + shift[None])
    log_probs, _ = model.raw(pairs, LAYERS)
    hook.remove()
    margins, start = [], 0
    for pair, positive in zip(pairs, positives, strict=True):
        sums = []
        for solution in (0, 1):
            count = len(pair.solution_tokens(solution))
            sums.append(float(log_probs[start : start + count].double().sum()))
            start += count
        margins.append(sums[positive] - sums[1 - positive])
    return margins


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_families_and_sites_and_more_than_two_solutions(kind: str, folder: Path, tmp_path: Path) -> None:
    plain = save_tiny(kind, tmp_path / kind, folder / "tokenizer.json")
    model = load_language_model(tmp_path / kind, torch.float32, torch.device("cpu"))
    texts = ("in a pan, twelve cut the bread and ice", "in a sieve", "in a pan")
    pair = PairTokenizer(tmp_path / kind / "tokenizer.json", 4096).pair(
        Question(0, "Keep soup warm, and the bread", *texts[:2], 1, texts[2:])
    )
    places = [list(range(len(pair.tokens)))]
    assert min(pair.lengths) > plain.config.sliding_window
    asked: list[tuple[AttributionRule, Site]] = [("gradient", site) for site in ("resid_post", "attn_out", "mlp_out")]
    for rule, site in (*asked, *[("relp", site) for _, site in asked]):
        plain = plain if rule == "gradient" else by_rules(plain)
        found = differentiate(model, [pair], [1], strongest_wrong, LAYERS, places, rule, [site])
        negative = strongest_wrong(found.scores[0].log_likelihoods, 1)
        expected = torch.zeros_like(found.gradients)
        for solution, sign in ((1, 1), (negative, -1)):
            here = [pair.row_index(solution, position) for position in range(pair.lengths[solution])]
            expected[:, here] += sign * gradient_alone(plain, pair, solution, model.family.site(site))[1]
        torch.testing.assert_close(found.gradients, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().amax()))
        if site == "mlp_out":  # where transcoders write
            both: tuple[Site, ...] = ("transcoder", site)
            written = differentiate(model, [pair], [1], strongest_wrong, LAYERS, places, rule, both, site)
            assert torch.equal(written.gradients, found.gradients)
            assert torch.equal(written.residuals, model.forward([pair], LAYERS, places, both).residuals)
        (other,) = {0, 2} - {negative}
        assert not found.gradients[:, pair.row_index(other, pair.shared) : pair.final_index(other) + 1].any()
