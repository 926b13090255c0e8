"""`--baseline-dictionary` is a pilot, `write_random_dictionary` and a run with `--dictionary`, byte for byte."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

import layerscope
from conftest import actors_here, called
from layerscope.commands import random_saes
from layerscope.commands import run as run_commands
from layerscope.errors import LayerscopeError
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.run import Run
from layerscope.tables import random_dictionary

QUESTIONS, PILOT = 24, 16


@pytest.fixture
def run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """What a run says; it is to end with a code."""
    monkeypatch.setattr(random_saes, "PILOT_QUESTIONS", PILOT)
    sources = ["--model", str(tiny / "model"), "--sae-repo", str(tiny / "saes"), "--sae-width", "1k"]
    words = [*sources, "--dataset", "bundled", "--num-samples", str(QUESTIONS), "--seed", "7", "--batch-tokens", "200"]

    def said(*more: str, code: int = 0, command: str = "run") -> str:
        done = called(command, *words, *more, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    with actors_here():
        yield said


def same_saes(one: Path, other: Path) -> bool:
    files = sorted(path.relative_to(one) for path in one.rglob("*.npz"))
    assert len(files) == 3
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


def test_one_command_does_what_three_would_and_goes_on_wherever_it_was_stopped(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--top-k", "9", "--readings", "final,max", "--tokens"]
    pilot = ["--num-samples", str(PILOT), "--top-k", "all", "--residuals", "float32", "--output-file", "pilot.jsonl"]
    run(*pilot)
    by_hand = layerscope.write_random_dictionary(tmp_path / "pilot.jsonl", tmp_path / "saes", seed=7)
    run(*options, "--dictionary", f"random={by_hand}", "--output-file", "by-hand.jsonl")
    wished = [*options, "--baseline-dictionary", "--output-file", "one.jsonl"]
    folder = tmp_path / "one.jsonl.random"

    def killed(*_: object) -> None:
        raise LayerscopeError("The lights went out.")

    with monkeypatch.context() as patch:  # between the pilot and the run
        patch.setattr(random_dictionary, "write_random_dictionary", killed)
        assert "as many random features, which a pilot is run for first" in run(*wished, command="plan")
        run(*wished, code=1)
    assert not (tmp_path / "one.jsonl").exists()
    assert not (folder / "saes").exists()
    (folder / "saes.unfinished").mkdir()
    (folder / "saes.unfinished" / "half").touch()
    assert "pilot.jsonl is complete already" in run(*wished)
    assert same_saes(by_hand, folder / "saes")
    for file in ("pilot.jsonl", "pilot.jsonl.residuals/layer_02.npy"):
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()
    whole = (tmp_path / "one.jsonl").read_bytes()
    assert whole == (tmp_path / "by-hand.jsonl").read_bytes()
    same = [
        orjson.loads(manifest_path(tmp_path / name).read_bytes())["identity"] for name in ("one.jsonl", "by-hand.jsonl")
    ]
    assert same[0] == same[1]
    # What has begun goes on with its random SAEs, and needs the pilot no more.
    shutil.rmtree(folder / "pilot.jsonl.residuals")
    assert str(folder / "saes") in run(*wished, command="plan")
    assert "pilot" not in run(*wished)


def test_a_run_is_ablated_where_its_random_saes_are_not(run: Callable[..., str], tmp_path: Path) -> None:
    run("--baseline-dictionary", "--output-file", "one.jsonl")
    (tmp_path / "these.csv").write_text("layer,feature_id\n1,5\n")
    words = ["--features", str(tmp_path / "these.csv"), "--output-file", "a.jsonl"]
    here = called("ablate", "one.jsonl", *words, cwd=tmp_path)
    assert here.returncode == 0, here.stderr
    (tmp_path / "elsewhere").mkdir()
    copied = called("export", "one.jsonl", "--to", "elsewhere/copy.jsonl.zst", cwd=tmp_path)
    assert copied.returncode == 0, copied.stderr
    shutil.rmtree(tmp_path / "one.jsonl.random")
    there = called("ablate", "copy.jsonl.zst", *words, cwd=tmp_path / "elsewhere")
    assert there.returncode == 0, there.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "elsewhere/a.jsonl").read_bytes()
    assert Run.open(tmp_path / "one.jsonl").manifest.dictionaries == ("random",)


def test_a_second_run_at_once_is_refused_and_touches_nothing(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the pilot, while its random SAEs are written, and while the run itself goes on."""
    wished, refused = ["--baseline-dictionary", "--output-file", "one.jsonl"], list[str]()
    go_on, write = run_commands._go_on, random_dictionary.write_random_dictionary
    folder = tmp_path / "one.jsonl.random"

    def beside(one: Callable[..., Any]) -> Callable[..., Any]:
        def and_another(*words: Any) -> Any:
            here = sorted(folder.rglob("*"))
            refused.append(run(*wished, "--overwrite", code=1))
            assert sorted(folder.rglob("*")) == here
            return one(*words)

        return and_another

    monkeypatch.setattr(run_commands, "_go_on", beside(go_on))
    monkeypatch.setattr(random_dictionary, "write_random_dictionary", beside(write))
    run(*wished)
    assert len(refused) == 3
    assert all("Another run is writing " in told for told in refused)


def test_what_was_begun_with_or_without_it_goes_on_so(run: Callable[..., str], tmp_path: Path) -> None:
    run("--output-file", "without.jsonl")
    told = run("--output-file", "without.jsonl", "--baseline-dictionary", code=2)
    assert "was begun without --baseline-dictionary" in told
    assert not (tmp_path / "without.jsonl.random").exists()
    anew = ["--output-file", "without.jsonl", "--baseline-dictionary", "--overwrite"]
    run(*anew, "--layers", "0,2")
    assert len(list((tmp_path / "without.jsonl.random").rglob("*.npz"))) == 2
    assert "other_dictionaries" in run("--output-file", "without.jsonl", "--layers", "0,2", code=2)
    run(*anew)
    assert len(list((tmp_path / "without.jsonl.random" / "saes").rglob("*.npz"))) == 3
    # A pilot that was made with other settings is not taken for this run's.
    for file in tmp_path.glob("without.jsonl*"):
        if file.is_file():
            file.unlink()
    told = run("--output-file", "without.jsonl", "--baseline-dictionary", "--layers", "0,2", code=2)
    assert "layers" in told
    assert "pilot.jsonl" in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--shard", "1/2"], "which --shard does not give it.\nLeave it out, and give --dictionary random=FOLDER"),
        (["--dataset", "-"], "which --dataset - does not give it.\n"),
        (["--output-file", "s3://bucket/run/"], "where --baseline-dictionary cannot be kept or done.\n"),
        (["--dictionary", "random=auto,l0=min"], "makes SAEs called random, as --dictionary does.\nGive one of them."),
        (["--site", "mlp_out"], "these SAEs read mlp_out.\nLeave it out, or take SAEs of --site resid_post."),
    ],
)
def test_what_it_cannot_do_is_refused_in_two_lines(run: Callable[..., str], more: list[str], told: str) -> None:
    said = run("--baseline-dictionary", *more, code=2)
    assert told in said
    assert said.count("\n") == 2
