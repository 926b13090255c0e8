"""`layerscope ablate` from the command to its file: which features, what is refused, stopped and gone on with."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import layerscope
from conftest import actors_here, called
from layerscope.analysis.ablations import summarise
from layerscope.engine.batches import ablating
from layerscope.errors import UsageError
from layerscope.hub.repository import open_repository
from layerscope.models.gemma2 import GEMMA_2
from layerscope.planning.saes import Dictionary, acts_at
from layerscope.records.ablations import AblationFile
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.means import save_means
from layerscope.saes.choice import Recipe, SaeChoice
from layerscope.standin.build import StandinSpec, build
from made_up import edit_manifest
from object_storage import a_bucket
from paths import ROOT

Said = subprocess.CompletedProcess[str]
Ablate = Callable[..., Said]


def layerscope_run(folder: Path, tiny: Path, *more: str, output: str = "run.jsonl") -> Path:
    """A small finished run in this process."""
    lines = (ROOT / "distributed/layerscope/standin/questions.jsonl").read_text(encoding="utf-8").splitlines()[:11]
    lines.insert(5, '{"goal": "nothing to say", "sol1": "", "sol2": "x", "label": 0}')
    (folder / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    sources = ["--model", str(tiny / "model"), "--sae-repo", str(tiny / "saes"), "--sae-width", "1k"]
    words = ["run", *sources, "--dataset", "questions.jsonl", "--num-samples", "all", "--batch-tokens", "150"]
    with actors_here():
        done = called(*words, "--output-file", output, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / output


@pytest.fixture(scope="module")
def run_file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layerscope_run(
        tmp_path_factory.mktemp("run"), tiny, "--attribution", "gradient", "--top-k", "20", "--residuals", "float16"
    )


@pytest.fixture
def ablate(run_file: Path, command: Callable[..., Said], one_process: object, tmp_path: Path) -> Ablate:
    assert one_process
    return lambda *words: command("ablate", str(run_file), "--output-file", "a.jsonl", *words, cwd=tmp_path)


IN_PARTS = ["--attribution", "gradient", "--top-k", "20", "--writers", "3", "--gemma-actors", "1"]


@pytest.fixture(scope="module")
def expected(run_file: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The ablations of one feature of the run's plain file."""
    folder = tmp_path_factory.mktemp("ablated")
    with actors_here():
        done = called("ablate", str(run_file), "--output-file", "a.jsonl", "--top", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "a.jsonl").read_bytes()


