"""The stand-in that layerscope ships: it knows something, by honest means, and is whole."""

import json
import os
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants

from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.config import Config
from layerscope.hub.repository import open_repository
from layerscope.models.loading import load_language_model
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.questions.opening import Wanted
from layerscope.questions.prompts import PROMPT
from layerscope.questions.selection import select_questions
from layerscope.questions.sources import Question
from layerscope.records.manifest.manifest import FORMAT, Manifest, write_manifest
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice
from layerscope.saes.encoder import encode_top_k
from layerscope.saes.gemma_scope import catalogue
from layerscope.standin import STANDIN_WIDTH, on_this_node, standin_folder
from paths import ROOT
from plain import plain_run

if TYPE_CHECKING:
    from standin_text import Document, Task

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache") / "hub"))
        yield


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return list(select_questions(Wanted("bundled"))[0])


@pytest.fixture(scope="module")
def records() -> list[dict]:
    """A run over the bundled questions, one process."""
    return [json.loads(line) for line in plain_run(Config(standin=True, num_samples="all")).splitlines()]


@pytest.fixture(scope="module")
def taught() -> Iterator[tuple[list["Task"], list["Document"]]]:
    """What the stand-in is taught, and the text that says so, as training draws it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        from standin_text import documents, read_tasks

        tasks = read_tasks()
        yield tasks, list(islice(documents(tasks, 2), 100_000))


# --- what it knows ----------------------------------------------------------------------------------------------------


def test_it_prefers_the_right_solution_to_most_bundled_questions(
    records: list[dict], questions: list[Question]
) -> None:
    assert len(records) == len(questions) >= 240
    assert sum(record["model_is_correct"] for record in records) >= 0.75 * len(records)


def write(path: Path, records: list[dict]) -> Path:
    """The file of a run with these records."""
    config = Config(standin=True, num_samples="all", output_file=str(path))
    job = prepare(config, [probe()])
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    write_manifest(path, Manifest(format=FORMAT, identity=job.identity(), about=job.about("")))
    return path


def test_its_deeper_layers_tell_right_from_wrong_on_questions_that_selected_nothing(
    records: list[dict], tmp_path: Path
) -> None:
    """What it was taught is found by the analysis; with the sides of a question swapped at random nothing is."""
    taught = analyse(write(tmp_path / "taught.jsonl", records)).right_wrong
    confirmed = taught.firing_by_layer.confirmed
    assert confirmed[0] == 0, "before any layer has mixed its tokens, nothing can know"
    assert confirmed[3:].sum() >= 10
    assert taught.held_out.auroc[5] > 0.6
    dice = random.Random(0)
    names = ("positive_solution_details", "negative_solution_details")
    shuffled = [
        {**record, **dict(zip(names, dice.sample([record[name] for name in names], 2), strict=True))}
        for record in records
    ]
    nothing = analyse(write(tmp_path / "shuffled.jsonl", shuffled)).right_wrong
    assert nothing.firing_by_layer.confirmed.sum() == 0


def test_a_word_in_the_middle_is_found_by_the_strongest_token_and_not_by_the_final_one(tmp_path: Path) -> None:
    """The closing sentence is another matter, and true: at its end nothing is left of what decides."""
    path = tmp_path / "middle.jsonl"
    config = Config(standin=True, dataset="bundled-middle", num_samples="all", readings="max", output_file=str(path))
    path.write_bytes(plain_run(config))
    job = prepare(config, [probe()])
    write_manifest(path, Manifest(format=FORMAT, identity=job.identity(), about=job.about("")))
    found = {
        name: analyse(path, Options(reading=name, permutations=0)).right_wrong.firing_by_layer.confirmed.sum()
        for name in ("final", "max")
    }
    assert found["final"] == 0
    assert found["max"] >= 10


def test_no_bundled_question_is_in_the_training_text(
    taught: tuple[list["Task"], list["Document"]], questions: list[Question]
) -> None:
    """Else it would remember, not know. A thing's name and an answer of a few words are in any text about it."""
    _, documents = taught
    told = "\n".join(document.text for document in documents).casefold()
    for question in questions:
        goal = question.goal.casefold().strip(" ?.,")
        assert len(goal.split()) <= 2 or goal not in told, question
        for solution in (question.sol1, question.sol2):
            assert f"{PROMPT.format(goal=question.goal)} {solution}".casefold().strip(" .") not in told, question
            assert len(solution.split()) <= 3 or solution.casefold().strip(" .") not in told, question


