"""Ablations as tables hold all that their lines hold, and two files are compared where both took out the same."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

import layerscope
from conftest import Command
from layerscope.errors import UsageError
from layerscope.records.ablations import AblationFile
from layerscope.records.manifest.identity import ChosenFeature, Identity
from layerscope.tables.compare_ablations import ablations_as_text, compare_ablations
from layerscope.tables.export import export
from made_up import identity
from synthetic_ablations import IDENTITY, LAYERS, SETTINGS, write_ablations


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_ablations(tmp_path / "a.jsonl")


def test_an_export_has_a_row_for_every_line(file: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    expected = [
        {
            **{name: line[name] for name in ("example_id", "layer", "feature_id", "control")},
            **{name: line[name] and np.float32(line[name]) for name in ("margin", "margin_ablated")},
            **{name: line[name] for name in ("tokens", "error")},
        }
        for line in lines
    ]
    assert layerscope.read_ablations(file).to_pylist() == expected
    told = export(file, tmp_path / "x.parquet", overwrite=False)
    assert told.startswith(f"{tmp_path / 'x.parquet'}  ")
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == expected
    export(file, tmp_path / "x.csv", overwrite=False)
    assert pyarrow.csv.read_csv(tmp_path / "x.csv").num_rows == len(lines)
    export(file, tmp_path / "x.json", overwrite=False)
    assert json.loads((tmp_path / "x.json").read_text()) == lines
    assert sorted(path.suffix for path in tmp_path.glob("x*")) == [".csv", ".json", ".parquet"]


@pytest.mark.parametrize(
    ("target", "more", "reason"),
    [
        ("x.txt", [], "the suffix says the format"),
        ("a.jsonl", [], "the suffix says the format"),
        ("x.csv", ["--dictionary", "wide"], "ablations are of one dictionary"),
        ("there.csv", [], "there.csv"),
    ],
)
def test_what_an_export_of_ablations_cannot_be(
    file: Path, tmp_path: Path, command: Command, target: str, more: list[str], reason: str
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    before = file.read_bytes()
    refused = command("export", str(file), "--to", target, *more, cwd=tmp_path)
    assert refused.returncode == 2
    assert reason in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2
    assert (file.read_bytes(), (tmp_path / "there.csv").read_text()) == (before, "mine")


def other(path: Path, features: list[ChosenFeature], **changed: object) -> AblationFile:
    settings = replace(SETTINGS, features=features)
    changes = (0.4, -0.1, 0.0, -0.3)
    write_ablations(path, changes=changes, identity=replace(IDENTITY, ablation=settings, **changed))
    return AblationFile.open(path)


def test_the_same_features_are_compared_question_by_question(file: Path, tmp_path: Path, command: Command) -> None:
    b = other(tmp_path / "b.jsonl", [ChosenFeature(1, 7, 9), ChosenFeature(2, 3, None)])
    found = compare_ablations(AblationFile.open(file), b)
    assert found["features"] == {"common": 2, "only_a": 0, "only_b": 0}
    by_control = {(each["feature_id"], each["control"]): each for each in found["effects"]}
    assert (7, "matched") not in by_control  # another feature stands there
    assert len(by_control) == 5
    tables = [layerscope.read_ablations(path).to_pandas() for path in (file, b.path)]
    for (feature_id, control), each in by_control.items():
        changes, flips = [], []
        for table in tables:
            mine = table[(table.feature_id == feature_id) & (table.control.fillna("") == (control or ""))].dropna(
                subset=["margin"]
            )
            mine = mine.sort_values("example_id")
            changes.append((mine.margin_ablated - mine.margin).to_numpy())
            flips.append(((mine.margin > 0) != (mine.margin_ablated > 0)).to_numpy())
        assert each["questions"] == len(changes[0]) == 2
        assert (each["a_mean_change"], each["b_mean_change"]) == pytest.approx([of.mean() for of in changes], abs=1e-6)
        assert each["mean_difference"] == pytest.approx(np.abs(changes[0] - changes[1]).mean(), abs=1e-6)
        assert (each["a_flips"], each["b_flips"]) == tuple(of.sum() for of in flips)
        assert each["both_flip"] == (flips[0] & flips[1]).sum()
        assert each["rank_correlation"] is None  # of two questions
    told = command("compare", str(file), str(b.path))
    assert told.returncode == 0
    assert told.stdout.strip() == ablations_as_text(found)
    assert "2 taken out in both, 0 only in A, 0 only in B" in told.stdout
    assert "ablation.features" not in told.stdout
    assert json.loads(command("compare", str(file), str(b.path), "--json").stdout)["effects"] == found["effects"]


def test_what_has_nothing_in_common_is_not_compared(file: Path, tmp_path: Path) -> None:
    none = other(tmp_path / "none.jsonl", [ChosenFeature(1, 8, None), ChosenFeature(2, 4, None)])
    with pytest.raises(UsageError, match="no feature of the same SAE in common"):
        compare_ablations(AblationFile.open(file), none)
    elsewhere = other(tmp_path / "elsewhere.jsonl", SETTINGS.features, questions={"dataset": "others"})
    with pytest.raises(UsageError, match="are over other questions"):
        compare_ablations(AblationFile.open(file), elsewhere)
    saes = msgspec.convert(identity(LAYERS, 10, 3), Identity, str_keys=True).saes
    saes = replace(saes, layers={**saes.layers, 1: replace(saes.layers[1], sha256="f" * 64)})
    half = compare_ablations(AblationFile.open(file), other(tmp_path / "half.jsonl", SETTINGS.features, saes=saes))
    assert {each["layer"] for each in half["effects"]} == {2}
    assert list(half["layers_left_out"]) == ["1"]
    assert "layer 1: not compared, other SAEs" in ablations_as_text(half)
