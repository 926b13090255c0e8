"""The benchmark: its arithmetic by hand, and one small run of all of it but the driver's."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark
import pytest
from benchmarking import limit, ours, report
from benchmarking.inputs import SHAPES
from benchmarking.measure import apart

from memory import fill


def span(name: str, actor: int, begin: float, end: float) -> dict[str, Any]:
    return {"ph": "X", "name": name, "tid": actor, "ts": begin, "dur": end - begin}


def test_gemma_2_2b_has_the_parameters_that_are_published() -> None:
    assert SHAPES["full"].parameters == 2_614_341_888 - (4 * 26 + 1) * 2304  # less its norms
    assert SHAPES["full"].body_parameters == 2_024_275_968


def test_the_work_is_counted() -> None:
    counted = limit.work(SHAPES["full"], tokens=48, predictors=34, solutions=2)
    assert counted.body == 2 * 2_024_275_968 * 48
    assert counted.projection == 2 * 256_000 * 2304 * 34
    assert counted.encode == 2 * 26 * 2304 * 16384 * 2
    back = limit.there_and_back(counted, tokens=48, solutions=2)
    assert back == limit.Work(2 * counted.body, 2 * counted.projection, 24 * counted.encode)


def test_attributions_stand_beside_the_plain_run_and_what_the_products_allow() -> None:
    figures = {
        "dtype": "bfloat16",
        "sae_dtype": "float32",
        "limit": {"bfloat16": 100.0, "float32": 50.0},
        "limit_again": {"bfloat16": 90.0, "float32": 50.0},
        "parts": {"questions": 2, "seconds": {"body": 1.0, "projection and scores": 1.0}},
        "work": {"body": 200.0, "projection": 200.0, "encode": 50.0},  # 2 s and 0.5 s a question
        "work_of_attribution": {"body": 400.0, "projection": 400.0, "encode": 100.0},
        "job": {"seconds": 6.0, "questions": 2, "memory": {"gemma": 100 << 20}},
        "attribution": {"seconds": 15.0, "questions": 2, "memory": {"gemma": 150 << 20}},
    }
    assert report.seconds_per_question(figures)["whole job, attributions"] == 7.5
    assert report.part_limits(figures)["whole job, attributions"] == pytest.approx(4 + 1)
    assert report._attribution_beside(figures, report.seconds_per_question(figures)) == (
        "with attributions: 2.50 times the whole job's time (its matrix products 2.00 times), "
        "1.50 times its Gemma actor's memory (150 MiB)"
    )


def test_overlapping_spans_are_counted_once() -> None:
    spans = [span("score", 0, 10, 20), span("encode", 1, 15, 25), span("encode", 1, 16, 18), span("score", 0, 30, 40)]
    assert ours._covered(spans) == 25


def test_an_actor_waits_between_its_batches_only() -> None:
    busy = [span("score", 0, 100, 110), span("score", 0, 110, 120)]
    idle = [span("score", 1, 50, 60), span("score", 1, 80, 90)]
    assert ours._waits(busy) == 0
    assert ours._waits([*busy, *idle]) == pytest.approx((0 + 0.5) / 2)


def test_a_measurement_has_its_own_memory() -> None:
    """Else the second contender would be said to need what the first one did."""
    mine = bytearray(b"x") * (1000 << 20)  # which a process inherits in ru_maxrss
    (large, with_much), (_, with_little) = apart(fill, 800), apart(fill, 1)
    assert mine
    assert large == 800 << 20
    assert 400 << 20 < with_much - with_little < 850 << 20  # imports have a peak of their own


def in_this_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """In place of `apart`: what a measurement is of, without the seconds that a new process takes to import torch."""
    return function(*arguments), 1


@pytest.mark.nightly
def test_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figures_file, plot = tmp_path / "figures.json", tmp_path / "times.png"
    words = ["tiny", "--skip", "driver", "--folder", str(tmp_path), "--json", str(figures_file), "--plot", str(plot)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
    monkeypatch.setattr(benchmark, "apart", in_this_process)
    monkeypatch.setattr(limit, "_SECONDS", 0.2)
    for name in ("HF_HOME", "HF_HUB_OFFLINE"):  # which it sets
        monkeypatch.setenv(name, os.environ.get(name, "0"))
    benchmark.main()
    figures = json.loads(figures_file.read_text(encoding="utf-8"))
    assert figures["parts"]["questions"] == figures["job"]["questions"] == figures["questions"] == 24
    assert figures["parts"]["tokens"] == figures["shared_tokens"] < figures["unshared_tokens"]
    for found in figures["agreement"].values():
        assert found["largest_difference"] < 1e-3
        assert found["same_top_k"] > 0.99
    times = report.seconds_per_question(figures)
    assert all(seconds > 0 for seconds in times.values())
    assert times["all parts"] == pytest.approx(sum(s for name, s in times.items() if name.startswith("  ")))
    # A limit that one of its own parts beats would be none.
    for part, bound in report.part_limits(figures).items():
        assert bound < times[part]
    assert 0 <= figures["job"]["gemma_waits"] < 1
    assert 0 <= figures["job"]["nobody_works"] < 1
    assert {"driver", "gemma", "encoder", "ray"} == set(figures["job"]["memory"])
    told = capsys.readouterr().out
    assert "times as fast as the baseline" in told
    assert "with attributions: " in told
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark-tiny", "figures.json", "times.png"]