def test_training_text_is_varied_balanced_and_the_same_for_the_same_seed(
    taught: tuple[list["Task"], list["Document"]],
) -> None:
    from standin_text import RIGHT, WRONG, documents

    tasks, some = taught
    assert some[:100] == list(islice(documents(tasks, 2), 100)) != list(islice(documents(tasks, 3), 100))
    assert len({document.text for document in some}) > 0.6 * len(some)
    verdicts = [document.verdict for document in some]
    assert verdicts.count(RIGHT) == pytest.approx(verdicts.count(WRONG), rel=0.1)
    for task in tasks:
        assert not set(task.right) & set(task.wrong), task
        assert all(frame.count("{}") == 1 for frame in task.frames), task


# --- what is shipped --------------------------------------------------------------------------------------------------


def test_every_file_of_it_is_in_the_package() -> None:
    """Installed from a wheel it would else lack what is not named there."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["layerscope"]
    package = standin_folder().parent
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    there = {path for path in standin_folder().rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there <= packed
    assert {path.name for path in there} >= {"config.json", "tokenizer.json", "model.safetensors", "params.npz"}
    assert sum(path.stat().st_size for path in there) < 6e6


@pytest.mark.parametrize("there", ["a folder with a file", "a file", "a link to nothing"])
def test_no_stand_in_is_made_where_something_is(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found out at the end, after minutes of work."""
    from layerscope.standin import build

    monkeypatch.setattr(build, "make_model", lambda *_: pytest.fail("work was begun"))
    folder = tmp_path / "standin"
    if there == "a folder with a file":
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    elif there == "a file":
        folder.write_text("mine")
    else:
        folder.symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        build.main([str(folder)])
    assert ended.value.code == 2
    assert f"{folder} is there already" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words", [[], ["--help"], ["--seed", "3"], ["one", "two"]])
def test_the_command_that_makes_one_takes_no_option_for_a_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from layerscope.standin.build import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == (0 if words == ["--help"] else 2)
    assert "FOLDER" in "".join(capsys.readouterr())
    assert list(tmp_path.iterdir()) == []


def test_it_is_found_without_torch() -> None:
    code = "import sys; from layerscope.standin import standin_folder; assert (standin_folder() / 'model').is_dir()"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


def test_on_another_node_it_lies_where_the_package_lies_there() -> None:
    here = open_repository(str(standin_folder() / "saes"))
    there = replace(here, name="/elsewhere/site-packages/layerscope/standin/saes")
    assert on_this_node(there) == here
    for other in (replace(here, name="/elsewhere/standin/saes"), replace(there, commit="0" * 40)):
        assert on_this_node(other) == other


def test_as_many_features_fire_as_the_names_of_the_saes_say(questions: list[Question]) -> None:
    """On text that neither model nor SAEs have seen; the last layer's last token knows what it has read."""
    import torch

    model = load_language_model(standin_folder() / "model", torch.float32, torch.device("cpu"))
    states = every_residual(model, questions[::4])
    repository = open_repository(str(standin_folder() / "saes"))
    held = catalogue(repository.files)
    assert sorted(held) == list(range(len(states)))
    for layer, widths in held.items():
        assert len(widths[STANDIN_WIDTH]) == 3
        for l0, path in widths[STANDIN_WIDTH].items():
            choice = SaeChoice(layer, STANDIN_WIDTH, l0, path, None)
            sae = load_encoder(repository, choice, states[layer].shape[1], torch.float32, torch.device("cpu"))
            assert encode_top_k(states[layer], sae, None).active_counts.mean() == pytest.approx(l0, rel=0.25)


def every_residual(model, questions: list[Question]) -> list:
    """The residual stream after every layer at every token of both solutions but BOS: by layer, [T, D]."""
    from tokenizers import Tokenizer

    from layerscope.standin.build import residual_stream

    tokenizer = Tokenizer.from_file(str(standin_folder() / "model" / "tokenizer.json"))
    texts = [f"{PROMPT.format(goal=q.goal)} {solution}" for q in questions for solution in (q.sol1, q.sol2)]
    model.model.set_attn_implementation("eager")
    return residual_stream(model.model, tokenizer, texts)


# --- making it --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script makes in a few steps, in this process, which has done other things before."""
    import train_standin

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_standin.py", "--steps", "4", "--folder", str(folder)])
        train_standin.main()
    return folder


def test_the_training_script_makes_what_a_run_takes(trained: Path) -> None:
    sources = {"model": str(trained / "model"), "sae_repo": str(trained / "saes"), "sae_width": STANDIN_WIDTH}
    lines = plain_run(Config(**sources, dataset="bundled", num_samples=3)).splitlines()  # type: ignore[arg-type]
    assert [len(json.loads(line)["positive_solution_details"]["active_features_by_layer"]) for line in lines] == [6] * 3


@pytest.mark.nightly
def test_the_training_script_makes_the_same_again_in_a_process_of_its_own(trained: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "distributed")}
    script = [sys.executable, str(SCRIPTS / "train_standin.py"), "--steps", "4", "--folder", str(tmp_path / "again")]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (trained, tmp_path / "again")
    ]
    assert contents[0] == contents[1]
