"""What the command says, and leaves behind, when it cannot do what it is asked: no traceback, no file, no Ray."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from hub_server import HubServer, Repository, point_to
from layerscope.config import Config, option
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.records.writing import journal

MODEL, SAES = "google/gemma-2-2b", "google/gemma-scope-2b-pt-res"
STANDIN_NOTE = "Stand-in weights"
USAGE, FAILED = 2, 1

Fails = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their bytes, other things with none."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def message_of(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The message of a command that ended as a known error does."""
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    others = ("Warning:", STANDIN_NOTE, "layerscope waits for")  # the last where this machine has much to do
    lines = [line for line in result.stderr.splitlines() if not line.startswith(others)]
    assert 1 <= len(lines) <= 3, result.stderr
    assert lines[0].startswith("layerscope: ")
    assert result.stdout == ""
    return "\n".join(lines)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder that the records would go to."""
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


@pytest.fixture
def fails(command: Command, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Runs a command that must fail before it starts anything, checks that it does, and gives its message."""
    ray = tmp_path / "ray"
    monkeypatch.setenv("RAY_TMPDIR", str(ray))

    def run(*arguments: str, code: int = USAGE) -> str:
        name, *options = arguments
        before = contents(output)
        words = [name, "--address", "local", "--output-file", str(output / "records.jsonl"), *options]
        message = message_of(command(*words, cwd=tmp_path), code)
        assert contents(output) == before
        assert not ray.exists()
        return message

    return run


def says(message: str, *words: str) -> None:
    for word in words:
        assert word in message, message


# The command line alone


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("--layers", "2-0", "write 0-2"),
        ("--layers", "", "0-25"),
        ("--layers", "-1", "0-25"),
        ("--layers", "first", "0-25"),
        ("--sae-l0", "about-70", "canonical, min, max"),
        ("--sae-l0", "0", "canonical, min, max"),
        ("--sae-width", "16kb", "16k, 65k, 1m"),
        ("--num-samples", "0", "at least 1"),
        ("--num-samples", "-3", "at least 1"),
        ("--top-k", "0", "at least 1"),
        ("--batch-tokens", "-1", "at least 1"),
        ("--batch-tokens", "1000001", "at most 1000000"),
        ("--threads", "0", "at least 1"),
        ("--gemma-actors", "0", "at least 1"),
        ("--layer-blocks", "-2", "at least 1"),
        ("--encoders-per-block", "0", "at least 1"),
        ("--output-file", "", "name the file"),
        ("--readings", "mean", "final, last-word, max, prompt"),
        ("--prompt", "Question:", "Put {goal}"),
        ("--prompt", "{solution} {goal}", "End it where the solution begins"),
    ],
)
def test_value_that_cannot_be(name: str, value: str, advice: str, fails: Fails) -> None:
    """A value is taken that no run can use, or the message does not say which and what would do."""
    says(fails("run", name, value), name, value, advice)


@pytest.mark.parametrize("name", ["--model", "--revision", "--sae-repo"])
def test_standin_with_a_source_of_its_own(name: str, fails: Fails) -> None:
    """A run looks as if it were of a model that it does not use."""
    says(fails("run", "--standin", name, "mine/own"), "--standin", name, "leave out")


def test_a_prompt_that_the_model_cannot_take(fails: Fails) -> None:
    """A run would end after loading everything, or give each of its questions an error line."""
    says(fails("run", "--standin", "--prompt", "chat"), "--prompt chat", "has no chat template", "-it")
    says(
        fails("run", "--standin", "--prompt", "{goal}" + "word " * 20_000, "--solution-separator", ""),
        "the model's context is",
    )


def test_standin_with_a_width_that_its_saes_have_not(fails: Fails) -> None:
    """The width is passed over, and the run looks as if its SAEs were sixteen thousand features wide."""
    says(fails("run", "--standin", "--sae-width", "16k"), "no SAEs of width 16k", "it has 512")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--nonsense", "3"], "--nonsense"),
        (["run", "--dtype", "float16"], "float16"),
        (["run", "--num-samples", "many"], "many"),
        (["walk"], "walk"),
        ([], "run"),
    ],
    ids=["option", "choice", "number", "command", "nothing"],
)
def test_unknown_word_on_the_command_line(arguments: list[str], named: str, command: Command, output: Path) -> None:
    """A misspelt option is passed over, and the run does something else than it was told."""
    result = command(*arguments, cwd=output)
    assert (result.returncode, result.stdout) == (USAGE, "")
    assert "Traceback" not in result.stderr
    says(result.stderr, named, "--help")
    assert contents(output) == {}


