"""Attributions are what transformers' autograd and the SAE's formula give, one solution at a time."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from background import OUTPUT
from conftest import config_of
from layerscope.engine.batch import score_batch
from layerscope.engine.encoding import encode_block
from layerscope.models import attribution
from layerscope.models.loading import load_language_model
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.reading import Reading
from layerscope.questions.sources import Question
from layerscope.records.attributions import Attributions
from layerscope.records.checking import check
from layerscope.records.lines import Frame, join_record, settle
from layerscope.records.means import save_means
from layerscope.records.record import Record, parse
from layerscope.saes import against_means as means_of_saes
from layerscope.saes.attribution import SaeDecoder, ToAttribute
from plain import by_transformers, encoders_of, plain_run
from plain_gradients import gradient_alone

LAYERS = [0, 1, 2]
CPU = torch.device("cpu")
QUESTIONS = [
    Question(0, "Keep soup warm", "Cut it.", "Cut it with a knife and then wait.", 0),
    Question(1, "Keep soup warm", "with a lid, in a pan", "with a sieve", 1),
    Question(2, "a", "x", "y", 1),
    Question(3, "Keep bread", "in a box", "in a", 0),  # one is the other's beginning
    Question(4, "Keep bread", "Use a rope.", "Use a rope.", 0),
]


class Bench:
    """The tiny stand-in, loaded by us and by anybody else, with decoders that have a bias."""

    def __init__(self, tiny: Path) -> None:
        torch.set_num_threads(1)
        self.model = load_language_model(tiny / "model", torch.float32, CPU)
        self.plain = by_transformers(tiny / "model")
        self.encoders, self.arrays = encoders_of(tiny, LAYERS, CPU)
        rng = np.random.default_rng(0)
        for arrays in self.arrays:
            arrays["b_dec"] = rng.normal(size=32).astype(np.float32)
        self.decoders = [
            SaeDecoder(torch.from_numpy(arrays["W_dec"]), torch.from_numpy(arrays["b_dec"])) for arrays in self.arrays
        ]
        self.means = [np.zeros(1024, np.float32) for _ in LAYERS]
        self.tokenizer_path = tiny / "model" / "tokenizer.json"
        self.tokenizer = PairTokenizer(self.tokenizer_path, 8192)

    def records(self, questions: list[Question], reading: Reading, k: int | None) -> list[Record]:
        scored = score_batch(self.model, self.tokenizer, questions, LAYERS, reading)
        assert scored.gradients is not None
        assert scored.groups is not None
        blocks = []
        for at in (slice(0, 2), slice(2, 3)):
            attribute = ToAttribute(scored.gradients[at], scored.groups, self.decoders[at])
            of_block = scored.residuals[at], LAYERS[at], self.encoders[at], k, scored.spans, reading
            blocks.append(encode_block(*of_block, attribute))
        records = []
        for outcome in scored.outcomes:
            settled = settle(outcome, blocks)
            assert isinstance(settled, Frame)
            record = parse(b"".join(join_record(settled, blocks)))
            assert isinstance(record, Record)
            check(record, k or "all", 1024, against_means=self.decoders[0].mean is not None)
            records.append(record)
        return records

    def expected(self, pair: Pair, record: Record) -> dict[str, list[dict[str, Any]]]:
        """Of every group and layer: attributions [T, F] of its tokens and their activations, and its terms."""
        sides = {"positive": (record.label, 1), "negative": (record.negative_index, -1)}
        found: dict[str, list[dict[str, Any]]] = {}
        for name, (solution, sign) in sides.items():
            residuals, gradients = (part.numpy() for part in gradient_alone(self.plain, pair, solution))
            for group, tokens in {
                name: range(max(pair.shared, pair.prompt), pair.lengths[solution]),
                "common": range(pair.prompt, pair.shared),
                "prompt": range(1, min(pair.prompt, pair.shared)),
            }.items():
                layers = found.setdefault(group, [{} for _ in LAYERS])
                for layer, of_layer in enumerate(layers):
                    part = self._of_tokens(layer, residuals[layer, list(tokens)], sign * gradients[layer, list(tokens)])
                    part["activations"] = of_layer.pop("activations", part["activations"])
                    of_layer |= {key: value + of_layer.get(key, 0) for key, value in part.items()}
                    of_layer["activations"] = part["activations"]
        return found

    def _of_tokens(self, layer: int, residual: np.ndarray, gradient: np.ndarray) -> dict[str, Any]:
        sae, means = self.arrays[layer], self.means[layer]
        pre = residual @ sae["W_enc"] + sae["b_enc"]
        activations = np.where(pre > sae["threshold"], np.maximum(pre, 0), 0)  # [T, F]
        error = residual - activations @ sae["W_dec"] - sae["b_dec"]
        return {
            "attributions": (activations - means) * (gradient @ sae["W_dec"].T),
            "activations": activations,
            "bias": float((gradient @ (sae["b_dec"] + means @ sae["W_dec"])).sum()),
            "error": float((gradient * error).sum()),
            "total": float((gradient * residual).sum()),
        }


@pytest.fixture(scope="module")
def bench(tiny: Path) -> Bench:
    return Bench(tiny)


@pytest.fixture
def against_means(bench: Bench) -> Iterator[Bench]:
    """Means of which many are 0, as of features that never fire."""
    rng, before = np.random.default_rng(3), (bench.decoders, bench.means)
    bench.means = [np.maximum(rng.normal(size=1024), 0).astype(np.float32) for _ in LAYERS]
    both = zip(bench.decoders, bench.means, strict=True)
    bench.decoders = [replace(decoder, mean=torch.from_numpy(mean)) for decoder, mean in both]
    yield bench
    bench.decoders, bench.means = before


def assert_attributed(
    group: Attributions, expected: list[dict[str, Any]], first: int, scale: float, k: int | None
) -> None:
    for layer in LAYERS:
        features, terms, own = group.lists[layer], group.terms[layer], expected[layer]
        by_token, near = own["attributions"], 1e-4 * scale
        sums = by_token.sum(axis=0)
        for feature in features:
            assert feature.attribution == pytest.approx(float(sums[feature.feature_id]), abs=near)
            shares = by_token[:, feature.feature_id] * np.sign(feature.attribution)
            assert shares[feature.token - first] == pytest.approx(shares.max(), abs=near)
            assert feature.activation == pytest.approx(
                float(own["activations"][feature.token - first, feature.feature_id]), abs=2e-3
            )
        listed = {feature.feature_id for feature in features}
        cut = min((abs(feature.attribution) for feature in features), default=0) if len(features) == k else 0
        assert not set(np.flatnonzero(np.abs(sums) > cut + 2 * near).tolist()) - listed
        assert terms.features == pytest.approx(float(sums.sum()), abs=near)
        for name in ("bias", "error", "total"):
            assert getattr(terms, name) == pytest.approx(own[name], abs=near)
        assert terms.features + terms.bias + terms.error == pytest.approx(terms.total, abs=1e-5 * scale)


@pytest.mark.parametrize(("names", "k"), [(("final",), 5), (("final", "last-word", "max", "prompt"), None)])
def test_every_attribution_is_the_formula_with_plain_gradients(
    bench: Bench, names: tuple[str, ...], k: int | None
) -> None:
    assert_by_the_formula(bench, names, k)


@pytest.mark.parametrize("k", [5, None])
def test_against_means_silent_features_have_attributions_too(against_means: Bench, k: int | None) -> None:
    assert_by_the_formula(against_means, ("final", "max"), k)
    (record,) = against_means.records(QUESTIONS[:1], Reading(attribution="gradient"), k)
    listed = [feature for group in record.attributions.values() for of in group.lists.values() for feature in of]
    assert any(not feature.activation for feature in listed)


def test_a_table_of_few_groups_at_once_is_the_same(against_means: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a wide SAE, whose table of all groups has no room; and features in several pieces."""
    expected = against_means.records(QUESTIONS, Reading(attribution="gradient"), 5)
    monkeypatch.setattr(means_of_saes, "_ELEMENTS_AT_ONCE", 3 * 1024)
    assert against_means.records(QUESTIONS, Reading(attribution="gradient"), 5) == expected


