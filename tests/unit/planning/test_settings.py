"""What is asked for decides the name of the output file, what may go on with it, and how much room is kept."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layerscope.config import Config
from layerscope.engine.budget import Budget
from layerscope.errors import LayerscopeError
from layerscope.formatting import size_text
from layerscope.planning.describe import describe, summarise
from layerscope.planning.job import check_space
from layerscope.planning.machine import probe
from layerscope.planning.node import Gpu
from layerscope.planning.prepare import prepare
from layerscope.planning.settings import output_file
from layerscope.planning.surroundings import surroundings
from layerscope.records.manifest.differences import settings_that_differ
from layerscope.records.manifest.manifest import Manifest
from layerscope.records.totals import Effort, Totals


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "piqa_sae_top100_all_layers.jsonl"),
        ({"standin": True, "top_k": 20}, "bundled_sae_top20_all_layers.jsonl"),
        ({"dataset": "bundled-middle", "layers": "3"}, "bundled-middle_sae_top100_layers_3.jsonl"),
        ({"top_k": "all", "layers": "20, 8"}, "piqa_sae_all_layers_8,20.jsonl"),
        ({"layers": "0-3,2-5"}, "piqa_sae_top100_layers_0-5.jsonl"),
        ({"shard": "3/16"}, "piqa_sae_top100_all_layers_shard_3_of_16.jsonl"),
        ({"dataset": "/data/my own.set.jsonl"}, "my_own.set_sae_top100_all_layers.jsonl"),
        ({"dataset": "-\udcfc.jsonl"}, "__sae_top100_all_layers.jsonl"),
        ({"dataset": "..jsonl"}, "questions_sae_top100_all_layers.jsonl"),
        ({"output_file": "mine.jsonl", "top_k": 3}, "mine.jsonl"),
    ],
)
def test_the_default_name_says_what_is_asked_for(asked: dict[str, Any], name: str) -> None:
    assert output_file(Config(**asked)) == name


def test_the_default_name_is_never_too_long() -> None:
    layers = ",".join(map(str, range(0, 2000, 2)))
    assert len(output_file(Config(dataset="q" * 300, layers=layers, shard="1/999999999"))) < 200


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"readings": "max"}, "settings.readings was final, is final,max"),
        ({"tokens": True}, "settings.tokens was False, is True"),
        ({"residuals": "float16"}, "settings.residuals was None, is float16"),
        ({"prompt": "{goal}"}, "settings.prompt was Question: {goal}\nSolution: {solution}, is {goal} {solution}"),
        ({"solution_separator": ""}, "settings.prompt was Question: {goal}\nSolution: {solution}, is Question"),
        (  # the same text, of which more is scored
            {"prompt": "Question: {goal}", "solution_separator": "\nSolution: "},
            "settings.prompt was Question: {goal}\nSolution: {solution}, is Question: {goal}{end of prompt}\nSolution",
        ),
    ],
)
def test_a_file_is_not_gone_on_with_by_other_readings_tokens_or_prompts(
    tiny: Path, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    """The first half of its lines would hold something else than the second."""
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "dataset": "bundled"}
    config = Config(**sources, num_samples=5, device="cpu", output_file=str(tmp_path / "out.jsonl"))  # type: ignore[arg-type]
    job, other = (prepare(each, [probe()]) for each in (config, replace(config, **changed)))
    (found,) = settings_that_differ(Manifest(format=2, identity=job.identity(), about=job.about("")), other.identity())
    assert found.startswith(told)


def test_more_readings_ask_for_more_room(tiny: Path, tmp_path: Path) -> None:
    """Else a batch of every token would take memory, disk and object store that nobody reckoned with."""
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "dataset": "bundled"}
    config = Config(**sources, num_samples=50, device="cpu", output_file=str(tmp_path / "out.jsonl"))  # type: ignore[arg-type]
    jobs = [prepare(replace(config, readings=each), [probe()]) for each in ("final", "final,last-word,prompt", "max")]
    for measure in (
        lambda job: job.needs.encoder_work,
        lambda job: job.needs.gemma_work,
        lambda job: job.needs.encode_cost,
        lambda job: job.needs.rows_by_layer,
        lambda job: Budget(job, 1 << 30)._size(0),
    ):
        few, more, most = map(measure, jobs)
        assert few < more < most
    assert jobs[0].estimated_bytes() < jobs[2].estimated_bytes() < jobs[1].estimated_bytes() * 2


def test_residuals_are_reckoned_with_before_the_run_starts(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their size is known to the byte: of 5 questions' 2 solutions, 2 readings of one token, 3 layers, 32 numbers."""
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "dataset": "bundled"}
    config = Config(**sources, num_samples=5, device="cpu", output_file=str(tmp_path / "out.jsonl"))  # type: ignore[arg-type]
    readings = replace(config, readings="final,max,prompt")
    none, halves, whole = (
        prepare(replace(readings, residuals=each), [probe()]) for each in ("off", "float16", "float32")
    )
    assert [job.residual_bytes() for job in (none, halves, whole)] == [
        0,
        5 * 2 * 2 * 3 * 32 * 2,
        5 * 2 * 2 * 3 * 32 * 4,
    ]
    assert f"out.jsonl.residuals: {size_text(7680)}, float32 of final, prompt after 3 layers" in describe(whole)
    assert "residuals  " not in describe(none)
    assert Budget(none, 1 << 30)._size(0) < Budget(halves, 1 << 30)._size(0) < Budget(whole, 1 << 30)._size(0)
    free = none.estimated_bytes() + 100
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    check_space(none)
    with pytest.raises(LayerscopeError, match="free; the run will take about"):
        check_space(whole)


