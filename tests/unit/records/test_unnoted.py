"""Records whose manifest is not there are read for what they hold; what is not known is said, and damage still told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import layerscope
from layerscope.analysis.findings import analyse
from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.manifest import manifest_path
from layerscope.records.shards import read_run
from layerscope.records.status import status
from layerscope.records.verify import verify
from layerscope.report.page import report
from layerscope.tables.compare import as_text, compare
from layerscope.tables.export import export
from synthetic_run import Effect, Spec, write_run

SPEC = Spec(
    questions=120, layers=(0, 2), active=16, top_k=12, effects=[Effect(2, 7, first=0.9, second=0.1)], errors=(0,)
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noted") / "run.jsonl"
    write_run(path, SPEC)
    return path


def moved(whole: Path, to: Path, change: Callable[[list[bytes]], list[bytes]] = list) -> Path:
    """The records alone, under another name."""
    to.write_bytes(b"".join(change(whole.read_bytes().splitlines(keepends=True))))
    return to


def test_the_numbers_are_those_of_the_file_with_its_manifest(whole: Path, tmp_path: Path) -> None:
    alone = moved(whole, tmp_path / "moved.jsonl")
    found, known = analyse(alone), analyse(whole)
    assert found.header.unnoted
    assert not known.header.unnoted
    assert found.header.accuracy == known.header.accuracy
    assert (found.header.top_k, found.header.errors, found.header.finished) == (SPEC.top_k, 1, True)
    for name in ("confirmed", "selected"):
        assert np.array_equal(*(getattr(each.right_wrong.firing, name) for each in (found, known)))
    assert found.header.not_canonical == (), "it is not known to be another SAE"


def test_the_page_says_what_is_unknown_and_links_nothing(whole: Path, tmp_path: Path) -> None:
    alone = moved(whole, tmp_path / "moved.jsonl")
    told = report(alone)
    assert "moved.jsonl: No manifest lies beside the file" in told
    page = alone.with_suffix(".html").read_text(encoding="utf-8")
    assert "No manifest lies beside the file" in page
    assert "<small>in the file, 1 with an error</small>" in page
    assert "of unknown width" in page
    assert ", canonical" not in page
    assert "neuronpedia.org" not in page
    report(whole, tmp_path / "whole.html")
    assert "No manifest" not in (tmp_path / "whole.html").read_text(encoding="utf-8")


def test_a_part_that_was_cut_out_is_read_by_every_reader(whole: Path, tmp_path: Path) -> None:
    """As `jq -c 'select(…)'` leaves it: fewer lines, and numbers and spaces written its own way."""

    def cut(lines: list[bytes]) -> list[bytes]:
        return [orjson.dumps(orjson.loads(line)) + b"\n" for line in lines[1::2]]

    part = moved(whole, tmp_path / "part.jsonl", cut)
    run = layerscope.load(part, frames="arrow")
    assert run.summary.questions == len(run.questions()) == 60
    assert "not known" in str(run.summary)
    assert (run.layers, run.readings) == ([0, 2], ("final",))
    assert run.figure("depth").svg
    assert run.features(layers=[2]).equals(layerscope.read_features(part, layers=[2]))
    export(part, tmp_path / "part.parquet", overwrite=False)
    found = compare(part, whole)
    assert found["questions"] == {"common": 60, "scored_only_by_a": 0, "scored_only_by_b": 59}
    assert found["acc"]["only_a_right"] == found["acc"]["only_b_right"] == 0
    assert found["layers"] == {}, "whether both had one SAE is not known"
    text = as_text(found)
    assert "part.jsonl: No manifest" in text
    assert "layer 2: not compared, which SAE it is of is not known" in text
    assert as_text(compare(part, part)).count("layer 2: not compared") == 1


def line_with(change: Callable[[dict[str, object]], object]) -> Callable[[list[bytes]], list[bytes]]:
    def changed(lines: list[bytes]) -> list[bytes]:
        record = orjson.loads(lines[3])
        change(record)
        return [*lines[:3], orjson.dumps(record) + b"\n", *lines[4:]]

    return changed


def drop_a_layer(record: dict[str, object]) -> None:
    for side in ("positive_solution_details", "negative_solution_details"):
        for part in ("active_features_by_layer", "active_feature_count_by_layer"):
            del record[side][part]["2"]  # type: ignore[index]


def own(record: dict[str, Any]) -> dict[str, Any]:
    return record["positive_solution_details"]


def of_a_layer(record: dict[str, Any]) -> list[dict[str, Any]]:
    return own(record)["active_features_by_layer"]["2"]


DAMAGE: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "twice": (lambda lines: [*lines[:5], lines[2]], "line 6: example_id 2 is in line 3 too"),
    "two files in one": (line_with(drop_a_layer), "line 4: the layers are 0, the run's are 0, 2"),
    "another choice": (
        line_with(lambda record: record.update(model_is_correct=not record["model_is_correct"])),
        "line 4: model_is_correct does not follow",
    ),
    "a layer in one place alone": (
        line_with(lambda record: own(record)["active_features_by_layer"].update({"3": []})),
        "line 4: the layers are",
    ),
    "a feature twice": (
        line_with(lambda record: of_a_layer(record).insert(0, of_a_layer(record)[0])),
        "line 4: layer 2 lists|line 4: a feature of layer 2 is listed twice",
    ),
    "another layer's feature": (
        line_with(lambda record: of_a_layer(record)[0].update(layer=0)),
        "line 4: the features of layer 2 are not its own",
    ),
    "weakest first": (
        line_with(lambda record: of_a_layer(record).reverse()),
        "line 4: the features of layer 2 are not its own, strongest first",
    ),
    "more than are active": (
        line_with(lambda record: own(record)["active_feature_count_by_layer"].update({"2": 1})),
        "line 4: layer 2 lists 12 features of 1 active",
    ),
    "metadata of some": (
        line_with(lambda record: record.update(metadata={"category": "kitchen"})),
        "line 4: some records have metadata and others have none",
    ),
    "no record": (lambda lines: [*lines[:3], b"{}\n"], "line 4: "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_that_the_records_show_is_told(name: str, whole: Path, tmp_path: Path) -> None:
    change, told = DAMAGE[name]
    path = moved(whole, tmp_path / "run.jsonl", change)
    for command in (
        report,
        lambda path: compare(path, whole),
        analyse,
        lambda path: layerscope.load(path).questions(),
        layerscope.read_features,
    ):
        with pytest.raises(LayerscopeError, match=told):
            command(path)


def test_lists_may_be_cut_anywhere(whole: Path, tmp_path: Path) -> None:
    """By `jq`, which took the weak ones away: at what length is not known before all are read, and may be any."""
    cut = moved(whole, tmp_path / "run.jsonl", line_with(lambda record: of_a_layer(record).pop()))
    assert len(layerscope.load(cut).features()) == len(layerscope.load(whole).features()) - 1


def test_a_json_array_is_no_empty_table(whole: Path, tmp_path: Path) -> None:
    """It is one line without an end, which was taken for a torn one: its export held nothing, without a word."""
    path = tmp_path / "array.json"
    path.write_bytes(b"[" + b",".join(whole.read_bytes().splitlines()) + b"]")
    for command in (lambda path: export(path, tmp_path / "run.csv", overwrite=False), layerscope.read_questions):
        with pytest.raises(UsageError, match="is a JSON array, and a record is a line"):
            command(path)


def test_what_only_a_manifest_can_tell_is_refused(whole: Path, tmp_path: Path) -> None:
    alone = moved(whole, tmp_path / "moved.jsonl")
    for command in (status, verify):
        with pytest.raises(UsageError, match=r"has no manifest \(moved.jsonl.manifest.json\)"):
            command(alone)
    with pytest.raises(UsageError, match="has no manifest"):
        read_run([alone, whole])
    alone.write_bytes(whole.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(UsageError, match="no line of it is the record of a scored question"):
        report(alone)
    assert manifest_path(whole).exists()
