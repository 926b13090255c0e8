"""Questions of several solutions through the whole tool, with the actors in this process: run, go on, read, compare."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from background import OUTPUT
from conftest import Command, config_of, words
from layerscope import read_features, read_questions
from plain import plain_run

MORE = {"readings": "final,last-word,max,prompt", "residuals": "float16", "metadata": "category", "shots": "1"}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Of two to ten solutions each, with whole beginnings in common; one cannot be scored."""
    dice = random.Random(0)
    found = []
    for number in range(14):
        start = "use the knife " * dice.choice([0, 1, 6])
        ends = [f"{start}cut {word} " + "again " * dice.randrange(4) for word in "abcdefghij"]
        choices = ends[: dice.randrange(2, 11)]
        row = {"question": f"how {number}?", "choices": choices, "answer": dice.randrange(len(choices))}
        found.append({"id": number, **row, "category": {"kind": "ab"[number % 2]}})
    found[5]["choices"][1] = " "
    found[0]["answer"] = 0  # which tells that labels count from there
    return found


@pytest.fixture(scope="module")
def settings(tiny: Path, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("choices") / "choices.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "dataset": str(path)}
    sources["shots_from"] = str(path)
    return {**sources, "num_samples": "all", "batch_tokens": "150", "top_k": "10", **MORE}


def plainly(settings: dict[str, str], **more: Any) -> bytes:
    return plain_run(config_of(settings, **more))


def test_a_run_that_is_torn_and_gone_on_with_by_another_crew_gives_the_plain_bytes_and_is_read_by_all(
    settings: dict[str, str],
    rows: list[dict[str, Any]],
    command: Command,
    one_process: Callable[[str], None],
    tmp_path: Path,
) -> None:
    one_process("")
    expected = plainly(settings)
    run = ["run", *words(settings), "--output-file", OUTPUT, "--encoders-per-block", "1"]
    done = command(*run, "--gemma-actors", "1", "--layer-blocks", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / OUTPUT
    assert path.read_bytes() == expected
    lines = expected.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:500])
    done = command(*run, "--gemma-actors", "2", "--layer-blocks", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == expected
    for line in lines:
        check_line(json.loads(line), rows)
    for arguments in (("verify", OUTPUT), ("status", OUTPUT), ("report", OUTPUT), ("compare", OUTPUT, OUTPUT)):
        told = command(*arguments, cwd=tmp_path)
        assert told.returncode == 0, told.stderr
    assert "13 scored by both" in told.stdout
    assert "same choice     100.00%" in told.stdout
    page = next(tmp_path.glob("*.html")).read_text(encoding="utf-8")
    assert "the strongest wrong one everywhere on this page" in page
    assert "against the mean of the wrong ones" in page
    refused = command(*run, "--metadata", "none", cwd=tmp_path)
    assert "settings.metadata was category, is None" in refused.stderr


def check_line(record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    row = rows[record["example_id"]]
    assert record["metadata"] == {"category": row["category"]}
    if record["error"]:
        assert record["error"] == "sol2 is only white space"
        assert record["others"] is None
        return
    right, wrong = record["positive_solution_details"], record["negative_solution_details"]
    assert record["label"] == row["answer"]
    assert right["text"] == row["choices"][row["answer"]]
    scores = {other["text"]: other["log_likelihood"] for other in [wrong, *record["others"]]}
    assert set(scores) | {right["text"]} == set(row["choices"])
    assert wrong["log_likelihood"] == max(scores.values())
    assert all(row["choices"][other["index"]] == other["text"] for other in record["others"])


def test_all_solutions_are_read_as_tables(
    settings: dict[str, str], command: Command, one_process: Callable[[str], None], tmp_path: Path
) -> None:
    """The right one and the strongest wrong one have the same features as without the others."""
    one_process("")
    crew = ["--gemma-actors", "1", "--layer-blocks", "1", "--encoders-per-block", "1"]
    for name, more in (("two", []), ("all", ["--all-solutions"])):
        done = command("run", *words(settings), *crew, *more, "--output-file", f"{name}.jsonl", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    two, every = (read_features(tmp_path / f"{name}.jsonl").to_pandas() for name in ("two", "all"))
    of_two = every[every.solution != "other"].drop(columns="solution_index").reset_index(drop=True)
    assert of_two.astype({"solution": str}).equals(two.astype({"solution": str}))
    questions = read_questions(tmp_path / "all.jsonl").to_pandas()
    scored = questions[questions.error.isna()].set_index("example_id")
    places = every.groupby("example_id").solution_index.unique()
    assert all(sorted(places[example_id]) == list(range(int(row.solutions))) for example_id, row in scored.iterrows())
    means = [
        row.positive_log_likelihood
        - np.mean([row.negative_log_likelihood, *(other["log_likelihood"] for other in json.loads(row.others))])
        for row in scored.itertuples()
    ]
    np.testing.assert_allclose(scored.margin_to_mean, means, rtol=1e-4)
    assert command("export", "all.jsonl", "--to", "all.parquet", cwd=tmp_path).returncode == 0
    assert pq.read_table(tmp_path / "all.parquet").equals(read_features(tmp_path / "all.jsonl"))
    assert pq.read_table(tmp_path / "all.questions.parquet").equals(read_questions(tmp_path / "all.jsonl"))
    assert "with their residuals" in command("verify", "all.jsonl", cwd=tmp_path).stdout