def test_the_summary_names_the_readings_and_the_goals_that_count_once() -> None:
    """Features of which token, and how many questions are no independent ones, is else not to be seen in it."""
    config = Config(standin=True, num_samples="all", readings="final,max")
    told = summarise(prepare(config, [probe()]), Totals(1, 0, 1, 1, 64, 2), Effort())
    assert "readings              final, max\n" in told
    assert "32.0 per solution and layer (final)" in told
    assert "goals                 10 questions in 5 groups of equal goals" in told


def test_a_plan_says_what_a_helper_asks_first_and_never_the_token(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "dataset": "bundled"}
    config = Config(**sources, num_samples=5, device="cpu", output_file=str(tmp_path / "out.jsonl"))  # type: ignore[arg-type]
    node = replace(probe(), gpus=(Gpu("NVIDIA L4", 24 << 30),) * 2)
    job = prepare(config, [node])
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://me:hf_secret@mirror")
    told = surroundings(job, [node], "one of its own")
    assert "hf_secret" not in told
    assert "login: yes" in told
    said = dict(line.split(maxsplit=1) for line in told.replace("free disk", "disk").splitlines())
    assert {"versions", "limits", "Ray", "hub", "disk"} < said.keys()
    assert "torch " in said["versions"]
    assert "ray " in said["versions"]
    assert said["GPUs"] == "2 x NVIDIA L4"
    assert said["would"] == "stop nothing that is seen from here"
    monkeypatch.setattr("layerscope.planning.job.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    told = surroundings(job, [node], "", "Ray cannot start.")
    assert "would stop Ray cannot start." in told
    assert f"would stop {tmp_path} has 10 bytes free; the run will take about" in told


@pytest.mark.parametrize("asked", [{"dtype": "bfloat16"}, {"sae_dtype": "bfloat16"}, {}])
@pytest.mark.parametrize("itself", [True, False])
def test_bfloat16_on_a_processor_without_its_instructions_is_told_to_be_slow(
    asked: dict[str, str], itself: bool
) -> None:
    """It is emulated there: on two EPYC cores without AVX-512 torch multiplied at a fifth of float32's rate."""
    config = Config(standin=True, num_samples=5, device="cpu", **asked)  # type: ignore[arg-type]
    node = replace(probe(), processor="Old One", bfloat16=itself)
    told = [each for each in prepare(config, [node]).warnings if "Old One" in each]
    assert bool(told) == (bool(asked) and not itself)
    assert all(f"--{name.replace('_', '-')} float32 may be" in line for name in asked for line in told)
