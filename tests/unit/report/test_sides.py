"""Two runs on one page: what `compare` finds, what each one's features say, and who is refused."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from playwright.sync_api import expect

from browsing import axe_script, opened, overlapping_texts, violations
from layerscope.analysis.findings import analyse
from layerscope.cli import main
from layerscope.records.manifest.manifest import manifest_path
from layerscope.report.words.sides_said import verdict
from layerscope.tables.compare import compare
from made_up import edit_manifest
from pdf_pages import marks_on_pages
from synthetic_run import Effect, Spec, write_run

PRINTED = Callable[[], Any]
FIRES = Effect(1, 7, 0.95, 0.05)
SIDES = ("positive_solution_details", "negative_solution_details")
HOSTILE = "<img src=x onerror=alert(1)> \u202e =1+1"


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        change(record)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))


def write_two(folder: Path) -> tuple[Path, Path]:
    """B is another model's: with the same questions, 20 right answers turned wrong, and layer 3 instead of layer 0."""
    a, b = folder / "a.jsonl", folder / "b.jsonl"
    write_run(a, Spec(questions=200, layers=(0, 1, 2), active=10, distinct=True, effects=[FIRES], errors=(11,)))
    write_run(
        b, Spec(questions=200, layers=(1, 2, 3), active=10, distinct=True, effects=[FIRES, Effect(2, 9, 0.9, 0.1)])
    )
    of_a = {record["example_id"]: record for record in map(orjson.loads, a.read_bytes().splitlines())}
    rng = random.Random(1)

    def of_other_model(record: dict[str, Any]) -> None:
        first = of_a[record["example_id"]]
        if first["error"]:
            return
        sides = [record[f"{name}_solution_details"] for name in ("positive", "negative")]
        for side, own in zip(
            sides, [first[f"{name}_solution_details"] for name in ("positive", "negative")], strict=True
        ):
            side["text"], side["log_likelihood"] = own["text"], own["log_likelihood"]
        record["question"], record["label"] = first["question"], first["label"]
        if first["model_is_correct"] and rng.random() < 0.14:
            sides[0]["log_likelihood"] = float(np.float32(sides[1]["log_likelihood"] - 1))
        record["model_is_correct"] = sides[0]["log_likelihood"] > sides[1]["log_likelihood"]

    rewrite(b, of_other_model)

    def name(manifest: dict[str, Any]) -> None:
        manifest.pop("progress", None)
        manifest["identity"]["model"]["repository"] = "google/gemma-2-2b-it"

    edit_manifest(b, name)
    return a, b


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_two(tmp_path_factory.mktemp("sides"))


@pytest.fixture(scope="module")
def page(two: tuple[Path, Path]) -> Path:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, two)])
    assert ended.value.code == 0
    return two[0].with_name("a.vs.b.html")


def ended_with(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, words)])
    return int(ended.value.code or 0)


def text_of(page: Path) -> str:
    body = re.sub(rb"<(script|style)\b.*?</\1>", b"", page.read_bytes(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body.decode()))


def test_the_page_says_what_compare_finds(two: tuple[Path, Path], page: Path) -> None:
    found, text = compare(*two), text_of(page)
    acc, common = found["acc"], found["questions"]["common"]
    assert common == 199
    assert acc["only_a_right"] == found["changed"]["left_out"] + len(found["changed"]["questions"]) >= 15
    assert f"A is right more often: in {acc['a_right'] / common:.1%}".replace("%", " %") in text
    assert f"{acc['only_a_right']} questions changed: {acc['only_a_right']} right in A alone, 0 in B alone" in text
    assert "0 by A alone and 1 by B alone" in text
    assert "A: 1 question could not be scored." in text
    assert "model.repository was google/gemma-2-2b, is google/gemma-2-2b-it" in text
    assert "Layer 0: features are not compared one by one, only in A." in text
    assert "Layer 3: features are not compared one by one, only in B." in text
    rows = re.findall(r'<tr data-right="(\w)">(.*?)</tr>', page.read_text("utf-8"))
    assert [right for right, _ in rows] == ["a"] * acc["only_a_right"]
    margins = [entry["margin"] for entry in found["changed"]["questions"]]
    assert margins == sorted(margins, key=lambda margin: -abs(margin["a"] - margin["b"]))
    assert all(margin["a"] > 0 > margin["b"] for margin in margins)


