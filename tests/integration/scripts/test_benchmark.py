"""The benchmark: its arithmetic by hand, and one small run of all of it but the driver's."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark
import pytest
import torch
from benchmarking import inputs, limit, ours, report
from benchmarking.inputs import SHAPES
from benchmarking.measure import apart
from transformers import Gemma3ForCausalLM

from layerscope.config import Config
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from memory import fill


def span(name: str, actor: int, begin: float, end: float) -> dict[str, Any]:
    return {"ph": "X", "name": name, "tid": actor, "ts": begin, "dur": end - begin}


def test_gemma_2_2b_has_the_parameters_that_are_published() -> None:
    assert SHAPES["full"].parameters == 2_614_341_888 - (4 * 26 + 1) * 2304  # less its norms
    assert SHAPES["full"].body_parameters == 2_024_275_968


def test_gemma_3_1b_has_the_parameters_that_are_published() -> None:
    of_norms = 26 * (4 * 1152 + 2 * 256) + 1152
    assert SHAPES["gemma3-1b"].parameters == 999_885_952 - of_norms


def test_a_gemma_3_is_made_whole(tmp_path: Path) -> None:
    """With what is computed and not drawn, as transformers starts it: two RoPE bases, and the embedding's factor."""
    shape = inputs.Shape("tiny", 6, 64, 256, 2, 1, 32, 4096, family="gemma3", window=512)
    model = inputs.make_model(shape, "cpu")
    model.save_pretrained(tmp_path)
    again = Gemma3ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager").eval()
    assert again.config.sliding_window == 512
    assert again.config.layer_types.count("full_attention") == 1
    tokens = torch.arange(5, 25)[None]
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        assert torch.equal(model.eval()(tokens).logits, again(tokens).logits)


def test_the_work_is_counted() -> None:
    counted = limit.work(SHAPES["full"], limit.Counts(questions=2, tokens=96, predictors=68, rows=4))
    assert counted.body == 2 * 2_024_275_968 * 48
    assert counted.projection == 2 * 256_000 * 2304 * 34
    assert counted.encode == 2 * 26 * 2304 * 16384 * 2
    of_all = limit.Counts(questions=2, tokens=96, predictors=68, rows=94)
    back = limit.work(SHAPES["full"], of_all, attributed=True)
    assert back == limit.Work(2 * counted.body, 2 * counted.projection, counted.encode * 94 / 4)
    assert limit.work(SHAPES["full"], of_all, dictionaries=2).encode == 2 * back.encode


def test_other_jobs_stand_beside_the_plain_one_and_what_the_products_allow() -> None:
    figures = {
        "dtype": "bfloat16",
        "sae_dtype": "float32",
        "limit": {"bfloat16": 100.0, "float32": 50.0},
        "limit_again": {"bfloat16": 90.0, "float32": 50.0},
        "work": {
            "job": {"body": 100.0, "projection": 100.0, "encode": 25.0},  # 2 s and 0.5 s a question
            "attribution": {"body": 200.0, "projection": 200.0, "encode": 50.0},
            "four-choices": {"body": 150.0, "projection": 150.0, "encode": 25.0},
        },
        "job": {"seconds": 6.0, "questions": 2, "memory": {"gemma": 100 << 20, "encoder": 50 << 20}},
        "attribution": {"seconds": 15.0, "questions": 2, "memory": {"gemma": 150 << 20, "encoder": 100 << 20}},
        "four_choices": {"job": {"seconds": 4.0, "questions": 1}, "strong_baseline": 10.0},
    }
    rows, limits = report.seconds_per_question(figures), report.part_limits(figures)
    assert (rows["limit"], rows["whole job, attributions"], rows["whole job, four choices"]) == (2.5, 7.5, 4.0)
    assert limits["whole job, attributions"] == pytest.approx(4 + 1)
    assert limits["strong baseline, four choices"] == pytest.approx(3 + 0.5)
    assert report._beside(figures, "attribution") == (
        "with attributions: 2.50 times the whole job's time (its matrix products 2.00 times), 1.50 times its Gemma "
        "actor's memory (150 MiB), 2.00 times its encoder's memory (100 MiB)"
    )
    ablate = {"layers": [6], "ours": 0.2, "forward_from_there": 0.16, "plain": 1.5, "plain_together": 1.2}
    ablate |= {"plain_alone": 1.8, "products": 16.0, "plain_products": 48.0, "largest_difference": 0.01}
    told = report._of_ablations("frequent", ablate, 100.0)
    assert "fires at most solution tokens on a question, after the layers 6: 200.0 ms (80% of it its matrix" in told
    assert "1.25 times the forward pass from there on; 7.5 times as fast as a whole pass of plain transf" in told
    assert "6.0 times as such passes over many" in told
    assert "9.0 times as one for each solution with all logits (3.0 times fewer products)" in told


def test_what_one_driver_sustains_is_said_of_each_form_of_records() -> None:
    run = {"questions": 1000, "wall": 0.5, "bytes": 50e6, "plain_write": 0.1, "cpu": 0.04, "write_cpu": 0.02}
    assert report._of_driver("compressed", run) == (
        "one driver, compressed records: 2,000 questions/s, 100 MB/s; plain writing 500 MB/s; 40 us of its thread a "
        "question, 20 us of the one that writes"
    )


def test_what_a_job_is_about_is_counted() -> None:
    """By its tokeniser alone, of the built-in stand-in: two final tokens, and every token of the solutions once."""
    counted, over_tokens = (
        limit.counts(prepare(Config(standin=True, num_samples=5, readings=readings, address="local"), [probe()]))
        for readings in ("final", "final,last-word,max,prompt")
    )
    job = prepare(Config(standin=True, num_samples=5, address="local"), [probe()])
    assert (counted.questions, counted.tokens, counted.rows) == (5, job.plan.shared_tokens, 10)
    assert over_tokens.predictors == counted.predictors
    # Each final token is a row of its own, the prompt's last one is one more, and predicts as the others do.
    own = over_tokens.rows - 5
    assert own >= counted.predictors - 5 + 10 - 5
    assert counted.predictors < over_tokens.rows <= counted.tokens - 5


def test_questions_of_four_choices_are_made_of_a_files_own(tmp_path: Path) -> None:
    bundled = benchmark.BUNDLED
    inputs.write_four_choices(bundled, 6, tmp_path / "four.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "four.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [len(set(row["choices"])) for row in rows] == [4] * 6
    of_their_own = {json.loads(line)["goal"]: json.loads(line) for line in bundled.read_text().splitlines()}
    for row in rows:
        own = of_their_own[row["question"]]
        assert row["choices"][:2] == [own["sol1"], own["sol2"]]
        assert row["answer"] == own["label"]


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
    for name in ("four readings", "two dictionaries", "attributions"):
        assert f"with {name}: " in told
    assert "four choices: " in told
    for found in figures["ablate"].values():
        assert found["largest_difference"] < 1e-3
        assert found["plain_count"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark-tiny", "figures.json", "times.png"]
