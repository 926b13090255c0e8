"""A random dictionary fires as often as the SAEs' features do, is encoded as any other, and stands beside them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

import layerscope
from conftest import actors_here, called
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.errors import UsageError
from layerscope.records.manifest.manifest import manifest_path
from layerscope.tables.random_dictionary import random_sae
from several import write_several
from synthetic_run import Effect

ALL = ["--top-k", "all", "--residuals", "float32"]


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("runs")
    sources = ["--model", str(tiny / "model"), "--sae-repo", str(tiny / "saes"), "--sae-width", "1k"]

    def made(name: str, *more: str) -> Path:
        words = ["run", *sources, "--dataset", "bundled", "--num-samples", "40", "--output-file", name, *more]
        with actors_here():
            done = called(*words, cwd=folder)
        assert done.returncode == 0, done.stderr
        return folder / name

    return made


def test_its_features_fire_in_a_run_as_often_as_their_counterparts(run: Callable[..., Path], tmp_path: Path) -> None:
    pilot = run("pilot.jsonl", *ALL)
    folder = layerscope.write_random_dictionary(pilot, tmp_path / "random", seed=3)
    again = layerscope.write_random_dictionary(pilot, tmp_path / "again", seed=3)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.npz"))
    assert [path.parts[:2] for path in files] == [(f"layer_{layer}", "width_1k") for layer in range(3)]
    assert [(folder / path).read_bytes() for path in files] == [(again / path).read_bytes() for path in files]
    records = run("run.jsonl", "--top-k", "all", "--dictionary", f"random={folder},width=1k")
    fired = np.zeros((2, 3, 1024), dtype=int)
    total = np.zeros((2, 3))
    for line in records.read_bytes().splitlines():
        for side in ("positive", "negative"):
            details = orjson.loads(line)[f"{side}_solution_details"]
            for number, of in enumerate((details, details["other_dictionaries"]["random"])):
                for layer, features in of["active_features_by_layer"].items():
                    for feature in features:
                        fired[number, int(layer), feature["feature_id"]] += 1
                        total[number, int(layer)] += feature["activation"]
    assert fired[0].sum() > 3 * 40 * 10
    # Two solutions that a direction tells apart by less than float32 rounds may change sides.
    off = np.abs(fired[0] - fired[1])
    assert off.max() <= 1
    assert off.mean() < 0.002
    assert total[1] == pytest.approx(total[0], rel=1e-3)
    hashes = orjson.loads(manifest_path(records).read_bytes())["identity"]["other_dictionaries"]["random"]["layers"]
    assert len({file["sha256"] for file in hashes.values()}) == 3
    other = layerscope.write_random_dictionary(pilot, tmp_path / "other", seed=4)
    with actors_here():
        refused = called("run", *_same(records), "--dictionary", f"random={other},width=1k", cwd=records.parent)
    assert refused.returncode != 0
    assert "other_dictionaries" in refused.stderr


def _same(records: Path) -> list[str]:
    """The words of a run's command but for its dictionaries."""
    about = orjson.loads(manifest_path(records).read_bytes())["about"]
    return str(about["command"]).split(" run ")[1].split(" --dictionary")[0].split()


def test_some_never_fire_and_some_always() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    times = np.array([0, 1, 29, 30] * 200)
    arrays = random_sae(rows, times, 6000.0, (0, 1))
    above = np.maximum(rows @ arrays["W_enc"] + arrays["b_enc"], 0)
    np.testing.assert_array_equal((above > 0).sum(axis=0), times)
    assert above.sum() == pytest.approx(6000, rel=1e-4)
    assert not np.array_equal(arrays["W_enc"], random_sae(rows, times, 6000.0, (0, 2))["W_enc"])


def test_what_it_is_made_of_is_asked_for(run: Callable[..., Path], tmp_path: Path) -> None:
    plain = run("plain.jsonl")
    with pytest.raises(UsageError, match="Run with --top-k all --residuals float32"):
        layerscope.write_random_dictionary(plain, tmp_path / "random")
    pilot = run("pilot.jsonl", *ALL)
    with pytest.raises(UsageError, match="--reading max"):
        layerscope.write_random_dictionary(pilot, tmp_path / "random", reading="max")
    assert not (tmp_path / "random").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds something"):
        layerscope.write_random_dictionary(pilot, tmp_path / "there")


def test_a_report_holds_findings_beside_the_runs_own(tmp_path: Path) -> None:
    """Without residuals, and without being asked: the run paid for it."""
    files = write_several(tmp_path, {"random": Effect(1, 77, 0.7, 0.1)})
    options = Options(permutations=50, min_pairs=5)
    analysis = analyse(files["whole"], options)
    selected = analysis.comparison.of("random")
    assert selected is not None
    assert selected.chosen == 1
    assert selected.measured.auroc_low[1] > 0.5
    alone = analyse(files["random"], options).comparison.of("selected")
    assert alone is not None
    np.testing.assert_array_equal(selected.measured.auroc, alone.measured.auroc)
    shards = analyse([files["part1"], files["part2"]], options).comparison.of("random")
    assert shards is not None
    np.testing.assert_array_equal(shards.measured.auroc, selected.measured.auroc)
    assert dict(analyse(files["first"], options).comparison.missing)["random"].startswith("needs ")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    other = write_several(renamed, {"wide": Effect(1, 77, 0.7, 0.1)})
    assert analyse(other["whole"], options).comparison.of("random") is None
