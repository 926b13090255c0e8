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
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.shards import read_run
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
    "label of some": (line_with(lambda record: record.pop("label")), "line 4: some records have a label and others"),
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


def cut(*names: str) -> Callable[[list[bytes]], list[bytes]]:
    """As `jq -c 'del(…)'` leaves records: without some keys of theirs and of their solutions."""

    def changed(lines: list[bytes]) -> list[bytes]:
        records = [orjson.loads(line) for line in lines]
        for record in records:
            for part in (record, record["positive_solution_details"] or {}, record["negative_solution_details"] or {}):
                for name in names:
                    part.pop(name, None)
        return [orjson.dumps(record) + b"\n" for record in records]

    return changed


def nulled(*names: str) -> Callable[[list[bytes]], list[bytes]]:
    """As `jq -c '{…}'` leaves records that lack some names which it is given; of solutions, one that no run wrote."""

    def changed(lines: list[bytes]) -> list[bytes]:
        records = [orjson.loads(line) for line in cut(*names)(lines)]
        for record in records:
            record.update(dict.fromkeys(names))
            for side in ("positive_solution_details", "negative_solution_details"):
                if record[side] is not None:
                    record[side]["tokens"] = None
        return [orjson.dumps(record) + b"\n" for record in records]

    return changed


@pytest.mark.parametrize("made", [cut, nulled])
@pytest.mark.parametrize("names", [("label",), ("model_is_correct",), ("label", "model_is_correct", "error")])
def test_what_is_missing_and_follows_or_is_not_needed_is_done_without(
    names: tuple[str, ...], made: Callable[..., Callable[[list[bytes]], list[bytes]]], whole: Path, tmp_path: Path
) -> None:
    """The five keys that the first version wrote, and what `jq '{example_id, question, …}'` keeps."""
    alone = moved(whole, tmp_path / "cut.jsonl", made(*names))
    for command in (report, lambda path: export(path, tmp_path / "cut.csv", overwrite=True)):
        assert ("which solution stood first" in command(alone)) == ("label" in names)
    assert ("which solution stood first" in alone.with_suffix(".html").read_text()) == ("label" in names)
    found, known = (layerscope.load(path) for path in (alone, moved(whole, tmp_path / "moved.jsonl")))
    assert found.findings().equals(known.findings())
    assert found.summary.accuracy == known.summary.accuracy
    left_out = ["label", "error"] if "error" in names else ["label"]
    left = [run.questions().drop(columns=left_out) for run in (found, known)]
    assert left[0].equals(left[1])
    assert found.questions()["label"].isna().all() == ("label" in names)
    pair = compare(alone, whole)
    assert pair["questions"]["common"] == 119
    assert pair["log_likelihood"]["largest_difference"] == 0


def test_where_both_are_as_likely_the_label_decides(whole: Path, tmp_path: Path) -> None:
    """A tie goes to the first solution: without a label the record's word stands, and without both nothing is said."""

    def tie(lines: list[bytes]) -> list[bytes]:
        records = [orjson.loads(line) for line in lines]
        for record, right in zip(records[1:3], (True, False), strict=True):
            likely = record["positive_solution_details"]["log_likelihood"]
            record["negative_solution_details"]["log_likelihood"] = likely
            record["model_is_correct"] = right
            del record["label"]
        return [orjson.dumps(record) + b"\n" for record in records[1:3]]

    alone = moved(whole, tmp_path / "tied.jsonl", tie)
    assert layerscope.load(alone).questions()["model_is_correct"].tolist() == [True, False]
    unsaid = moved(alone, tmp_path / "unsaid.jsonl", cut("model_is_correct"))
    with pytest.raises(LayerscopeError, match="no label, and both solutions are as likely"):
        layerscope.read_questions(unsaid)


