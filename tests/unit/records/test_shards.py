"""The shards of one job, named in any order, are read as the one run that they are parts of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

import layerscope
from in_parts import ORDER, PARTS, run
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.shards import open_run, two_runs
from layerscope.records.verify import verify
from layerscope.report.page import report
from layerscope.tables.compare import as_text, compare
from layerscope.tables.export import export
from made_up import edit_manifest


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return run(tmp_path / "whole.jsonl", ORDER)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [run(tmp_path / f"part-{index}.jsonl", part, f"{index}/3") for index, part in enumerate(PARTS, start=1)]


ORDERS = [(0, 1, 2), (2, 0, 1), (1, 2, 0)]


@pytest.mark.parametrize("order", ORDERS)
def test_shards_in_any_order_export_as_the_whole_run(
    whole: Path, shards: list[Path], order: tuple[int, ...], tmp_path: Path
) -> None:
    named = [shards[index] for index in order]
    for name in ("x.parquet", "x.json", "x.csv"):
        export(whole, tmp_path / f"whole.{name}", overwrite=True)
        told = export(named, tmp_path / f"shards.{name}", overwrite=True)
        assert "Not among" not in told
    for name in ("x.json", "x.csv", "x.questions.csv"):
        assert (tmp_path / f"shards.{name}").read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
    for name in ("x.parquet", "x.questions.parquet"):
        assert pq.read_table(tmp_path / f"shards.{name}") == pq.read_table(tmp_path / f"whole.{name}")


def test_shards_are_analysed_as_the_whole_run(whole: Path, shards: list[Path]) -> None:
    of_whole, of_shards = (analyse(files, Options(permutations=20)) for files in (whole, shards[::-1]))
    assert of_shards.questions.example_id.tolist() == of_whole.questions.example_id.tolist()
    assert of_shards.features.listed.tolist() == of_whole.features.listed.tolist()
    assert of_shards.header.median_margin == of_whole.header.median_margin
    assert (of_shards.header.planned, of_shards.header.finished) == (len(ORDER), True)
    assert of_shards.header.file == "part-1.jsonl and 2 more"


def test_a_report_of_some_shards_is_of_an_unfinished_run(shards: list[Path], tmp_path: Path) -> None:
    """Else a page about a part of the questions would pass for one about all of them."""
    told = report([shards[2], shards[0]], tmp_path / "page.html")
    assert told.splitlines()[-1] == "Not among these files: shard 2 of 3."
    assert f"5 of {len(ORDER)} questions" in (tmp_path / "page.html").read_text("utf-8")
    assert report([shards[2], shards[0], shards[1]]).startswith(f"report      {shards[0].with_suffix('.html')}")


def test_verify_names_the_shards_that_are_missing(shards: list[Path]) -> None:
    assert verify(shards).endswith(
        "part-1.jsonl and 2 more: 7 of 7 lines, all whole, in order and as they were written."
    )
    assert verify([shards[1], shards[0]]).splitlines()[1:] == ["Not among these files: shard 3 of 3."]
    assert "2 of 2 lines" in verify(shards[1]), "one shard alone is a file like any other"


def test_a_bad_line_is_named_with_its_own_file(shards: list[Path]) -> None:
    content = shards[1].read_bytes()
    shards[1].write_bytes(content.replace(b"4.0", b"4.5", 1))
    for command in (verify, lambda files: export(files, shards[0].with_name("x.csv"), True), report):
        with pytest.raises(LayerscopeError, match=r"part-2\.jsonl, line 1: it is not the line"):
            command(shards)


def test_an_unfinished_shard_counts_what_it_has(tmp_path: Path, shards: list[Path]) -> None:
    short = run(tmp_path / "short.jsonl", PARTS[2], "3/3", written=1)
    assert "6 of 7 lines" in verify([short, *shards[:2]])


OTHERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another model": (lambda m: m["identity"]["model"].update(commit="1" * 40), "model.commit was 0000"),
    "other questions": (lambda m: m["identity"]["plan"].update(sha256="1" * 64), "plan.sha256 was 0000"),
    "another precision": (lambda m: m["identity"]["settings"].update(dtype="bfloat16"), "settings.dtype was float32"),
    "another number of shards": (lambda m: m["identity"]["settings"].update(shard="2/4"), "one of 3, is one of 4"),
    "no shard": (lambda m: m["identity"]["settings"].update(shard=None), "one of 3, is one of 1"),
}


@pytest.mark.parametrize(("change", "told"), OTHERS.values(), ids=OTHERS.keys())
def test_files_of_other_jobs_are_not_mixed(
    shards: list[Path], change: Callable[[dict[str, Any]], object], told: str
) -> None:
    edit_manifest(shards[1], change)
    for files in (shards, shards[::-1]):
        with pytest.raises(UsageError, match="not of one job") as caught:
            verify(files)
        assert str(shards[1]) in str(caught.value)
    with pytest.raises(UsageError, match=told):
        verify(shards)


def test_a_shard_named_twice_would_count_twice(whole: Path, shards: list[Path], tmp_path: Path) -> None:
    copy = run(tmp_path / "copy.jsonl", PARTS[1], "2/3")
    with pytest.raises(UsageError, match=r"part-2\.jsonl and .*copy\.jsonl are both shard 2 of 3"):
        open_run([*shards, copy])
    with pytest.raises(UsageError, match=r"are both the whole run, .*\n.*name one\.$"):
        open_run([whole, whole])
    with pytest.raises(UsageError, match="No file is named"):
        open_run([])


def test_other_hardware_is_told(shards: list[Path]) -> None:
    """It changes last digits, which no shard's own manifest can say of the others."""
    edit_manifest(shards[2], lambda manifest: manifest["identity"].update(hardware="another one"))
    assert verify(shards).splitlines()[1:] == ["The shards were not computed alike: hardware was none, is another one."]


