"""A folder's page lists its runs; a folder that is one run is reported as that run."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from browsing import axe_script, opened, overlapping_texts, violations
from in_parts import PARTS, run, run_of_parts
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.cli import main
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.folders import runs_in
from layerscope.records.writing.locking import open_locked
from layerscope.report.page import report
from synthetic_run import Effect, Spec, write_run

HOSTILE = "<i>x & y.jsonl"


def ended_with(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, words)])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its page, an unfinished one, one of parts, shards, records alone, a spoilt one; and what is none."""
    folder = tmp_path_factory.mktemp("my runs")
    effects = [Effect(1, 7, 0.95, 0.05)]
    write_run(folder / "done.jsonl", Spec(questions=120, layers=(0, 1), active=8, effects=effects, errors=(3,)))
    report(folder / "done.jsonl")
    write_run(folder / HOSTILE, Spec(questions=40, layers=(0,), active=8, planned=1000, solutions=4))
    run_of_parts(folder / "parts.jsonl")
    for index, part in enumerate(PARTS, start=1):
        run(folder / f"shard-{index}.jsonl", part, f"{index}/3", score=-2.0, dtype="float16")
    lines = (folder / "done.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "cut.jsonl").write_bytes(b"".join(lines[:50]))
    (folder / "spoilt.jsonl").write_bytes(b"".join(lines))
    manifest_path(folder / "spoilt.jsonl").write_text("{")
    (folder / "questions.jsonl").write_text('{"goal": "soap"}\n')
    (folder / "notes.txt").write_text("mine")
    (folder / "below").mkdir()
    (folder / "gone.jsonl.manifest.json").write_text("{}")
    assert ended_with(folder) == 0
    return folder


def rows_of(page: Path) -> dict[str, list[str]]:
    found = {}
    for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", page.read_text("utf-8"), re.S):
        cells = re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, re.S)
        name, *others = (re.sub(r"<[^>]+>", "", cell).strip() for cell in cells)
        found[name] = others
    return found


def test_its_runs_are_listed_with_what_each_comes_to(folder: Path) -> None:
    rows = rows_of(folder / "index.html")
    assert list(rows) == [
        "&lt;i&gt;x &amp; y.jsonl",
        "cut.jsonl",
        "done.jsonl",
        "parts.jsonl (3 parts)",
        "shard-1.jsonl and 2 more",
        "spoilt.jsonl",
    ]
    header = analyse(folder / "done.jsonl", Options(permutations=0)).header
    done = rows["done.jsonl"]
    assert done[:5] == ["complete", "120", "120", "1", f"{header.accuracy.share:.1%}".replace("%", " %")]
    assert done[5] == f"{header.accuracy.low:.1%} to {header.accuracy.high:.1%}".replace("%", " %")
    assert done[7:10] == ["1", "google/gemma-2-2b", "synthetic"]
    unfinished = rows["&lt;i&gt;x &amp; y.jsonl"]
    assert unfinished[:3] == ["stopped", "40", "1,000"]
    assert unfinished[7] == "–", "it has no page that says how many"
    assert rows["parts.jsonl (3 parts)"][:4] == ["complete", "7", "7", "1"]
    assert rows["shard-1.jsonl and 2 more"][:4] == ["complete", "7", "7", "1"]
    assert rows["cut.jsonl"][:4] == ["without a manifest", "50", "–", "1"]
    assert rows["cut.jsonl"][8:10] == ["unknown", "unknown"]
    assert rows["spoilt.jsonl"][0] == "cannot be read"
    text = (folder / "index.html").read_text("utf-8")
    assert (
        "6 runs: 1 cannot be read, 3 complete, 1 stopped, 1 without a manifest. 5 runs have no report here yet." in text
    )
    assert re.search(r"spoilt\.jsonl</bdi> cannot be read: .*is not a whole manifest", text)
    assert text.count('<a href="done.html">') == 1