def test_two_runs_of_the_stand_in_that_find_nothing_say_so_once(tmp_path: Path) -> None:
    two = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in two:
        write_run(path, Spec(questions=200, layers=(0, 1), distinct=True))
        edit_manifest(path, lambda manifest: manifest["about"].update(standin=True))
    edit_manifest(two[1], lambda manifest: manifest["identity"]["model"].update(repository="another"))
    assert ended_with(*two) == 0
    text = text_of(tmp_path / "a.vs.b.html")
    assert "Neither in A nor in B is a feature confirmed to tell right from wrong." in text
    assert "0 are the same" not in text
    assert "model the stand-in the stand-in SAEs" in text


def test_features_by_layer_are_those_of_either_report(two: tuple[Path, Path], page: Path) -> None:
    source = page.read_text("utf-8")
    table = source[source.index('data-name="layers"') :]
    rows = {
        int(layer): re.findall(r"<td>(.*?)</td>", cells)
        for layer, cells in re.findall(r'<tr><th scope="row">(\d+)</th>(.*?)</tr>', table)
    }
    assert sorted(rows) == [0, 1, 2, 3]
    for path, place in zip(two, (0, 4), strict=True):
        analysis = analyse(path)
        by_layer, held_out = analysis.right_wrong.firing_by_layer, analysis.right_wrong.held_out
        for index, layer in enumerate(analysis.layers.layer.tolist()):
            tested, confirmed, auroc, _ = rows[layer][place : place + 4]
            assert tested == f"{by_layer.tested[index]:,}"
            assert confirmed == f"{by_layer.confirmed[index]}"
            assert auroc == ("–" if np.isnan(held_out.auroc[index]) else f"{held_out.auroc[index]:.2f}")
    assert rows[1][8] == "1", "the one planted in both"
    assert rows[2][8] == "0"
    assert rows[0][4:] == ["–"] * 6
    chart = source[
        source.index("How far both list the same features") : source.index("</svg>", source.index('"depth"'))
    ]
    assert chart.count('class="whisker"') == 2, "of the layers with the same SAEs"
    assert "1 is the same, of the layers with the same SAEs." in text_of(page)


def test_it_can_be_filtered_sorted_and_taken_away(chromium: Any, page: Path) -> None:
    with opened(chromium, page, ready="table.changed") as tab:
        rows = tab.locator("table.changed tbody tr:visible")
        count = rows.count()
        tab.locator("[name=only]").select_option("b")
        expect(rows).to_have_count(0)
        tab.locator("[name=only]").select_option("a")
        expect(rows).to_have_count(count)
        goal = rows.nth(1).locator(".words").first.inner_text()
        tab.locator("[name=word]").fill(goal)
        expect(rows).to_have_count(1)
        tab.locator("table.changed th button", has_text="margin in A").click()
        assert tab.evaluate("location.hash") == f"#only=a&word={goal.replace(' ', '%20')}&sort.changed=down.margin_A"
        tab.locator("nav a[href='#settings']").click()
        assert "word=" in tab.evaluate("location.hash"), "a section is no filter"
        with tab.expect_download() as coming:
            tab.locator("#changed .download").click()
        assert len(Path(coming.value.path()).read_text("utf-8").splitlines()) == 2
        for kind in ("SVG", "PNG"):
            with tab.expect_download() as coming:
                tab.locator("#depth").get_by_role("button", name=kind).click()
            assert coming.value.suggested_filename.endswith(kind.lower())
    with opened(chromium, page, "#only=a&sort.changed=up.margin_A", ready="table.changed") as tab:
        shown = tab.locator("table.changed tbody tr td:nth-child(2)").all_inner_texts()
        numbers = [float(each.replace("−", "-")) for each in shown]
        assert numbers == sorted(numbers)
        tab.evaluate("location.hash = ''")
        expect(tab.locator("table.changed [aria-sort]")).to_have_count(0)
        assert tab.locator("table.changed tbody tr td:nth-child(2)").all_inner_texts() != shown
    with opened(chromium, page, scripts=False) as tab:
        assert tab.locator("table.changed tbody tr:visible").count() == count
        assert not tab.locator(".filters").is_visible()


def test_everybody_can_read_it(chromium: Any, page: Path) -> None:
    axe = axe_script()
    with opened(chromium, page, ready="table.changed") as tab:
        tab.locator("#depth summary").click()
        assert violations(tab, axe) == []
        pages = marks_on_pages(tab.pdf(format="A4"))
        assert min(pages) > 0
        assert min(pages[:-1]) > 20, f"pages with next to nothing on them: {pages}"
    with opened(chromium, page, ready="table.changed", width=400, color_scheme="dark") as tab:
        assert violations(tab, axe) == []


