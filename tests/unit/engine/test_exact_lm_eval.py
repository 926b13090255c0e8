"""What lm-evaluation-harness itself said of the tiny stand-in, kept with the script that made it, is what we say."""

import json
from pathlib import Path

import numpy as np
import pytest

from layerscope.config import Config
from layerscope.records.line.record import Record, parse
from paths import DATA
from plain import plain_run

KEPT = DATA / "lm_eval"
PROMPTS = {"arc": "Question: {goal}\nAnswer:", "arc, 2 shots": "Question: {goal}\nAnswer:", "hellaswag": "{goal}"}


@pytest.mark.parametrize("task", PROMPTS)
def test_scores_and_accuracy_are_the_harness_s_own(task: str, tiny: Path, tmp_path: Path) -> None:
    """Three to five choices named by letters and numbers, with and without examples; endings with a label in a text."""
    figures = json.loads((KEPT / "figures.json").read_text(encoding="utf-8"))[task]
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "layers": "0"}
    settings = {"num_samples": "all", "top_k": 1, "dtype": "float32", "device": "cpu"}
    name, _, shots = task.partition(", ")
    if shots:
        settings |= {"shots": int(shots.split()[0]), "shots_from": str(KEPT / f"{name}_shots.jsonl")}
    settings["output_file"] = str(tmp_path / "x.jsonl")
    lines = plain_run(Config(**sources, **settings, dataset=str(KEPT / f"{name}.jsonl"), prompt=PROMPTS[task]))  # type: ignore[arg-type]
    records = sorted(map(parse, lines.splitlines()), key=lambda record: record.example_id)
    scored = [record for record in records if isinstance(record, Record)]
    assert len(scored) == len(figures["log_likelihoods"])
    for record, expected in zip(scored, figures["log_likelihoods"], strict=True):
        np.testing.assert_allclose([one.score for one in record.in_order], expected, atol=2e-4)
    assert np.mean([record.correct() for record in scored]) == pytest.approx(figures["acc"])
    assert np.mean([record.correct_per_character() for record in scored]) == pytest.approx(figures["acc_norm"])