def test_a_last_line_without_its_end_counts(whole: Path, tmp_path: Path) -> None:
    """As editors and `"\\n".join` leave it; half a line is still none."""
    lines = whole.read_bytes()
    alone = tmp_path / "ends.jsonl"
    alone.write_bytes(lines.rstrip(b"\n"))
    assert len(layerscope.load(alone).questions()) == SPEC.questions
    report(alone)
    alone.write_bytes(lines[:-20])
    assert len(layerscope.load(alone).questions()) == SPEC.questions - 1


SAYS_NOTHING = {
    "array": (lambda records: orjson.dumps(records), r"is a JSON array, and a record is a line\.\n.*jq -c '\.\[\]' "),
    "indented": (
        lambda records: b"\n".join(orjson.dumps(record, option=orjson.OPT_INDENT_2) for record in records),
        r"records over several lines each, and a record is a line\.\n.*jq -c \. ",
    ),
    "ids alone": (
        lambda records: b"".join(orjson.dumps({"example_id": record["example_id"]}) + b"\n" for record in records),
        r"its first line has no question, positive_solution_details, negative_solution_details\.\n.*cut it anew",
    ),
    "array of lines": (
        lambda records: b"[\n" + b",\n".join(map(orjson.dumps, records)) + b"\n]\n",
        r"is a JSON array, and a record is a line\.\n.*jq -c '\.\[\]' ",
    ),
    "ids as texts": (
        lambda records: b"".join(
            orjson.dumps({**record, "example_id": str(record["example_id"])}) + b"\n" for record in records
        ),
        r"its first line is no record: Expected `int`, got `str` - at `example_id`\.\n.*cut it anew",
    ),
}


@pytest.mark.parametrize("name", SAYS_NOTHING)
def test_where_nothing_can_be_said_two_lines_tell_what_is_missing(name: str, whole: Path, tmp_path: Path) -> None:
    """An array is one line without an end, which was taken for a torn one: its export held nothing, without a word."""
    make, told = SAYS_NOTHING[name]
    path = tmp_path / "an array.json"
    path.write_bytes(make([orjson.loads(line) for line in whole.read_bytes().splitlines()]))
    for command in (
        lambda path: export(path, tmp_path / "run.csv", overwrite=False),
        layerscope.read_questions,
        layerscope.load,
        report,
        lambda path: compare(path, whole),
    ):
        with pytest.raises(UsageError, match=told) as error:
            command(path)
        assert str(error.value).count("\n") == 1
    with pytest.raises(UsageError, match="has no manifest") as error:
        status(path)
    assert ("jq -c '.[]'" in str(error.value)) == name.startswith("array")


def test_no_features_is_told_by_what_they_are_of(whole: Path, tmp_path: Path) -> None:
    alone = moved(whole, tmp_path / "cut.jsonl", lambda lines: cut("active_feature_count_by_layer")(lines[1:]))
    with pytest.raises(UsageError, match="its first line has no active_feature_count_by_layer of its solutions"):
        report(alone)


def test_what_only_a_manifest_can_tell_is_refused(whole: Path, tmp_path: Path) -> None:
    alone = moved(whole, tmp_path / "moved.jsonl")
    for command in (status, verify):
        with pytest.raises(UsageError, match=r"has no manifest \(moved.jsonl.manifest.json\)") as error:
            command(alone)
        assert "`layerscope report`, `export` and `compare` read those" in str(error.value)
        assert "mv " not in str(error.value)
    with pytest.raises(UsageError, match="has no manifest"):
        read_run([alone, whole])
    alone.write_bytes(whole.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(UsageError, match="no line of it is the record of a scored question"):
        report(alone)
    assert manifest_path(whole).exists()


def test_a_renamed_file_finds_its_manifest(whole: Path, tmp_path: Path) -> None:
    renamed = moved(whole, tmp_path / "new name.jsonl")
    moved(manifest_path(whole), tmp_path / "run.jsonl.manifest.json")
    with pytest.raises(UsageError, match=r"run\.jsonl\.manifest\.json has no file beside it; if it is this one's: mv "):
        status(renamed)