def test_it_is_sorted_and_filtered_and_leads_to_the_reports(chromium: Any, folder: Path) -> None:
    page, axe = folder / "index.html", axe_script()
    with opened(chromium, page, ready="table.filtered") as tab:
        assert violations(tab, axe) == []
        rows = tab.locator("table.filtered tbody tr:visible")
        tab.locator("th button", has_text="accuracy").click()
        told = [float(each.rstrip(" %")) for each in rows.locator("td:nth-child(6)").all_inner_texts() if each != "–"]
        assert told == sorted(told, reverse=True)
        tab.locator("[name=word]").fill("parts")
        expect(rows).to_have_count(1)
        assert tab.evaluate("location.hash") == "#sort.runs=down.accuracy&word=parts"
        with tab.expect_download() as coming:
            tab.get_by_role("button", name="Download CSV").click()
        names, only = (line.split(",") for line in Path(coming.value.path()).read_text("utf-8").splitlines())
        assert len(names) == len(only) == 11
        tab.locator("[name=word]").fill("")
        with tab.expect_navigation():
            tab.locator("a", has_text="done.jsonl").click()
        assert tab.url.endswith("/done.html")
        tab.wait_for_selector("#browser .lane")
    with opened(chromium, page, ready="table.filtered", width=400, color_scheme="dark") as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == 400
        assert overlapping_texts(tab) == []
        assert violations(tab, axe) == []
    with opened(chromium, page, scripts=False) as tab:
        assert tab.locator("table.filtered tbody tr:visible").count() == 6


def test_a_folder_that_is_one_run_is_reported_as_that(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    of_parts, alone, shards = (tmp_path / name for name in ("of_parts", "alone", "shards"))
    for each in (of_parts, alone, shards):
        each.mkdir()
    run_of_parts(of_parts / "x.jsonl")
    write_run(alone / "y.jsonl", Spec(questions=30, layers=(0,), active=8))
    for index, part in enumerate(PARTS, start=1):
        run(shards / f"shard-{index}.jsonl", part, f"{index}/3")
    assert [runs_in(each) for each in (of_parts, alone)] == [[[of_parts / "x.jsonl"]], [[alone / "y.jsonl"]]]
    assert len(runs_in(shards)) == 1
    for each, page in ((of_parts, "x.html"), (alone, "y.html"), (shards, "shard-1.html")):
        assert ended_with(each) == 0
        assert capsys.readouterr().out.startswith(f"report      {each / page} (")
    assert ended_with(of_parts, shards) == 2, "two folders of one run each are two runs, here of one job"
    assert "count twice" in capsys.readouterr().err


def test_a_run_that_is_being_written_is_said_to_be(tmp_path: Path) -> None:
    write_run(tmp_path / "a.jsonl", Spec(questions=20, layers=(0,), active=8, planned=40))
    write_run(tmp_path / "b.jsonl", Spec(questions=20, layers=(0,), active=8))
    descriptor = open_locked(tmp_path / "a.jsonl")
    try:
        assert ended_with(tmp_path) == 0
    finally:
        os.close(descriptor)
    assert rows_of(tmp_path / "index.html")["a.jsonl"][0] == "being written"


def test_what_makes_no_such_page_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty, others = tmp_path / "empty", tmp_path / "others"
    empty.mkdir()
    others.mkdir()
    for name in ("a", "index"):
        write_run(others / f"{name}.jsonl", Spec(questions=3, layers=(0,), active=4))
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    for words, said in (
        ((empty,), "has no output file of a run"),
        ((others,), "is the place of the report of one of these runs"),
        ((folder, "--to", mine), "made by something else"),
        ((folder, "--all-features"), "--all-features: only for the page of one run, and this is of a folder’s runs"),
        ((folder, "--dictionary", "wide"), "--dictionary: only"),
        ((folder, folder / "done.jsonl"), "has several runs: "),
    ):
        assert ended_with(*words) == 2
        assert said in capsys.readouterr().err
    assert mine.read_text() == "mine"
