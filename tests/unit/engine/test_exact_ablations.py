"""At each site an ablation is what transformers gives with a hook that takes a feature out, one solution at a time."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from layerscope.config import Site
from layerscope.engine.batches.ablating import Begun, ablate, begin_batch
from layerscope.hub.repository import Repository, open_repository
from layerscope.models.ablation import Change, moved, run_again
from layerscope.models.loading import load_language_model
from layerscope.models.spec import read_spec
from layerscope.planning.to_ablate import ToAblate
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.sources import Question
from layerscope.records.ablations import Ablation, parse_ablation
from layerscope.records.manifest.identity import ChosenFeature, Control
from layerscope.saes.choice import Scaling
from layerscope.saes.chosen import ChosenOfLayer, random_direction
from layerscope.saes.encoder import SaeEncoder
from plain_gradients import whole
from tiny_models import save_tiny

CPU = torch.device("cpu")
LAYERS, FEATURES = [0, 1, 2], 12
QUESTIONS = [
    Question(0, "Keep soup warm", "Cut it.", "Cut it with a knife and then wait.", 0),  # a common beginning
    Question(1, "Keep bread", "in a box", "in a", 1),  # one is the other's beginning
    Question(2, "nothing", "", "x", 0),
    Question(3, "Keep soup warm", "ice " * 6, "with a lid", 1, ("melts", "in a pan " * 4)),  # beyond the window
]
KINDS: tuple[Control | None, ...] = (None, "matched", "random", "mean-difference")


class Bench:
    """A tiny model as layerscope and as transformers have it, and random SAEs."""

    def __init__(self, kind: str, site: Site, folder: Path, tokenizer: Path) -> None:
        torch.set_num_threads(1)
        self.site = site
        self.plain = save_tiny(kind, folder, tokenizer)
        self.model = load_language_model(folder, torch.float32, CPU)
        self.tokenizer = PairTokenizer(folder / "tokenizer.json", 4096)
        rng = torch.Generator().manual_seed(1)
        self.writes: Site = "mlp_out" if site == "transcoder" else site
        # A Gemma 3's divide a row by its size, too.
        self.scaling: Scaling = "norm" if (kind, site) == ("gemma3_text", "transcoder") else "none"
        self.width = width = read_spec(open_repository(str(folder))).width(site)
        self.w_enc, self.w_dec = (torch.randn(size, generator=rng) for size in ((width, FEATURES), (FEATURES, width)))
        self.threshold = torch.full((FEATURES,), 0.8)
        self.threshold[5] = 1e9  # which never fires
        difference = torch.randn(width, generator=rng)
        self.difference = difference / torch.linalg.vector_norm(difference)

    def chosen(self, ids: Sequence[int]) -> ChosenOfLayer:
        encoder = SaeEncoder(self.w_enc[:, ids], torch.zeros(len(ids)), self.threshold[ids], self.scaling)
        return ChosenOfLayer(list(ids), encoder, False, self.w_dec[ids], self.difference)

    def begin(self) -> Begun:
        return begin_batch(self.model, self.tokenizer, QUESTIONS, LAYERS, self.site, self.writes)

    def ablations(self, portion: Sequence[ChosenFeature], factor: float, tokens: int = 60) -> list[Ablation]:
        to_ablate = ToAblate(Repository("x", None, {}), (), "float32", [portion], KINDS, factor, {}, tokens)
        features = {feature.layer: self.chosen(range(FEATURES)) for feature in portion}
        lines, halved = ablate(self.model, self.begin(), features, portion, to_ablate)
        assert not halved
        return list(map(parse_ablation, lines))

    def amount(self, rows: Tensor, feature_id: int) -> Tensor:
        size = rows.square().mean(dim=1).sqrt() if self.scaling == "norm" else torch.ones(len(rows))
        pre = rows @ self.w_enc[:, feature_id] / size
        return torch.where(pre > self.threshold[feature_id], pre, 0.0) * size

    def reading(self, layer: int, keep: Callable[[Tensor], None]) -> RemovableHandle:
        """Gives what a transcoder reads."""
        norm = self.plain.model.layers[layer].pre_feedforward_layernorm
        if type(norm).__name__.startswith("Gemma3"):  # with its gain, as it is
            return norm.register_forward_hook(lambda _module, _inputs, output: keep(output[0]))
        return norm.register_forward_hook(lambda _module, _inputs, output: keep(output[0] / (1 + norm.weight)))

    def hook(self, layer: int, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Has what is written at the site be another."""
        module = self.plain.model.layers[layer]
        if self.site == "attn_out":
            return module.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]),))
        if self.writes == "mlp_out":
            module = module.post_feedforward_layernorm
        return module.register_forward_hook(lambda _module, _inputs, output: change(output))

    def margin(self, question: Question, layer: int, fires: int, direction: Tensor, factor: float) -> tuple[float, int]:
        """Of one question with a hook, and how many tokens its solutions have at which the feature fires."""
        pair = self.tokenizer.pair(question)
        found, touched = list[float](), set[tuple[int, ...]]()
        for solution in pair.solutions:
            tokens, read = whole(pair, solution), list[Tensor]()

            def change(rows: Tensor, tokens: list[int] = tokens) -> Tensor:
                states = rows[0].clone()
                of = (read[-1] if read else states)[pair.prompt :]  # noqa: B023
                amounts = self.amount(of, fires)
                states[pair.prompt :] += factor * amounts[:, None] * direction
                for place in torch.nonzero(amounts)[:, 0].tolist():
                    touched.add(tuple(tokens[: pair.prompt + place + 1]))  # of shared ones the text is the same
                return states[None]

            handles = [self.reading(layer, read.append)] if self.site == "transcoder" else []
            handles.append(self.hook(layer, change))
            with torch.no_grad():
                log_probs = torch.log_softmax(self.plain(torch.tensor([tokens])).logits[0], dim=-1)
            for handle in handles:
                handle.remove()
            found.append(sum(float(log_probs[at - 1, tokens[at]]) for at in range(pair.prompt, len(tokens))))
        wrong = max(score for number, score in enumerate(found) if number != question.label)
        return found[question.label] - wrong, len(touched)