def test_a_run_with_compressed_lines_is_ablated_as_its_plain_ones_are(
    run_file: Path, command: Callable[..., Said], one_process: object, expected: bytes, tmp_path: Path
) -> None:
    assert one_process
    assert command("export", str(run_file), "--to", "run.jsonl.zst", cwd=tmp_path).returncode == 0
    done = command("ablate", "run.jsonl.zst", "--output-file", "b.jsonl", "--top", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.jsonl").read_bytes() == expected
    refused = command("ablate", "run.jsonl.zst", "--output-file", "c.jsonl.zst", "--top", "1", cwd=tmp_path)
    assert refused.returncode == 2
    assert "no name of plain lines on a disk" in refused.stderr


def test_parts_and_shards_are_ablated_as_the_one_file_that_they_make(
    tiny: Path, command: Callable[..., Said], one_process: object, expected: bytes, tmp_path: Path
) -> None:
    assert one_process
    (tmp_path / "run").mkdir()
    parts = layerscope_run(tmp_path, tiny, *IN_PARTS, output="run/x.jsonl")
    ablated = ["ablate", "run", "--output-file", "b.jsonl"]
    done = command(*ablated, "--top", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.jsonl").read_bytes() == expected
    page = command("report", "run", "--ablations", "b.jsonl", "--to", "page.html", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert "Taken out exactly" in (tmp_path / "page.html").read_text(encoding="utf-8")
    checked = command(*ablated, "--check", "1", "--overwrite", cwd=tmp_path)
    assert "Rank correlation of attribution by the gradient" in checked.stdout
    for own in ("x.jsonl", "x-00001-of-00003.jsonl"):
        refused = command("ablate", "run", "--output-file", f"run/{own}", "--top", "1", cwd=tmp_path)
        assert refused.returncode == 2
        assert "is the run's own file" in refused.stderr
    manifest_path(parts).unlink()  # what is left are shards
    planned = command("ablate", "run", "--output-file", "c.jsonl", "--top", "1", "--plan", cwd=tmp_path)
    assert "48 lines: 12 questions each" in planned.stdout
    (tmp_path / "run" / "x-00002-of-00003.jsonl").unlink()
    (tmp_path / "run" / "x-00002-of-00003.jsonl.manifest.json").unlink()
    refused = command("ablate", "run", "--output-file", "c.jsonl", "--top", "1", cwd=tmp_path)
    assert refused.returncode == 2
    assert "Not among these files: shard 2 of 3." in refused.stderr


def test_a_run_in_object_storage_is_ablated_as_a_file_is(
    tiny: Path, command: Callable[..., Said], one_process: object, expected: bytes, tmp_path: Path
) -> None:
    assert one_process
    with a_bucket() as bucket:
        layerscope_run(tmp_path, tiny, *IN_PARTS, output=bucket.run)
        done = command("ablate", bucket.run, "--output-file", "b.jsonl", "--top", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.jsonl").read_bytes() == expected


def test_the_first_by_attribution_are_ablated_in_every_question_beside_three_controls(
    ablate: Ablate, run_file: Path, tmp_path: Path, command: Callable[..., Said]
) -> None:
    planned = ablate("--top", "3", "--plan")
    assert ", taken out of resid_post, each with matched, random, mean-difference" in planned.stdout
    assert "144 lines: 12 questions each" in planned.stdout
    assert "forward passes over all questions" in planned.stdout
    assert not (tmp_path / "a.jsonl").exists()
    done = ablate("--top", "3")
    assert done.returncode == 0, done.stderr
    file = AblationFile.open(tmp_path / "a.jsonl")
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "a.jsonl.manifest.json"}, "no residuals of its own"
    found = [one for _, one in file.entries()]
    assert len(found) == 3 * 4 * 12
    assert sum(bool(one.error) for one in found) == 3 * 4
    margins = {one.example_id: one.margin for one in found}
    for line in run_file.read_text().splitlines():  # the margins are the run's own, to the bit
        record = json.loads(line)
        if record["error"]:
            continue
        sides = [np.float32(record[f"{side}_solution_details"]["log_likelihood"]) for side in ("positive", "negative")]
        assert np.float32(margins[record["example_id"]]) == np.float32(float(sides[0]) - float(sides[1]))
    assert any(one.tokens and one.margin != one.margin_ablated for one in found)
    assert all(feature.matched is not None for feature in file.settings.features)
    assert "Of 3 features" in done.stdout
    table = layerscope.read_ablations(tmp_path / "a.jsonl").to_pandas()
    assert table["margin_ablated"].notna().sum() == 3 * 4 * 11
    assert table["control"].value_counts(dropna=False).tolist() == [36] * 4
    of_run = ["report", str(run_file), "--ablations", "a.jsonl", "--to", "page.html"]
    assert command(*of_run, cwd=tmp_path).returncode == 0
    assert "Taken out exactly" in (tmp_path / "page.html").read_text(encoding="utf-8")
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    shutil.copy(manifest_path(tmp_path / "a.jsonl"), manifest_path(tmp_path / "b.jsonl"))
    edit_manifest(tmp_path / "b.jsonl", lambda manifest: manifest["identity"]["ablation"].update(run="r" * 32))
    of_run[3] = "b.jsonl"
    assert "ablations of another run" in command(*of_run, cwd=tmp_path).stderr
    verified = command("verify", "a.jsonl", cwd=tmp_path)
    assert "144 of 144 lines of ablations, all whole" in verified.stdout
    told = command("status", "a.jsonl", cwd=tmp_path)
    assert "state     complete" in told.stdout
    assert json.loads(command("status", "a.jsonl", "--json", cwd=tmp_path).stdout)["planned"] == 144
    again = ablate("--top", "3")
    assert again.returncode == 0
    assert again.stdout == done.stdout


def test_one_that_is_stopped_anywhere_goes_on_to_the_same_bytes(
    ablate: Ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerscope.commands.ablate.FEATURES_AT_ONCE", 1)  # two portions a batch
    assert ablate("--top", "2").returncode == 0
    whole = (tmp_path / "a.jsonl").read_bytes()
    calls, lines = list[int](), ablating.Ablator.lines

    def stopping(of: Any, call: int, questions: Any) -> Any:
        calls.append(call)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return lines(of, call, questions)

    monkeypatch.setattr(ablating.Ablator, "lines", stopping)
    stopped = ablate("--top", "2", "--overwrite")
    assert stopped.returncode == 130
    assert "To go on: layerscope ablate" in stopped.stdout
    begun = (tmp_path / "a.jsonl").read_bytes()
    assert 0 < len(begun) < len(whole)
    assert whole.startswith(begun)
    assert summarise(tmp_path / "a.jsonl").missing == whole.count(b"\n") - begun.count(b"\n")
    with (tmp_path / "a.jsonl").open("r+b") as stream:  # as if it had been killed within a portion, and within a line
        stream.truncate(len(begun) - 300)
    refused = ablate("--top", "1")
    assert refused.returncode == 2
    assert "ablation.features was" in refused.stderr
    done = ablate("--top", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == whole


def test_a_check_says_per_layer_how_far_attributions_agree(ablate: Ablate, tmp_path: Path) -> None:
    done = ablate("--check", "4")
    assert done.returncode == 0, done.stderr
    assert "Rank correlation of attribution by the gradient with exact ablation" in done.stdout
    assert "not estimates" not in done.stdout
    by_layer = dict(line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("  layer"))
    assert list(by_layer) == ["0", "1", "2"]
    assert float(by_layer["2"]) > 0.9  # above the last layer but one there is little that saturates
    assert not AblationFile.open(tmp_path / "a.jsonl").settings.controls


def test_a_check_of_relevance_against_means_says_that_it_compares_with_something_else(
    tiny: Path, command: Callable[..., Said], one_process: object, tmp_path: Path
) -> None:
    """And the file of means, which the run named from its own folder, is found from another."""
    assert one_process
    save_means(tmp_path / "means.npz", {layer: np.full(1024, 0.1, np.float32) for layer in range(3)})
    asked = ["--attribution", "relp", "--attribution-baseline", "mean:means.npz", "--top-k", "20"]
    run = layerscope_run(tmp_path, tiny, *asked)
    (tmp_path / "elsewhere").mkdir()
    ablated = ["ablate", str(run), "--check", "2", "--output-file", "a.jsonl"]
    done = command(*ablated, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "Rank correlation of attribution by RelP's rules with exact ablation" in done.stdout
    assert "these are not estimates of it" in done.stdout
    (tmp_path / "means.npz").rename(tmp_path / "others.npz")
    gone = command(*ablated, "--overwrite", cwd=tmp_path / "elsewhere")
    assert gone.returncode == 2
    assert "There is no file " in gone.stderr
    assert str(tmp_path / "means.npz") in gone.stderr or "elsewhere/means.npz" in gone.stderr
    assert len(gone.stderr.splitlines()) == 2


def test_features_are_named_in_files_and_steered(ablate: Ablate, tmp_path: Path) -> None:
    (tmp_path / "these.csv").write_text("layer,feature_id\n2,5\n1,1023\n2,5\n")
    done = ablate("--features", "these.csv", "--steer", "2")
    assert done.returncode == 0, done.stderr
    file = AblationFile.open(tmp_path / "a.jsonl")
    assert [feature[:2] for feature in file.settings.features] == [(1, 1023), (2, 5)]
    assert file.settings.steer == 2
    (tmp_path / "others.jsonl").write_text('{"layer": 1, "feature_id": 1024}\n')
    refused = ablate("--features", "others.jsonl", "--overwrite")
    assert refused.returncode == 2
    assert "the dictionary has the features 0 to 1023" in refused.stderr
    for text, reason in (
        ('{"layer": 9, "feature_id": 1}', "no SAE of that layer"),
        ('[{"layer": 1, "feature_id": 1}]', "row 1 has no layer: it is [{"),
        ("[" * 10_000, "is no list of features"),
        ("\ufeff", "names no feature"),
    ):
        (tmp_path / "others.jsonl").write_text(text)
        assert reason in ablate("--features", "others.jsonl").stderr
    (tmp_path / "others.jsonl").write_text('{"layer": 1, "layer": 2, "feature_id": 1}')
    assert "of layer, layer, feature_id one is there twice" in ablate("--features", "others.jsonl").stderr
    (tmp_path / "these.csv").write_text("layer,layer,feature_id\n2,1,5\n")
    assert "of layer, layer, feature_id one is there twice" in ablate("--features", "these.csv").stderr
    (tmp_path / "these.csv").write_text("layer;feature_id\n1;5\n")
    assert "row 1 has no layer; it has layer;feature_id" in ablate("--features", "these.csv").stderr
    (tmp_path / "these.csv").write_text("layer,feature_id\n1,5\n1,5.0\n")
    assert "row 2 has feature_id '5.0'" in ablate("--features", "these.csv").stderr
    os.mkfifo(tmp_path / "pipe")
    assert "cannot be read: not a plain file" in ablate("--features", "pipe").stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "Say which features"),
        (["--top", "2", "--check", "1"], "one of them"),
        (["--check", "2", "--steer", "1"], "--steer is 1.0"),
        (["--features", "none.csv"], "none.csv cannot be read"),
        (["--features", "x.csv", "--by", "contrast"], "--by says how --top takes features"),
        (["--top", "1", "--layers", "7"], "the run has the layers 0-2"),
    ],
)
def test_what_cannot_be_meant_is_refused(ablate: Ablate, words: list[str], reason: str) -> None:
    refused = ablate(*words)
    assert refused.returncode == 2
    assert reason in refused.stderr


def test_other_files_than_the_runs_are_refused_by_name_and_hash(ablate: Ablate, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "saes", tmp_path / "saes")
    (sae,) = (tmp_path / "saes").glob("layer_1/*/average_l0_110/params.npz")
    arrays = dict(np.load(sae))
    arrays["threshold"] = arrays["threshold"] * 2
    np.savez(sae, **arrays)
    refused = ablate("--top", "1", "--sae-repo", "saes")
    assert refused.returncode == 2
    assert "saes.layers.1.sha256 was" in refused.stderr
    shutil.copytree(tiny / "model", tmp_path / "model")
    with (tmp_path / "model" / "config.json").open("a") as stream:
        stream.write("\n")
    refused = ablate("--top", "1", "--model", "model")
    assert refused.returncode == 2
    assert "model.files.config.json was" in refused.stderr
    gone = ablate("--top", "1", "--sae-repo", "nowhere/")
    assert gone.returncode != 0
    assert len(gone.stderr.splitlines()) <= 3


def test_saes_without_a_decoder_are_refused_before_anything_starts(
    tiny: Path, command: Callable[..., Said], one_process: object, tmp_path: Path
) -> None:
    assert one_process
    shutil.copytree(tiny / "saes", tmp_path / "halves")
    for sae in (tmp_path / "halves").rglob("params.npz"):
        np.savez(sae, **{name: array for name, array in np.load(sae).items() if name not in ("W_dec", "b_dec")})
    run = layerscope_run(tmp_path, tiny, "--sae-repo", str(tmp_path / "halves"))
    (tmp_path / "these.csv").write_text("layer,feature_id\n1,5\n")
    refused = command("ablate", str(run), "--features", "these.csv", "--output-file", "a.jsonl", cwd=tmp_path)
    assert refused.returncode == 1
    assert "params.npz" in refused.stderr
    assert "W_dec" in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2
    assert not (tmp_path / "a.jsonl").exists()


def test_saes_that_write_where_nothing_can_be_taken_out_are_refused_by_name(tmp_path: Path) -> None:
    """An SAE of what a transcoder reads, which is no part of a sum; or what writes at another site than it reads."""
    sae = SaeChoice(1, "1k", None, "params.npz", None, "transcoder", model="gemma-2-2b")
    (tmp_path / "cfg.json").write_text(json.dumps({"hook_name_out": "blocks.1.attn.hook_z"}))
    of_attention = replace(sae, site="attn_out", config="cfg.json", recipe=Recipe(transcodes=True))
    for saes, reason in (
        ((sae,), "write at transcoder"),
        ((replace(of_attention, site="resid_post"),), "write at attn_out"),
        ((replace(sae, recipe=Recipe(transcodes=True)), replace(of_attention)), "write at mlp_out of some layers and"),
    ):
        dictionary = Dictionary("first", open_repository(str(tmp_path)), saes, 1024)
        with pytest.raises(UsageError, match=reason) as refused:
            acts_at(dictionary, SimpleNamespace(family=GEMMA_2))  # type: ignore[arg-type]
        assert len(str(refused.value).splitlines()) == 2


def test_a_half_with_nothing_to_choose_from_is_not_a_run_without_attributions(
    tiny: Path, command: Callable[..., Said], one_process: object, tmp_path: Path
) -> None:
    assert one_process
    run = layerscope_run(tmp_path, tiny, "--attribution", "gradient", "--num-samples", "1")
    for how in ("--top", "--check"):
        refused = command("ablate", str(run), how, "1", "--output-file", "a.jsonl", cwd=tmp_path)
        assert refused.returncode == 2
        assert "and there is none (of its questions 0 are scored)" in refused.stderr
        assert len(refused.stderr.splitlines()) == 2


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "transcoder"])
def test_what_is_read_within_a_layer_is_ablated_there(
    site: Any, command: Callable[..., Said], one_process: object, tmp_path: Path
) -> None:
    assert one_process
    sizes: Any = {"n_layers": 2, "d_model": 32, "vocabulary": 900, "width": "1k", "d_sae": 1024, "l0s": ((20, 60),) * 2}
    build(StandinSpec(**sizes, site=site), tmp_path / "standin")
    sources = ["--model", str(tmp_path / "standin/model"), "--sae-repo", str(tmp_path / "standin/saes"), "--site", site]
    run = layerscope_run(tmp_path, tmp_path / "standin", *sources, "--attribution", "gradient", "--top-k", "40")
    # A little of it moves the margin as the attribution says.
    little = ["--top", "8", "--steer", "-0.02", "--output-file", "a.jsonl"]
    done = command("ablate", str(run), *little, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f", taken out of {'mlp_out' if site == 'transcoder' else site}, each with" in done.stdout
    ablated = layerscope.read_ablations(tmp_path / "a.jsonl").to_pandas()
    of_solutions = layerscope.read_attributions(run).to_pandas().query("tokens != 'prompt'")
    both = ablated[ablated["control"].isna()].merge(
        of_solutions.groupby(["example_id", "layer", "feature_id"], as_index=False)["attribution"].sum()
    )
    assert len(both) > 8
    ratio = (both["margin_ablated"] - both["margin"]) / both["attribution"]
    assert ratio.median() == pytest.approx(-0.02, rel=0.05)


def test_runs_that_cannot_be_ablated_are_refused(
    run_file: Path, command: Callable[..., Said], one_process: object, tmp_path: Path
) -> None:
    assert one_process
    copy = tmp_path / "run.jsonl"
    shutil.copy(run_file, copy)
    shutil.copy(manifest_path(run_file), manifest_path(copy))
    own = command("ablate", str(copy), "--top", "1", "--output-file", str(copy))
    assert own.returncode == 2
    assert "the run's own file" in own.stderr
    shutil.copy(run_file, tmp_path / "other.jsonl")
    shutil.copy(manifest_path(run_file), manifest_path(tmp_path / "other.jsonl"))
    over = command("ablate", str(copy), "--top", "1", "--output-file", "other.jsonl", "--overwrite", cwd=tmp_path)
    assert over.returncode == 2
    assert "holds records and not ablations" in over.stderr
    assert "--overwrite" not in over.stderr
    assert (tmp_path / "other.jsonl").read_bytes() == run_file.read_bytes()
    for name, reason in (
        ("a.json", "no name of plain"),
        ("a/", "no name of plain"),
        ("run.jsonl.marks", "belongs to a run"),
    ):
        (tmp_path / "run.jsonl.marks").touch()
        refused = command("ablate", "run.jsonl", "--top", "1", "--output-file", name, cwd=tmp_path)
        assert refused.returncode == 2
        assert reason in refused.stderr
    ablated = ["ablate", "run.jsonl", "--top", "1", "--output-file", "a.jsonl"]
    edit_manifest(copy, lambda manifest: manifest["about"].update(command="python -c pass"))
    assert "another kind of command" in command(*ablated, cwd=tmp_path).stderr
    shutil.copy(manifest_path(run_file), manifest_path(copy))
    lines = copy.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(lines[:-1]))
    missing = command(*ablated, cwd=tmp_path)
    assert missing.returncode == 1
    assert "missing; 12 lines were written" in missing.stderr
