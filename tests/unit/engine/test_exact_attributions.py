"""Attributions are what transformers' autograd and the SAE's formula give, one solution at a time."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attribution_bench import LAYERS, QUESTIONS, Bench, Kind, assert_by_the_formula
from background import OUTPUT
from conftest import config_of
from layerscope.engine.batches.batch import score_batch
from layerscope.engine.batches.encoding import encode_block
from layerscope.models import attribution
from layerscope.questions.reading import Reading
from layerscope.records.line.lines import Frame, join_record, settle
from layerscope.records.line.record import Record, parse
from layerscope.records.means import save_means
from layerscope.saes import against_means as means_of_saes
from layerscope.saes.attribution import ToAttribute
from plain import plain_run


@pytest.fixture(scope="module")
def bench(tiny: Path) -> Bench:
    return Bench(tiny)


def some_means() -> list[Any]:
    """Of which many are 0, as of features that never fire."""
    rng = np.random.default_rng(3)
    return [np.maximum(rng.normal(size=1024), 0).astype(np.float32) for _ in LAYERS]


@pytest.fixture
def against_means(bench: Bench) -> Iterator[Bench]:
    before = bench.means
    bench.against(some_means())
    yield bench
    bench.against(before)


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


@pytest.mark.parametrize("kind", ["norm", "transcoder", "centred transcoder"])
def test_what_writes_elsewhere_or_scaled_is_attributed_where_it_writes(kind: Kind, tiny: Path) -> None:
    """With the gradient there, in the model's units; and what passes beside the features is a term of its own."""
    bench = Bench(tiny, kind)
    assert_by_the_formula(bench, ("final",), 5)
    bench.against(some_means())
    assert_by_the_formula(bench, ("final",), 5)


def test_a_table_of_few_groups_at_once_is_the_same(against_means: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a wide SAE, whose table of all groups has no room; and features in several pieces."""
    expected = against_means.records(QUESTIONS, Reading(attribution="gradient"), 5)
    monkeypatch.setattr(means_of_saes, "_ELEMENTS_AT_ONCE", 3 * 1024)
    assert against_means.records(QUESTIONS, Reading(attribution="gradient"), 5) == expected


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
    """Of transcoders, whose features are read at one site and written at another."""
    rng, means = np.random.default_rng(0), tmp_path / "means.npz"
    save_means(means, {layer: np.maximum(rng.normal(size=1024), 0).astype(np.float32) for layer in LAYERS})
    against = {"site": "transcoder", "attribution": "relp", "attribution_baseline": f"mean:{means}"}
    expected = plain_run(config_of(settings, **against))
    assert b'"prompt_attribution_terms_by_layer"' in expected
    calls, differentiate = [], attribution.differentiate

    def stopping(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return differentiate(*given)

    monkeypatch.setattr(attribution, "differentiate", stopping)
    of = "--site", "transcoder"
    stopped = run_here(*of, "--attribution", "relp", "--attribution-baseline", f"mean:{means}")
    assert stopped.returncode == 130
    begun = (tmp_path / OUTPUT).read_bytes()
    assert 0 < len(begun) < len(expected)
    assert expected.startswith(begun)
    refused = run_here(*of, "--attribution", "gradient")
    assert refused.returncode == 2
    assert "attribution was relp, is gradient" in refused.stderr
    assert "attribution_means was " in refused.stderr
    against_file = "--attribution-baseline", f"mean:{means.name}"
    done = run_here(*of, "--attribution", "relp", *against_file, "--layer-blocks", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / OUTPUT).read_bytes() == expected