@pytest.mark.parametrize("name", ["run", "plan"])
def test_help_lists_every_option(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option is there that nobody can find."""
    monkeypatch.setenv("COLUMNS", "100")
    result = command(name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    listed = re.findall(r"^\W*(--[a-z][a-z0-9-]+)", result.stdout, re.MULTILINE)
    names = {option(field.name) for field in fields(Config)}
    assert listed[0] in names
    assert sorted(listed) == sorted(names)


def test_help_lists_the_commands(command: Command) -> None:
    """A command is there that nobody can find."""
    result = command("--help")
    assert (result.returncode, result.stderr) == (0, "")
    says(result.stdout, "run", "plan")


def test_address_that_is_none(fails: Fails, tiny_options: list[str]) -> None:
    """A misspelt address of a cluster ends in a traceback of Ray."""
    says(fails("plan", *tiny_options, "--address", "nowhere", code=USAGE), "nowhere", "HOST:PORT")


def test_address_where_nobody_answers(fails: Fails, tiny_options: list[str]) -> None:
    """Ray tries a closed port for a quarter of an hour."""
    says(fails("plan", *tiny_options, "--address", "127.0.0.1:1", code=FAILED), "127.0.0.1:1", "--address local")


# The hub


@pytest.fixture
def hub(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with the gated model, in two branches, and its SAEs; alice, who asks, has the licence, bob has not."""
    model, saes = (
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for folder in (tiny / "model", tiny / "saes")
    )
    with HubServer() as server:
        server.tokens = {"hf_alice": "alice", "hf_bob": "bob"}
        server.licensed = {"hf_alice"}
        server.add(Repository("model", MODEL, model, gated=True))
        server.add(Repository("model", MODEL, model, gated=True, branch="float32"))
        server.add(Repository("model", SAES, saes))
        point_to(server.endpoint, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        yield server


HUB_OPTIONS = ["--dataset", "bundled", "--sae-width", "1k"]


def test_closed_gate(hub: HubServer, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has no token, a wrong one or no licence is not told which, or not where to get it."""
    page = f"{hub.endpoint}/{MODEL}"

    def refused(token: str) -> str:
        monkeypatch.setenv("HF_TOKEN", token)
        return fails("run", *HUB_OPTIONS, code=FAILED)

    no_token, invalid, no_licence = map(refused, ("", "hf_nobody", "hf_bob"))
    says(no_token, MODEL, "no hub token", page, "hf auth login", "HF_TOKEN")
    says(invalid, MODEL, "invalid", "hf auth login", "HF_TOKEN")
    says(no_licence, MODEL, "licence", page)
    assert "no hub token" not in no_licence
    assert page not in invalid
    assert not [message for message in (invalid, no_licence) if "hf_nobody" in message or "hf_bob" in message]


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("--model", "google/gemma-9", "Check the spelling"),
        ("--sae-repo", "google/gemma-scope-9", "Check the spelling"),
        ("--model", "./no/such/folder", "neither a folder"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_unknown_repository(name: str, value: str, advice: str, fails: Fails) -> None:
    """A misspelt repository is not named."""
    says(fails("run", *HUB_OPTIONS, name, value), value, advice)


@pytest.mark.usefixtures("hub")
def test_unknown_revision(fails: Fails) -> None:
    """Whoever misspells a branch is not told which there are."""
    message = fails("run", *HUB_OPTIONS, "--revision", "float64")
    says(message, MODEL, "float64", "main", "float32")


# SAEs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sae-width", "16k"], ["width 16k", "1k"]),
        (["--sae-l0", "70"], ["layer 0", "70", "8, 60"]),
        (["--layers", "1,3"], ["--layers", "layer 3", "0 to 2"]),
    ],
    ids=["width", "L0", "layer"],
)
def test_sae_that_does_not_exist(options: list[str], words: list[str], fails: Fails, tiny_options: list[str]) -> None:
    """Whoever asks for an SAE that is not there is not told which ones are."""
    says(fails("run", *tiny_options, *options), *words)


def test_layer_without_saes(
    fails: Fails, command: Command, tiny: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    """A layer that is asked for is left out; or one that is not, silently."""
    for layer in (0, 2):
        shutil.copytree(tiny / "saes" / f"layer_{layer}", tmp_path / "saes" / f"layer_{layer}")
    options = [*tiny_options, "--sae-repo", str(tmp_path / "saes")]
    says(fails("run", *options, "--layers", "0-1"), "layer 1", "0, 2")
    plan = command("plan", *options, cwd=tmp_path)
    assert plan.returncode == 0
    says(plan.stderr, "Warning: ", "layers 1", "left out")


def write_sae(folder: Path, **arrays: tuple[int, ...]) -> Path:
    path = folder / "layer_0" / "width_1k" / "average_l0_50" / "params.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **{name: np.ones(shape, dtype=np.float32) for name, shape in arrays.items()})
    return path


def test_saes_of_another_model(fails: Fails, tiny_options: list[str], tmp_path: Path) -> None:
    """The SAEs of another model are only found out by an actor, after minutes."""
    write_sae(tmp_path / "saes", W_enc=(48, 1024), b_enc=(1024,), threshold=(1024,))
    message = fails("run", *tiny_options, "--sae-repo", str(tmp_path / "saes"), code=FAILED)
    says(message, str(tmp_path / "saes"), "48", "32", "d_model", "belong together")


def test_sae_of_another_kind(fails: Fails, tiny_options: list[str], tmp_path: Path) -> None:
    """An SAE without thresholds is taken for a JumpReLU SAE."""
    write_sae(tmp_path / "saes", W_enc=(32, 1024), b_enc=(1024,))
    message = fails("run", *tiny_options, "--sae-repo", str(tmp_path / "saes"), code=FAILED)
    says(message, str(tmp_path / "saes"), "no threshold", "JumpReLU")


def test_sae_cut_short(fails: Fails, tiny_options: list[str], tmp_path: Path) -> None:
    """A file that was copied in part is only found out by an actor, after minutes."""
    path = write_sae(tmp_path / "saes", W_enc=(32, 1024), b_enc=(1024,), threshold=(1024,))
    path.write_bytes(path.read_bytes()[:100_000])
    message = fails("run", *tiny_options, "--sae-repo", str(tmp_path / "saes"), code=FAILED)
    says(message, "params.npz", str(tmp_path / "saes"), "broken", "again")


def test_folder_without_saes(fails: Fails, tiny_options: list[str], tmp_path: Path) -> None:
    """The wrong folder is taken for SAEs."""
    (tmp_path / "saes").mkdir()
    message = fails("run", *tiny_options, "--sae-repo", str(tmp_path / "saes"))
    says(message, str(tmp_path / "saes"), "no SAEs", "layer_N/width_W/average_l0_Y/params.npz")


# Models


def is_llama(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def lacks_a_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": None}))


def has_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def has_a_broken_index(folder: Path) -> None:
    """Of weights in several files; beside them all in one, which is what transformers loads then, none is read."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (is_llama, ["llama", "gemma2"]),
        (lacks_a_size, ["config.json", "hidden_size"]),
        (lambda folder: (folder / "config.json").write_text('{"model_type'), ["config.json", "not JSON"]),
        (lambda folder: (folder / "tokenizer.json").unlink(), ["no tokenizer.json"]),
        (has_pickles, [".bin", "safetensors", "convert"]),
        (has_a_broken_index, ["model.safetensors.index.json"]),
    ],
    ids=["another model", "no d_model", "broken config", "no tokeniser", "pickles", "broken index"],
)
def test_folder_that_is_no_gemma(
    spoil: Callable[[Path], object],
    words: list[str],
    fails: Fails,
    tiny: Path,
    tiny_options: list[str],
    tmp_path: Path,
) -> None:
    """A folder is taken for a model that it is not, or its fault is not named."""
    folder = tmp_path / "model"
    shutil.copytree(tiny / "model", folder)
    spoil(folder)
    says(fails("plan", *tiny_options, "--model", str(folder)), str(folder), *words)


# Questions

QUESTION = '{"goal": "dry a cup", "sol1": "with a cloth", "sol2": "with a stone", "label": 0}'


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([QUESTION, "dry a cup"], ["line 2", "not JSON", "one JSON object"]),
        ([QUESTION, "", '["dry a cup"]'], ["line 3", "array", "one JSON object"]),
        ([QUESTION, QUESTION.replace("0}", "2}")], ["line 2", "label 2", "0 (sol1 is right) or 1 (sol2 is right)"]),
        ([QUESTION.replace(', "label": 0', "")], ["label", "questions-labels.lst"]),
    ],
    ids=["not JSON", "an array", "label 2", "no label"],
)
def test_question_file_that_cannot_be_used(
    lines: list[str], words: list[str], fails: Fails, tiny_options: list[str], tmp_path: Path
) -> None:
    """A broken question is passed over, or the message does not say where it is."""
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines))
    says(fails("plan", *tiny_options, "--dataset", str(path)), str(path), *words)