def assert_by_the_formula(bench: Bench, names: tuple[str, ...], k: int | None) -> None:
    bench.tokenizer = PairTokenizer(bench.tokenizer_path, 8192, spell="last-word" in names)
    for question, record in zip(
        QUESTIONS, bench.records(QUESTIONS, Reading(names, attribution="gradient"), k), strict=True
    ):
        pair = bench.tokenizer.pair(question)
        expected = bench.expected(pair, record)
        assert list(record.attributions) == ["positive", "negative", "common", "prompt"]
        scale = max(float(np.abs(of["attributions"]).sum()) for group in expected.values() for of in group)
        scale = max(
            scale, *(abs(of[name]) for group in expected.values() for of in group for name in ("bias", "error"))
        )
        for name, group in record.attributions.items():
            first = {"common": 0, "prompt": 1}.get(name, max(pair.shared - pair.prompt, 0))
            assert_attributed(group, expected[name], first, max(scale, 1.0), k)
    empty = bench.records(QUESTIONS, Reading(names, attribution="gradient"), k)[3].attributions["negative"]
    assert not any(empty.lists.values())
    assert all(terms.total == 0 for terms in empty.terms.values())


def test_readings_are_the_same_beside_attributions(bench: Bench) -> None:
    (with_them,) = bench.records(QUESTIONS[:1], Reading(attribution="gradient"), 10)
    scored = score_batch(bench.model, bench.tokenizer, QUESTIONS[:1], LAYERS)
    block = encode_block(scored.residuals, LAYERS, bench.encoders, 10)
    assert isinstance(scored.outcomes[0], Frame)
    without = parse(b"".join(join_record(scored.outcomes[0], [block])))
    assert isinstance(without, Record)
    for mine, other in zip(with_them.solutions, without.solutions, strict=True):
        assert mine.log_likelihood == other.log_likelihood
        assert mine.active_feature_count_by_layer == other.active_feature_count_by_layer


