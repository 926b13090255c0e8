"""Where a feature is strongest is what the record says, in the page's data and in a browser."""

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from msgspec import UNSET
from playwright.sync_api import expect

from browsing import axe_script, opened, violations
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.records.line.readings import PlacedFeature
from layerscope.records.reading.run import Run
from layerscope.records.verify import verify
from layerscope.report.packs import token_pack
from layerscope.report.packs.question_pack import pack_questions
from layerscope.report.packs.token_pack import Places, pieces
from layerscope.report.page import report
from synthetic_readings import PLANTED, SIDES, write_readings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "run.jsonl"
    write_readings(path, questions=60)
    return path


@pytest.fixture(scope="module")
def planted(run: Path) -> dict[str, Any]:
    """A record in which the planted feature fires for the right solution alone."""

    def fires(record: dict[str, Any]) -> list[bool]:
        lists = [record[side]["other_readings"]["max"]["active_features_by_layer"]["1"] for side in SIDES]
        return [any(feature["feature_id"] == PLANTED for feature in features) for features in lists]

    return next(record for record in map(orjson.loads, run.read_bytes().splitlines()) if fires(record) == [True, False])


def unpacked(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


def test_the_packed_places_are_those_of_the_records(run: Path) -> None:
    analysis = analyse(run, Options(permutations=0, reading="max"))
    pack = pack_questions(Run.open(run), analysis, lambda _: None)
    about, columns = orjson.loads(unpacked(pack.about)), np.frombuffer(unpacked(pack.features), np.uint8)
    entries = about["entries"]
    assert about["placed"]
    places = columns[-10 * entries : -2 * entries].reshape(8, entries).astype(np.int64)  # no activations behind them
    low, high = places[::2], places[1::2]
    packed = low + 256 * high  # token and count of the right solution, then of the wrong one
    ids = columns[-16 * entries : -12 * entries].reshape(4, entries).astype(np.int64)
    found = list(zip(ids[0] + 256 * ids[1], *packed, strict=True))
    expected = []
    for record in map(orjson.loads, run.read_bytes().splitlines()):
        for layer in "01":
            sides = [
                {
                    feature["feature_id"]: (feature["token"], feature["token_count"])
                    for feature in record[side]["other_readings"]["max"]["active_features_by_layer"][layer]
                }
                for side in SIDES
            ]
            nowhere = (65535, 0)
            expected += [
                (key, *sides[0].get(key, nowhere), *sides[1].get(key, nowhere))
                for key in sorted(sides[0].keys() | sides[1].keys())
            ]
    assert set(found) <= set(expected)
    assert any(token > 0 for key, token, *_ in found if key == PLANTED)


def test_activations_at_tokens_are_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than a page holds, those of selected features are; what is left out is said."""
    places = Places(10)
    feature = PlacedFeature(3, 2.0, 1, token=1, token_count=2, token_activations=[1.0, 2.0])
    for selected in (False, True):
        places.add(0, feature, selected)
        places.add(1, None, selected)
    assert places.by_token().tolist() == [1, 2, 1, 2]
    assert [column.tolist() for column in places.planes()[-2:]] == [[1, 1], [0, 0]]
    monkeypatch.setattr(token_pack, "_ROOM", 3)
    crowded = Places(10)
    for selected in (False, True, True):
        crowded.add(1, feature, selected)
        crowded.add(0, None, selected)
    assert crowded.selected_only
    assert crowded.by_token().tolist() == [1, 2]
    assert [column.tolist() for column in crowded.planes()[-2:]] == [[0, 0, 0], [0, 1, 0]]
    assert crowded.left_out == 1


def test_a_feature_whose_activation_is_known_at_every_token_shades_them_all(chromium: Any, tmp_path: Path) -> None:
    write_readings(tmp_path / "run.jsonl", questions=60, by_token=2)
    records = list(map(orjson.loads, (tmp_path / "run.jsonl").read_bytes().splitlines()))
    verify(tmp_path / "run.jsonl")
    report(tmp_path / "run.jsonl", reading="max")
    found = [
        (record, feature)
        for record in records
        for feature in record[SIDES[1]]["other_readings"]["max"]["active_features_by_layer"]["1"]
        if feature["token_count"] == 2
    ]
    record, feature = found[-1]  # so that all before it were counted right
    with opened(chromium, tmp_path / "run.max.html", f"#q={record['example_id']}") as tab:
        tab.get_by_label("shade tokens by").select_option(f"1/{feature['feature_id']}")
        tokens = tab.locator(".solution.wrong .token")
        assert tokens.count() == 2
        shown = [tokens.nth(number).get_attribute("title") or "" for number in (0, 1)]
        expected = [(token, value) for token, value in enumerate(feature["token_activations"]) if value]
        for text, (token, activation) in zip(shown, expected, strict=True):
            assert text.startswith("wrong ")
            assert float(text.split()[1]) == pytest.approx(activation, rel=2e-2)
            assert f"token {token + 1} of {len(feature['token_activations'])}" in text
        strengths = [tokens.nth(number).get_attribute("class") for number in (0, 1)]
        assert strengths[0] != strengths[1]
        expect(tab.locator("article [aria-live]")).not_to_contain_text("not here")


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_the_text_on_every_shade_can_be_read(
    chromium: Any, run: Path, planted: dict[str, Any], color_scheme: str
) -> None:
    """The strongest shade was too light for the text of a dark page."""
    report(run, reading="max")
    with opened(
        chromium, run.with_name("run.max.html"), f"#q={planted['example_id']}", color_scheme=color_scheme
    ) as tab:
        tab.get_by_label("shade tokens by").select_option(f"1/{PLANTED}")
        for level in (4, 3, 2, 1):
            tab.locator(".token").evaluate("(token, level) => { token.className = `token of-${level}`; }", level)
            assert violations(tab, axe_script(), ".solution.right") == []


def test_other_readings_and_files_without_tokens_have_no_places(run: Path) -> None:
    final = pack_questions(Run.open(run), analyse(run, Options(permutations=0)), lambda _: None)
    assert not orjson.loads(unpacked(final.about))["placed"]


@pytest.mark.parametrize(
    ("text", "tokens", "lengths"),
    [
        ("a cup", ["a", " cup"], [1, 4]),
        ("é 👍.", ["é", " ", "", "", "", "👍", "."], [1, 1, 0, 0, 0, 2, 1]),
        ("so\u202e", ["so", "\u202e"], [2, 8]),  # is shown as [U+202E]
        ("\r\n", ["\r", "\n"], None),  # is shown as one character
        ("a cup", UNSET, None),
    ],
)
def test_pieces_are_counted_as_scripts_count_them(text: str, tokens: Any, lengths: list[int] | None) -> None:
    """Else every token behind an emoji is shaded in the wrong place."""
    details: Any = type("Details", (), {"text": text, "tokens": tokens})
    record: Any = type("One", (), {"solutions": (details, details)})
    found = pieces(record)
    assert (None if found is None else found[0]) == lengths


def test_a_chosen_feature_shades_the_token_of_its_record(chromium: Any, run: Path, planted: dict[str, Any]) -> None:
    report(run, reading="max")
    right = planted[SIDES[0]]
    feature = next(
        each
        for each in right["other_readings"]["max"]["active_features_by_layer"]["1"]
        if each["feature_id"] == PLANTED
    )
    with opened(chromium, run.with_name("run.max.html"), f"#q={planted['example_id']}") as tab:
        assert tab.locator(".token").count() == 0
        tab.get_by_label("shade tokens by").select_option(f"1/{PLANTED}")
        token = tab.locator(".token")
        assert token.count() == 1
        assert tab.locator(".solution.right .token").count() == 1
        number = token.locator("sup").inner_text()
        assert float(number) == pytest.approx(feature["activation"], rel=1e-2)
        assert token.inner_text().removesuffix(number) == right["tokens"][feature["token"]]
        place = f"token {feature['token'] + 1} of {len(right['tokens'])}, active there alone"
        expect(tab.locator("article [aria-live]")).to_contain_text(place)
        expect(tab.locator("article [aria-live]")).to_contain_text("wrong not")
        token.focus()
        expect(token).to_be_focused()
        assert place in (token.get_attribute("aria-label") or "")
        shown = tab.locator(".solution.right .text").evaluate("text => text.textContent.replace(/[0-9.]+$/, '')")
        assert shown == right["text"].rstrip(".")
        tab.get_by_label("shade tokens by").select_option("")
        assert tab.locator(".token").count() == 0
        assert tab.locator(".solution.right .text").inner_text() == right["text"]
        tab.emulate_media(media="print")
        assert tab.locator("article .solution:visible").count() == 2
        assert tab.locator(".filters:visible, .list:visible").count() == 0
