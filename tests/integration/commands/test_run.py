"""The main job through the real command and a real Ray: same bytes however it is spread, and what is seen of it.

The hub token, and a port that others can reach, must not be given away.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from background import OUTPUT, Start
from conftest import Command, words
from layerscope.config import Config
from paths import ROOT
from plain import plain_run
from watching import Seen, is_loopback

TOKEN = "hf_plantedTokenThatMustStayHidden"
READINGS = "prompt,max,final,last-word"


@pytest.fixture(scope="module")
def tricky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of every kind: ordinary ones of many lengths, and ones that cannot be scored."""
    bundled = (ROOT / "distributed/layerscope/standin/questions.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    odd = [
        {"goal": "same", "sol1": "the same", "sol2": "the same ", "label": 1},
        {"goal": "prefix", "sol1": "cut it", "sol2": "cut it twice", "label": 0},
        {"goal": "empty", "sol1": "", "sol2": "x", "label": 0},
        {"goal": "blank", "sol1": "x", "sol2": "  ", "label": 1},
        {"goal": "<bos> control", "sol1": "<end_of_turn>", "sol2": "<bos>\u0007\u202eabc", "label": 0},
        {"goal": "too long", "sol1": "☃" * 4000, "sol2": "x", "label": 1},
        {"goal": "6,000 characters", "sol1": "knife " * 1000, "sol2": "spoon", "label": 0},
        {"goal": "long", "sol1": "knife ☃ " * 120, "sol2": "knife ☃ " * 110 + "spoon", "label": 1},
    ]
    path = tmp_path_factory.mktemp("questions") / "tricky.jsonl"
    path.write_text("\n".join([*bundled[:12], *map(json.dumps, odd), *bundled[12:]]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def settings(tiny: Path, tricky: Path) -> dict[str, str]:
    return {
        "model": str(tiny / "model"),
        "sae_repo": str(tiny / "saes"),
        "sae_width": "1k",
        "dataset": str(tricky),
    }


@pytest.fixture(scope="module")
def residuals() -> dict[int, bytes]:
    """Of every layer, as `expected` is made."""
    return {}


@pytest.fixture(scope="module")
def expected(settings: dict[str, str], residuals: dict[int, bytes]) -> bytes:
    """The file as one process makes it from the plain functions."""
    more = {"num_samples": "all", "batch_tokens": 300, "top_k": 20, "readings": READINGS, "tokens": True}
    kept = {"residuals": "float16", "attribution": "gradient"}
    return plain_run(Config(**settings, **more, **kept), residuals)  # type: ignore[arg-type]


NUMBERS = ["--num-samples", "all", "--batch-tokens", "300", "--top-k", "20", "--readings", READINGS, "--tokens"]
NUMBERS += ["--residuals", "float16", "--attribution", "gradient"]


class Spread(NamedTuple):
    """The run of the old script, two blocks of layers in a Ray of its own; a name in .json streams to .jsonl."""

    folder: Path
    home: Path
    """Also where its Ray wrote."""
    out: str
    err: str
    seen: Seen


@pytest.fixture(scope="module")
def spread(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:
    folder = tmp_path_factory.mktemp("spread")
    home = Path(tempfile.mkdtemp(prefix="ls", dir="/tmp"))  # a short path: Ray's sockets lie below it
    script = str(ROOT / "scripts/run_sae_feature_extraction_all_layers.py")
    crew = ["--gemma-actors", "1", "--layer-blocks", "2", "--encoders-per-block", "1"]
    here = {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}  # else another checkout's code
    run = subprocess.Popen(
        [sys.executable, script, *words(settings), *NUMBERS, *crew, "--address", "local", "--output-file", "out.json"],
        cwd=folder,
        env={
            **here,
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),  # where Ray makes the token of its own authentication
            "RAY_TMPDIR": str(home),
            "HF_HOME": os.environ["HF_HOME"],
            "HF_TOKEN": TOKEN,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = Seen(TOKEN.encode(), home)
    seen.watch(run)
    out, err = run.communicate()
    assert run.returncode == 0, err
    yield Spread(folder, home, out, err, seen)
    shutil.rmtree(home, ignore_errors=True)


def kept(folder: Path) -> dict[int, bytes]:
    """The files of residuals, by layer."""
    return {int(file.stem[-2:]): file.read_bytes() for file in (folder / "out.jsonl.residuals").iterdir()}


def test_the_ray_run_equals_the_plain_composition_and_sums_up(
    spread: Spread, expected: bytes, residuals: dict[int, bytes]
) -> None:
    folder, told = spread.folder, spread.out
    assert kept(folder) == residuals
    lines = (folder / "out.jsonl").read_bytes()
    assert lines == expected
    assert json.loads((folder / "out.json").read_bytes()) == [json.loads(line) for line in lines.splitlines()]
    wanted = ("accuracy", "acc_norm", "mean active features", "questions/s", "out.json")
    assert [word for word in (f"questions             {len(lines.splitlines())}", *wanted) if word not in told] == []


def test_the_token_is_written_nowhere_and_nobody_else_is_served(spread: Spread, hub_home: Path) -> None:
    """Greps all that a run writes and shows; its Ray listens on the loopback only, with its authentication on."""
    seen = spread.seen
    assert "raylet" in seen.command_lines, "the process list was never seen while Ray was there"
    assert seen.addresses
    assert all(is_loopback(address) for address in seen.addresses), seen.addresses
    assert (spread.home / ".ray" / "auth_token").is_file(), "Ray's authentication was off"
    assert TOKEN not in spread.out + spread.err + seen.command_lines
    assert any("raylet" in path.name for path in seen.files), "Ray's logs were not where the test looks"
    for folder in (spread.folder, spread.home, hub_home):
        seen.look_through(folder)
    assert not [path for path, holds in seen.files.items() if holds]
    assert [path.name for path in spread.home.iterdir()] == [".ray"], "a finished run leaves its Ray's files behind"


def test_it_is_gone_on_with_by_another_crew_and_refused_with_other_settings(
    spread: Spread,
    settings: dict[str, str],
    expected: bytes,
    residuals: dict[int, bytes],
    command: Command,
    one_process: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """From a torn line in mid-batch, which goes, with one actor of each kind; then it is complete."""
    one_process("")
    lines = expected.splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:700])
    shutil.copy(spread.folder / "out.jsonl.manifest.json", tmp_path)
    shutil.copytree(spread.folder / "out.jsonl.residuals", tmp_path / "out.jsonl.residuals")
    run = [*words(settings), *NUMBERS, "--address", "local", "--output-file", "out.json"]
    crew = ["--gemma-actors", "1", "--layer-blocks", "1", "--encoders-per-block", "1"]
    done = command("run", *run, *crew, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Going on after 9 of" in done.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert kept(tmp_path) == residuals
    assert command("verify", "out.jsonl", cwd=tmp_path).stdout.endswith("with their residuals.\n")
    assert "is complete already" in command("run", *run, cwd=tmp_path).stdout

    other = command("run", *run, "--top-k", "51", "--dtype", "bfloat16", cwd=tmp_path)
    assert other.returncode == 2
    assert "settings.top_k was 20, is 51" in other.stderr
    assert "settings.dtype was float32, is bfloat16" in other.stderr
    warning, *told = other.stderr.strip().splitlines()
    assert "resid_post is assumed" in warning
    assert len([line for line in told if not line.startswith("Warning: ")]) <= 2
    assert f"{len(lines)} of {len(lines)} questions" in command("plan", *run, cwd=tmp_path).stdout


def test_every_question_has_one_line_and_every_record_keeps_its_promises(expected: bytes, tricky: Path) -> None:
    questions = [json.loads(line) for line in tricky.read_text(encoding="utf-8").splitlines()]
    records = {record["example_id"]: record for record in map(json.loads, expected.splitlines())}
    assert sorted(records) == list(range(len(questions)))
    errors = {questions[index]["goal"]: record["error"] for index, record in records.items() if record["error"]}
    assert errors.keys() == {"empty", "blank", "too long"}
    assert "context" in errors["too long"]
    for index, record in records.items():
        if not record["error"]:
            check_record(record, questions[index])


def check_record(record: dict, question: dict) -> None:
    """The schema of a record, and what must agree inside it."""
    outer = ["example_id", "question", "model_is_correct", "positive_solution_details", "negative_solution_details"]
    inner = ["text", "log_likelihood", "active_features_by_layer", "active_feature_count_by_layer"]
    assert list(record)[:5] == outer
    assert record["question"] == question["goal"]
    positive, negative = record["positive_solution_details"], record["negative_solution_details"]
    assert positive["text"] == question[f"sol{question['label'] + 1}"]
    assert negative["text"] == question[f"sol{2 - question['label']}"]
    tie = positive["log_likelihood"] == negative["log_likelihood"]
    better = positive["log_likelihood"] > negative["log_likelihood"]
    assert record["model_is_correct"] == (question["label"] == 0 if tie else better)
    for details in (positive, negative):
        assert list(details)[:4] == inner
        assert list(details["other_readings"]) == ["last-word", "max", "prompt"]
        assert "".join(details["tokens"]) == details["text"]
        assert details["log_likelihood"] < 0
        assert details["token_count"] > 0
        assert list(details["active_features_by_layer"]) == ["0", "1", "2"]
        for layer, features in details["active_features_by_layer"].items():
            count = details["active_feature_count_by_layer"][layer]
            assert len(features) == min(count, 20)
            assert all(feature["layer"] == int(layer) and feature["activation"] > 0 for feature in features)
            keys = [(-feature["activation"], feature["feature_id"]) for feature in features]
            assert keys == sorted(keys)
            assert all(float(np.float32(f["activation"])) == np.float32(f["activation"]) for f in features)


def test_a_pilot_and_its_run_join_one_cluster(
    start: Start, run_here: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    few = ["--num-samples", "8", "--layers", "0", "--baseline-dictionary"]
    code, _, errors = start(*few).finish()
    assert code == 0, errors
    assert run_here(*few, "--output-file", "here.jsonl").returncode == 0
    assert (tmp_path / OUTPUT).read_bytes() == (tmp_path / "here.jsonl").read_bytes()
    assert b'"random"' in (tmp_path / OUTPUT).read_bytes()