def test_a_page_that_is_there_is_replaced_and_nothing_else(
    two: tuple[Path, Path], page: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other.html"
    other.write_text("mine")
    assert ended_with(*two, "--to", other) == 2
    assert "made by something else" in capsys.readouterr().err
    assert ended_with(two[0]) == 0, "its own page has another name"
    assert "Is one run right" in page.read_text("utf-8")
    assert ended_with(*two, "--title", "base < tuned") == 0
    source = page.read_text("utf-8")
    assert '<a href="a.html">its report</a>' in source
    assert re.search(r'href="a\.html#q=\d+"', source)
    assert "base &lt; tuned" in source
    two[0].with_suffix(".html").unlink()


def test_what_makes_no_page_is_refused_in_words(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    elsewhere, third = tmp_path / "elsewhere.jsonl", tmp_path / "third.jsonl"
    for path, layers in ((elsewhere, (0, 1)), (third, (0,))):
        write_run(path, Spec(questions=3, layers=layers, seed=1, distinct=True))
    rewrite(elsewhere, lambda record: record.update(question=f"other {record['question']}"))
    edit_manifest(elsewhere, lambda manifest: manifest.pop("progress", None))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(two[0].read_bytes())
    manifest_path(copy).write_bytes(manifest_path(two[0]).read_bytes())
    for words, said in (
        ((*two, elsewhere, third), "A page is of one run or of two side by side; these files are of 4"),
        ((two[0], elsewhere), "have no question in common"),
        ((two[0], copy), "are both the whole run, which would count twice"),
        ((*two, "--all-features"), "--all-features: only for the page of one run"),
        ((*two, "--reading", "max"), "--reading max: "),
        ((two[0], tmp_path / "nothing.jsonl"), "There is no file"),
    ):
        assert ended_with(*words) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.strip().splitlines()) <= 3


def test_hostile_texts_stay_texts(chromium: Any, tmp_path: Path) -> None:
    """And a run without a manifest is put beside one that has it, for what its records say."""
    a, b = write_two(tmp_path)
    for path in (a, b):
        rewrite(path, lambda record: record.update(question=HOSTILE) if record["example_id"] % 7 == 0 else None)
    edit_manifest(a, lambda manifest: manifest.pop("progress", None))
    manifest_path(b).unlink()
    assert ended_with(a, b) == 0
    page = a.with_name("a.vs.b.html")
    with opened(chromium, page, ready="table.changed", width=400, color_scheme="dark") as tab:
        tab.evaluate("document.fonts.ready")
        assert tab.evaluate("document.documentElement.scrollWidth") == 400
        assert overlapping_texts(tab) == []
        assert tab.locator("img").count() == 0
    text = text_of(page)
    assert "B: b.jsonl: No manifest lies beside the file" in text
    assert "which SAE it is of is not known without a manifest" in text
    assert "not known without a manifest" in text[text.index("Settings that differ") :]
    assert "\u202e" not in page.read_text("utf-8")


def counted(a: int, b: int, both: int, neither: int, p: float | None, ahead: tuple[int, int] | None = None) -> Any:
    votes = ahead or (a, b)
    acc = {"a_right": both + a, "b_right": both + b, "only_a_right": a, "only_b_right": b, "p": p}
    acc["goals_ahead"] = dict(zip("ab", votes, strict=True))  # type: ignore[assignment]
    total = a + b + both + neither
    return {"acc": acc, "questions": {"common": total}, "goals": {"effective": float(total)}}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (counted(0, 0, 1, 0, None), "Both are right in the same questions: 1 of the 1 that both scored, 100.0 %."),
        (counted(0, 0, 0, 9, None), "Both are right in none of the 9 that both scored, 0.0 %."),
        (counted(1, 0, 0, 0, 1.0), "Neither is shown to be right more often: A in 100.0 %, B in 0.0 % of the 1"),
        (counted(4, 4, 2, 0, 1.0), "Both are right in 60.0 % of the 10 questions that both scored, but 8 "),
        (counted(20, 3, 9, 9, 0.0005), "A is right more often: in 70.7 % of the 41"),
        (counted(3, 20, 9, 9, 0.0005), "B is right more often: in 70.7 % of the 41"),
        (counted(9, 5, 9, 9, 0.03, (1, 9)), "Neither is shown to be right more often: A in 56.2 %"),
        (counted(6, 3, 9, 9, 0.5), "Neither is shown to be right more often: A in 55.6 %, B in 44.4 % of the 27"),
    ],
)
def test_who_is_right_more_often_is_said_only_where_it_is_shown(found: Any, said: str) -> None:
    assert verdict(found).startswith(said)