@pytest.fixture(
    scope="module",
    params=[(kind, site) for site in get_args(Site) for kind in ("gemma2", "gemma3_text")],
    ids="-".join,
)
def bench(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(*request.param, tmp_path_factory.mktemp("models") / "model", tiny / "model" / "tokenizer.json")


@pytest.mark.parametrize(
    ("factor", "portion"),
    [
        (-1.0, [ChosenFeature(0, 1, 2), ChosenFeature(1, 3, 4), ChosenFeature(1, 7, None)]),
        (0.75, [ChosenFeature(2, 0, 9)]),
    ],
)
def test_every_margin_is_that_of_a_plain_model_with_a_hook(
    bench: Bench, factor: float, portion: list[ChosenFeature]
) -> None:
    found = iter(bench.ablations(portion, factor))
    moved = 0
    for question in QUESTIONS:
        before = 0.0 if question.example_id == 2 else bench.margin(question, 0, 5, bench.difference, factor)[0]
        for feature in portion:
            own = bench.w_dec[feature.feature_id]
            length = torch.linalg.vector_norm(own)
            random = random_direction(feature.layer, feature.feature_id, bench.width)
            ways = [(feature.feature_id, own), (feature.matched, bench.w_dec[feature.matched or 0])]
            ways += [(feature.feature_id, random * length), (feature.feature_id, bench.difference * length)]
            for kind, (fires, direction) in zip(KINDS, ways, strict=True):
                ablation = next(found)
                assert (ablation.example_id, ablation.feature_id) == (question.example_id, feature.feature_id)
                assert ablation.control == kind
                if question.example_id == 2:
                    assert ablation.error == "sol1 is empty"
                    continue
                assert ablation.margin == pytest.approx(before, abs=2e-4)
                if fires is None:
                    assert ablation.margin_ablated == ablation.margin
                    continue
                after, tokens = bench.margin(question, feature.layer, fires, direction, factor)
                assert ablation.margin_ablated == pytest.approx(after, abs=2e-4)
                assert ablation.tokens == tokens
                moved += abs(after - before) > 0.01
    assert moved > 5  # or nothing was shown
    assert next(found, None) is None


def test_a_feature_that_does_not_fire_changes_no_bit(bench: Bench) -> None:
    for ablation in bench.ablations([ChosenFeature(1, 5, 5)], -1.0):
        assert ablation.tokens == 0
        assert ablation.margin == ablation.margin_ablated
    kept = bench.begin().kept
    assert kept is not None
    for layer in LAYERS:
        nothing = [Change(pair, torch.zeros(0, dtype=torch.int64), torch.zeros(0, bench.width)) for pair in range(3)]
        again = run_again(bench.model, kept, layer, nothing)
        assert [score.log_likelihoods for score in again] == [score.log_likelihoods for score in kept.scores]


@pytest.mark.parametrize("first", [0, 3, -5, -2])
def test_what_is_run_again_with_nothing_changed_scores_as_it_did(bench: Bench, first: int) -> None:
    """From the first token that is changed on, with keys and values that were kept; in the prompt and in branches."""
    kept = bench.begin().kept
    assert kept is not None
    for layer in LAYERS:
        seen = list[int]()
        counting = bench.model.model.model.layers[-1].register_forward_hook(
            lambda _module, _inputs, output: seen.append(output.shape[1])  # noqa: B023
        )
        nothing = [
            Change(number, torch.tensor([range(len(pair.tokens))[first]]), torch.zeros(1, bench.width))
            for number, pair in enumerate(kept.pairs)
        ]
        again = run_again(bench.model, kept, layer, nothing)
        counting.remove()
        assert sum(seen) < kept.starts[-1]
        for score, before in zip(again, kept.scores, strict=True):
            assert score.log_likelihoods == pytest.approx(before.log_likelihoods, abs=1e-4)


@pytest.mark.parametrize(
    ("pair", "changed", "expected"),
    [
        (Pair((2, 3, 4, 5, 6, 7, 8), shared=3, lengths=(5, 5), prompt=2), [1], [1, 2, 3, 5]),  # the final ones never
        (Pair((2, 3, 4, 5, 6, 7, 8), shared=3, lengths=(5, 5), prompt=2), [3], [3]),  # nor the other branch
        (Pair((2, 3, 4, 5, 6, 7, 8), shared=3, lengths=(5, 5), prompt=2), [4, 6], []),
        (Pair((2, 3, 4, 5, 6), shared=4, lengths=(4, 5), prompt=2), [2], [2, 3]),  # one goes on behind the other
        (Pair((2, 3, 4, 5), shared=4, lengths=(4, 4), prompt=2), [2], [2]),  # the same twice
    ],
)
def test_only_what_sees_a_changed_token_is_run_again(pair: Pair, changed: list[int], expected: list[int]) -> None:
    assert moved(pair, np.array(changed)).tolist() == expected


def test_with_all_features_and_the_error_taken_out_the_decoders_bias_is_left(bench: Bench) -> None:
    kept, chosen, bias = bench.begin().kept, bench.chosen(range(FEATURES)), torch.linspace(-1, 1, bench.width)
    assert kept is not None
    behind = kept.starts[1]
    rows = written = kept.read[1][:behind][-4:]
    if bench.site == "transcoder":
        whole_row = [list(range(behind))]
        written = bench.model.forward([kept.pairs[0]], [1], whole_row, [bench.writes]).residuals[0][-4:]
    features = chosen.amounts(rows)[:, :, None] * chosen.directions  # [4, F, D]
    error = written - features.sum(dim=1) - bias
    at = torch.arange(behind - 4, behind)  # of which nothing sees the last
    seen = list[Tensor]()
    layers = bench.model.model.model.layers
    where = layers[1].self_attn.o_proj if bench.site == "attn_out" else layers[2]
    handle = where.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    run_again(bench.model, kept, 1, [Change(0, at, -features.sum(dim=1) - error)])
    handle.remove()
    expected = bias.expand(3, -1)
    if bench.writes == "mlp_out":  # what it is added to is there yet
        expected = expected + (kept.states[1][:behind][-4:] - written)[:-1]
    torch.testing.assert_close(seen[0], expected, atol=2e-5, rtol=0)


def test_how_lines_share_a_batch_changes_rounding_alone(bench: Bench) -> None:
    portion = [ChosenFeature(0, 1, 2), ChosenFeature(1, 3, 4)]
    alone, together = (bench.ablations(portion, -1.0, tokens) for tokens in (1, 10_000))
    for one, other in zip(alone, together, strict=True):
        assert one.margin_ablated == pytest.approx(other.margin_ablated, abs=1e-4)


def test_a_batch_that_does_not_fit_is_halved_and_the_lines_are_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    portion = [ChosenFeature(0, 1, 2), ChosenFeature(1, 3, 4)]
    expected = bench.ablations(portion, -1.0)
    given = run_again

    def crowded(model: Any, kept: Any, layer: int, changes: Sequence[Change]) -> Any:
        if len(changes) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return given(model, kept, layer, changes)

    monkeypatch.setattr("layerscope.engine.batches.ablating.run_again", crowded)
    to_ablate = ToAblate(Repository("x", None, {}), (), "float32", [portion], KINDS, -1.0, {}, 60)
    lines, halved = ablate(
        bench.model, bench.begin(), dict.fromkeys((0, 1), bench.chosen(range(12))), portion, to_ablate
    )
    assert halved
    for line, other in zip(map(json.loads, lines), expected, strict=True):
        assert line["margin_ablated"] == pytest.approx(other.margin_ablated, abs=1e-4)