def other_bits(manifest: dict[str, Any], digest: str, instructions: str) -> None:
    digests, known = {"model": digest}, {"torch's instruction set": instructions}
    manifest["fingerprints"] = {"EPYC": {"digests": digests, "circumstances": known}}


def test_other_instructions_under_one_processor_s_name_are_told(whole: Path, shards: list[Path]) -> None:
    """The resume of a run is refused for them, and shards of one job were read together without a word."""
    told = "last digits on EPYC are others: torch's instruction set was AVX512, is AVX2"
    for path, kind in zip([*shards, whole], ("AVX512", "AVX512", "AVX2", "AVX2"), strict=True):
        edit_manifest(path, lambda manifest, kind=kind: other_bits(manifest, kind, kind))
    assert verify(shards).splitlines()[1:] == [f"The shards were not computed alike: {told}."]
    assert verify(shards[:2]).splitlines()[1:] == ["Not among these files: shard 3 of 3."]
    again = run(whole.with_name("again.jsonl"), ORDER)
    edit_manifest(again, lambda manifest: other_bits(manifest, "AVX512", "AVX512"))
    assert compare(again, whole)["settings_that_differ"] == [told]


def test_shards_from_before_and_behind_a_commit_that_changed_no_content_are_one_job(shards: list[Path]) -> None:
    """An edited README on the hub between two nights: every hash agrees."""

    def moved(manifest: dict[str, Any], digit: str) -> None:
        identity = manifest["identity"]
        identity["model"].update(commit=digit * 40, files={"model.safetensors": "f" * 64})
        identity["saes"].update(commit=digit * 40)
        identity["questions"] = {"dataset": "org/name", "split": "test", "revision": digit * 40}

    for path, digit in zip(shards, "122", strict=True):
        edit_manifest(path, lambda manifest, digit=digit: moved(manifest, digit))
    assert "7 of 7 lines" in verify(shards)
    edit_manifest(shards[1], lambda m: m["identity"]["model"]["files"].update({"model.safetensors": "0" * 64}))
    with pytest.raises(UsageError, match=r"not of one job: model\.files\.model\.safetensors was ffff"):
        verify(shards)


def test_a_file_of_questions_that_was_renamed_between_two_shards_is_the_same(shards: list[Path]) -> None:
    edit_manifest(shards[1], lambda manifest: manifest["identity"].update(questions={"dataset": "moved.jsonl"}))
    edit_manifest(shards[0], lambda manifest: manifest["identity"].update(questions={"dataset": "q.jsonl"}))
    assert "5 of 7 lines" in verify(shards[:2])


@pytest.mark.parametrize("shard", ["", "2", "0/3", "a/b", "2/3/4", "1/" + "9" * 5000])
def test_a_shard_that_is_none_is_no_traceback(shards: list[Path], shard: str) -> None:
    edit_manifest(shards[1], lambda manifest: manifest["identity"]["settings"].update(shard=shard))
    with pytest.raises(UsageError, match="not a whole manifest: Expected `str` matching"):
        verify(shards)


def test_two_jobs_are_compared_by_their_shards(tmp_path: Path, whole: Path, shards: list[Path]) -> None:
    (tmp_path / "b").mkdir()
    cuts = (ORDER[:4], ORDER[4:])
    other = [
        run(tmp_path / "b" / f"{index}.jsonl", part, f"{index}/2", dtype="bfloat16", score=-3.5)
        for index, part in enumerate(cuts, start=1)
    ]
    alone = run(tmp_path / "alone.jsonl", ORDER, dtype="bfloat16", score=-3.5)
    expected = compare(whole, alone)
    found = compare(*two_runs([other[1], shards[2], other[0], shards[0], shards[1]]))
    assert found["a"]["file"] == f"{other[0]} and 1 more", "the first file says which run is A"
    found = compare(*two_runs([shards[2], *other, *shards[:2]]))
    for name in ("questions", "acc", "acc_norm", "log_likelihood", "layers", "same_choice"):
        assert found[name] == expected[name], name
    partly = compare(*two_runs([*shards[:2], alone]))
    assert partly["a"]["notes"] == ("Not among these files: shard 3 of 3.",)
    assert orjson.dumps(partly)
    assert "Not among these files: shard 3 of 3." in as_text(partly)


def test_files_of_more_jobs_than_two_or_of_one_are_not_compared(whole: Path, shards: list[Path]) -> None:
    with pytest.raises(UsageError, match="these files are of 1 "):
        two_runs(shards)
    edit_manifest(shards[1], lambda manifest: manifest["identity"]["settings"].update(dtype="bfloat16"))
    with pytest.raises(UsageError, match="these files are of 3 "):
        two_runs([*shards, whole])
    assert two_runs([whole, whole]) == (whole, whole)


def test_a_notebook_reads_shards_as_the_whole_run(whole: Path, shards: list[Path]) -> None:
    """From their folder too."""
    one, several = (layerscope.load(files, frames="arrow") for files in (whole, shards[::-1]))
    assert several.questions().equals(one.questions())
    assert several.features().equals(one.features())
    assert several.features().equals(layerscope.read_features(shards))
    assert several.summary.accuracy == one.summary.accuracy
    for path in (whole, manifest_path(whole)):
        path.unlink()
    assert layerscope.load(whole.parent).files == shards