def test_question_file_that_is_not_there(fails: Fails, tiny_options: list[str], tmp_path: Path) -> None:
    """A misspelt file is not named."""
    path = tmp_path / "questions.jsonl"
    says(fails("plan", *tiny_options, "--dataset", str(path)), str(path), "no such file", "piqa, arc_easy", "bundled")


def test_more_questions_than_there_are(command: Command, tiny_options: list[str], tmp_path: Path) -> None:
    """Whoever asks for more questions than there are gets none, or takes a smaller sample for what was asked."""
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{QUESTION}\n" * 3)
    options = ["--dataset", str(path), "--num-samples", "5", "--output-file", str(tmp_path / "records.jsonl")]
    plan = command("plan", *tiny_options, *options)
    assert plan.returncode == 0, plan.stderr
    (warning,) = (line for line in plan.stderr.splitlines() if "resid_post is assumed" not in line)
    says(warning, "Warning: ", "5", "3")
    says(plan.stdout, "3 of 3")


# The output file


def test_a_relative_output_file_is_refused_in_a_job(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records would lie in a folder that Ray deletes, and a job submitted again would not find them."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    says(fails("run", "--standin", "--output-file", "records.jsonl"), "--output-file: records.jsonl", "absolute path")
    says(fails("run", "--standin", "--timeline", "t.json"), "--timeline: t.json", "absolute path")


def test_output_in_no_folder(fails: Fails, tiny_options: list[str], output: Path) -> None:
    """Hours of work have nowhere to go, or a folder is made of a misspelt name."""
    path = output / "missing" / "records.jsonl"
    says(fails("plan", *tiny_options, "--output-file", str(path)), "--output-file", str(path.parent), "no folder")


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_output_is_a_folder(name: str, fails: Fails, tiny_options: list[str], output: Path) -> None:
    """Hours of work have nowhere to go: neither the lines (to `x.jsonl`) nor at the end the array (to `x.json`)."""
    (output / name).mkdir()
    message = fails("plan", *tiny_options, "--output-file", str(output / "x.json"))
    says(message, "--output-file", f"{output / name} is a folder")


def test_output_that_is_the_questions(fails: Fails, tiny_options: list[str], output: Path) -> None:
    """`--overwrite` takes the questions away that the run is to read."""
    questions = output / "records.jsonl"
    questions.write_text('{"goal": "dry a cup", "sol1": "in water", "sol2": "with a towel", "label": 1}\n')
    options = [*tiny_options, "--dataset", str(questions), "--num-samples", "all"]
    says(fails("run", *options, "--output-file", str(questions), "--overwrite"), "--output-file", "reads or writes")
    says(fails("run", *options, "--output-file", str(output / "x"), "--timeline", str(questions)), "--timeline")


def test_array_without_its_records(fails: Fails, tiny_options: list[str], output: Path) -> None:
    """A file of the user is replaced at the end of a run."""
    (output / "x.json").write_text("[]\n")
    says(fails("run", *tiny_options, "--output-file", str(output / "x.json")), str(output / "x.json"), "--overwrite")


def test_output_is_no_regular_file(fails: Fails, tiny_options: list[str], output: Path) -> None:
    """A pipe or a device is read to the end that it does not have."""
    os.mkfifo(output / "records.jsonl")
    says(fails("plan", *tiny_options), str(output / "records.jsonl"))


def test_records_without_a_manifest(fails: Fails, tiny_options: list[str], output: Path) -> None:
    """A file of the user is overwritten, or gone on with whatever made it."""
    (output / "records.jsonl").write_text('{"example_id":0}\n')
    message = fails("run", *tiny_options)
    says(message, str(output / "records.jsonl"), "records.jsonl.manifest.json", "--output-file", "--overwrite")


MOUNT_AND_RUN = """
folder=$1 options=$2 listing=$3; shift 3
mount -t tmpfs -o "$options" tmpfs "$folder" || exit 99
"$@"; code=$?
ls -A "$folder" > "$listing"
exit $code
"""


@pytest.fixture
def fails_on_mount(hub_home: Path, tiny_options: list[str], tmp_path: Path, output: Path) -> Fails:
    """Runs a job whose output folder is a file system of its own, mounted with options; gives the message."""

    def run(mount_options: str) -> str:
        command = [sys.executable, "-m", "layerscope", "run", *tiny_options, "--output-file", str(output / "x.jsonl")]
        listing, ray = tmp_path / "listing", tmp_path / "ray"
        shell = ["unshare", "-rm", "sh", "-c", MOUNT_AND_RUN, "sh", str(output), mount_options, str(listing)]
        result = subprocess.run(
            [*shell, *command],
            env={**os.environ, "HF_HOME": str(hub_home), "RAY_TMPDIR": str(ray)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if not listing.exists():
            pytest.skip(f"this machine lets nobody mount a file system: {result.stderr.strip()[:200]}")
        message = message_of(result, FAILED if "size=64k" in mount_options else USAGE)
        assert listing.read_text() == ""
        assert not ray.exists()
        return message

    if shutil.which("unshare") is None:
        pytest.skip("this machine has no unshare")
    return run


def test_no_right_to_write(fails_on_mount: Fails, output: Path) -> None:
    """Hours of work have nowhere to go."""
    says(fails_on_mount("ro,size=64m"), str(output), "cannot be written", "--output-file")


def test_no_space(fails_on_mount: Fails, output: Path) -> None:
    """A run that cannot end is started, or the message does not say how much room it needs."""
    message = fails_on_mount("rw,size=64k")
    says(message, str(output), "free", "Make room", "--output-file")
    sizes = [float(size) for size in re.findall(r"([\d.]+) [kMG]?B", message)]
    assert len(sizes) == 2
    assert min(sizes) > 0, message


# Going on with other settings


@pytest.fixture
def made_with(tiny: Path, output: Path) -> Callable[..., None]:
    """Makes an output file as a run of `tiny_options` with some changes would have begun it."""

    def make(**changes: object) -> None:
        config = {
            "model": str(tiny / "model"),
            "sae_repo": str(tiny / "saes"),
            "sae_width": "1k",
            "dataset": "bundled",
            "address": "local",
            "num_samples": 30,
            "batch_tokens": 200,
            "output_file": str(output / "records.jsonl"),
        }
        job = prepare(Config(**config | changes), [probe()])  # type: ignore[arg-type]
        with journal.open_journal(
            job.output.records, job.identity(), job.about("layerscope run"), overwrite=False
        ) as file:
            file.append([b'{"example_id": 0}\n'])

    return make


def differences(message: str) -> dict[str, str]:
    """What a message says of each setting that differs, by the setting's name."""
    told = message.split("other settings: ")[1].split("\n")[0].removesuffix(".")
    return dict(difference.split(" ", 1) for difference in told.split("; "))


def test_records_of_other_settings(
    fails: Fails, command: Command, tiny_options: list[str], output: Path, made_with: Callable[..., None]
) -> None:
    """Records of two settings are mixed in one file, or neither run nor plan names every setting that differs."""
    made_with(top_k=5, seed=1, layers="0,2", sae_l0="max", sae_dtype="bfloat16", threads=2, strip_solutions=True)
    message = fails("run", *tiny_options)
    says(message, str(output / "records.jsonl"), "--overwrite", "--output-file")
    told = {
        "settings.top_k": "was 5, is 100",
        "settings.seed": "was 1, is 0",
        "settings.layers": "was 0,2, is 0-2",
        "settings.sae_l0": "was max, is canonical",
        "settings.sae_dtype": "was bfloat16, is float32",
        "settings.threads": "was 2, is 1",
        "settings.strip_solutions": "was True, is False",
    }
    assert {name: what for name, what in differences(message).items() if name.startswith("settings.")} == told
    plan = command("plan", *tiny_options, "--output-file", str(output / "records.jsonl"))
    assert plan.returncode == 0, plan.stderr
    says(plan.stdout, "1 of 30", *(f"{name} {what}" for name, what in told.items()))


def test_records_of_other_weights(
    fails: Fails, tiny: Path, tiny_options: list[str], tmp_path: Path, made_with: Callable[..., None]
) -> None:
    """A model that was trained on under the same name goes on with the records of the old one."""
    made_with()
    shutil.copytree(tiny / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    old = weights.read_bytes()
    weights.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    before, after = (hashlib.sha256(content).hexdigest() for content in (old, weights.read_bytes()))
    found = differences(fails("run", *tiny_options, "--model", str(tmp_path / "model")))
    assert found == {"model.files.model.safetensors": f"was {before}, is {after}"}