def test_a_gradient_that_is_not_finite_makes_an_error_line(bench: Bench) -> None:
    reading = Reading(attribution="gradient")
    scored = score_batch(bench.model, bench.tokenizer, QUESTIONS[:2], LAYERS, reading)
    assert scored.gradients is not None
    assert scored.groups is not None
    row = int(np.flatnonzero(scored.groups.numbers == 0)[0])
    scored.gradients[1, row, 3] = torch.nan
    attribute = ToAttribute(scored.gradients, scored.groups, bench.decoders)
    block = encode_block(scored.residuals, LAYERS, bench.encoders, 5, scored.spans, reading, attribute)
    spoiled, whole = (settle(outcome, [block]) for outcome in scored.outcomes)
    line = json.loads(spoiled.line)  # type: ignore[union-attr]
    assert line["error"] == "non-finite attribution at layer 1"
    assert list(line) == list(json.loads(b"".join(join_record(whole, [block]))))  # type: ignore[arg-type]


def test_a_run_that_is_stopped_and_goes_on_writes_what_one_process_writes(
    settings: Mapping[str, str],
    run_here: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, means = np.random.default_rng(0), tmp_path / "means.npz"
    save_means(means, {layer: np.maximum(rng.normal(size=1024), 0).astype(np.float32) for layer in LAYERS})
    against = {"attribution": "relp", "attribution_baseline": f"mean:{means}"}
    expected = plain_run(config_of(settings, **against))
    assert b'"prompt_attribution_terms_by_layer"' in expected
    calls, differentiate = [], attribution.differentiate

    def stopping(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return differentiate(*given)

    monkeypatch.setattr(attribution, "differentiate", stopping)
    stopped = run_here("--attribution", "relp", "--attribution-baseline", f"mean:{means}")
    assert stopped.returncode == 130
    begun = (tmp_path / OUTPUT).read_bytes()
    assert 0 < len(begun) < len(expected)
    assert expected.startswith(begun)
    refused = run_here("--attribution", "gradient")
    assert refused.returncode == 2
    assert "attribution was relp, is gradient" in refused.stderr
    assert "attribution_means was " in refused.stderr
    done = run_here("--attribution", "relp", "--attribution-baseline", f"mean:{means.name}", "--layer-blocks", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / OUTPUT).read_bytes() == expected
