"""The page says what the file says, whatever text the file holds, in a real browser and without scripts."""

import base64
import hashlib
import itertools
import math
import re
import shutil
import unicodedata
import webbrowser
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import expect

from browsing import opened, overlapping_texts
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, LengthBin, Options
from layerscope.analysis.testing.halves import in_discovery_half
from layerscope.analysis.testing.proportion import ManySolutions, Proportion
from layerscope.analysis.testing.statistics import proportion
from layerscope.cli import main
from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import visible
from layerscope.neuronpedia.explanations import Explanation
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.run import Run
from layerscope.report.charts.feature_map import effect_class
from layerscope.report.packs import question_pack
from layerscope.report.packs.kept import QUESTIONS, choose_questions
from layerscope.report.packs.question_pack import pack_questions
from layerscope.report.page import Shown, render, report
from layerscope.report.words import sentences
from layerscope.report.words.depth_said import depth_correlation
from layerscope.report.words.many_said import many_solutions
from made_up import edit_manifest
from synthetic_run import Effect, Spec, write_run

SIDES = ("positive_solution_details", "negative_solution_details")
FIRES, MODEL = (1, 7), (2, 5)  # layer and feature planted for the right solution, and for the chosen one
HOSTILE = "<script>alert(\"goal\")</script> & 'quoted' \u202eturned\u202c \x07 bell ]]> <img src=x onerror=alert(1)>"
LONG = "long " * 1000
ARABIC = "كيف أغلي الماء؟"
SPEC = Spec(
    questions=160,
    layers=(0, 1, 2),
    active=24,
    top_k=12,
    effects=[Effect(*FIRES, first=0.9, second=0.1), Effect(*MODEL, first=0.9, second=0.1, by_model=True)],
    errors=(11,),
    seed=3,
)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes every record of a file."""
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        change(record)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    edit_manifest(path, lambda manifest: manifest.pop("progress", None))  # which knows the lines that were there


def hostile_texts(record: dict[str, Any]) -> None:
    texts = {0: HOSTILE, 1: LONG, 2: ARABIC}
    if record["example_id"] in texts:
        record["question"] = record["positive_solution_details"]["text"] = texts[record["example_id"]]
        record["positive_solution_details"][
            "log_likelihood"
        ] = -900.0  # among the worst, which need no script to be seen
        record["model_is_correct"] = False


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with planted features, an error line, and texts that try to break out."""
    path = tmp_path_factory.mktemp("report") / "run.jsonl"
    write_run(path, SPEC)
    rewrite(path, hostile_texts)
    return path


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyse(run, Options(permutations=50))


@pytest.fixture(scope="module")
def page(run: Path, analysis: Analysis) -> Path:
    """The page, with a description of the planted feature."""
    descriptions = {FIRES[0]: {FIRES[1]: Explanation('<b>liquids</b> in "jars"', "somebody (method)", 0.02)}}
    path = run.with_name("page.html")
    path.write_bytes(render([Shown(analysis, pack_questions(Run.open(run), analysis, lambda _: None))], descriptions))
    return path


class Outline(HTMLParser):
    """Tags with their attributes, and the text in each element that is named by `kept`."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, []).append(data)


def text_of(page: bytes) -> str:
    """What a reader without scripts and styles sees, roughly."""
    body = re.sub(rb"<(script|style)\b.*?</\1>", b"", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body.decode()))


# The page as a file


def test_the_page_asks_nobody_for_anything(page: Path) -> None:
    source = page.read_text("utf-8")
    outline = Outline(source)
    for tag, attributes in outline.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert "src" not in attributes
        assert "style" not in attributes  # the policy forbids them, so they would not show
        assert not any(name.startswith("on") for name in attributes)
        if (attributes.get("href") or "").startswith("http"):
            assert tag == "a"
            assert "noopener" in (attributes["rel"] or "")
            assert re.match(r"https://(www\.)?neuronpedia\.org/", attributes["href"] or "")


def test_the_policy_allows_this_style_and_this_script_alone(page: Path) -> None:
    source = page.read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', source)
    assert policy is not None
    written = policy[1].replace("&#39;", "'")
    assert "unsafe" not in written
    assert "default-src 'none'" in written
    for tag in ("style", "script"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", source, flags=re.S)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in written


def test_ids_are_unique_and_every_link_inside_the_page_leads_somewhere(page: Path) -> None:
    tags = Outline(page.read_text("utf-8")).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = {attributes["href"] for _, attributes in tags if (attributes.get("href") or "").startswith("#")}
    # A cell of the map may show a feature beyond the rows of its layer's table; then the layer is found by the script.
    assert {href for href in inside if href and href[1:] not in ids and "feature=" not in href} == set()


def test_what_questions_and_explanations_say_is_text(page: Path) -> None:
    source = page.read_bytes()
    assert b"<script>alert" not in source
    assert b"<img" not in source
    assert b"<b>liquids" not in source
    assert "layers 1 mostly by somebody (method)" in text_of(source)
    assert "\u202e".encode() not in source
    assert b"\x07" not in source
    assert b"[U+202E]turned[U+202C]" in source


@given(st.text())
def test_nothing_invisible_stays(text: str) -> None:
    shown = visible(text)
    kept = {"\n", "\t", "\u200c", "\u200d"}
    hidden = [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in kept]
    turning = [
        c
        for c in shown
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]
    assert not hidden
    assert not turning
    assert visible(shown) == shown


def test_the_title_and_the_tables_say_what_was_planted(page: Path, analysis: Analysis) -> None:
    confirmed = int(analysis.right_wrong.firing_by_layer.confirmed.sum())
    assert confirmed >= 1
    source = page.read_bytes()
    assert sentences.answer(analysis, analysis.right_wrong) in text_of(source)
    assert f"{confirmed} feature" in sentences.answer(analysis, analysis.right_wrong)
    for contrast, (layer, feature) in (("right", FIRES), ("chosen", MODEL)):
        row = re.search(
            rf'id="contrast={contrast}&amp;layer={layer}&amp;feature={feature}"[^>]*class="confirmed">(.*?)</tr>'.encode(),
            source,
            flags=re.S,
        )
        assert row is not None
    index = np.flatnonzero((analysis.features.layer == FIRES[0]) & (analysis.features.feature_id == FIRES[1]))[0]
    firing = analysis.right_wrong.firing
    row = re.search(rf'id="contrast=right&amp;layer={FIRES[0]}&amp;feature={FIRES[1]}".*?</tr>', source.decode(), re.S)
    assert row is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row[0])
    assert str(firing.everything.first_only[index]) in cells
    assert sentences.number(float(firing.validation.effect[index])) in cells
    assert sentences.number(float(firing.discovery.effect[index])) in cells


def test_features_are_linked_only_where_their_sae_has_pages(run: Path, analysis: Analysis) -> None:
    saes = tuple(
        replace(sae, neuronpedia_id=None, canonical=False) if sae.layer == 1 else sae for sae in analysis.header.saes
    )
    partly = replace(analysis, header=replace(analysis.header, saes=saes))
    source = render([Shown(partly, pack_questions(Run.open(run), partly, lambda _: None))], {}).decode()
    links = set(re.findall(r'href="https://www\.neuronpedia\.org/gemma-2-2b/(\d+)-gemmascope-res-16k/\d+"', source))
    assert links == {"0", "2"}
    assert "Layers 1: not the canonical SAE" in text_of(source.encode())
    lists = re.findall(
        r'href="https://neuronpedia\.org/quick-list/\?name=[^"&]+&amp;features=([^"]+)"[^>]*>Open (\d+) in', source
    )
    assert lists
    for features, told in lists:
        assert "1-gemmascope" not in features
        assert unquote(features).count('"index"') == int(told), "rows without a page are counted"


def test_every_warning_is_said_in_words(analysis: Analysis) -> None:
    header = replace(analysis.header, standin=True, planned=1000, cut_share=0.371, top_k=20, errors=3)
    said = "\n".join(sentences.warnings(replace(analysis, header=header)))
    for words in ("stand-in", "Unfinished run: 162 of 1,000", "3 questions could not be scored", "37.1 % of solution"):
        assert words in said
    assert "10 of 159 questions share a goal with another" in said
    assert "5 groups, the largest of 2" in said
    assert "as if there were 154 questions" in said
    whole = replace(analysis.header, errors=0, planned=analysis.header.questions, cut_share=0.0)
    distinct = replace(analysis.questions, group=np.arange(len(analysis.questions.group)))
    assert list(sentences.warnings(replace(analysis, header=whole, questions=distinct))) == []


# Its questions


def unpacked(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


def test_the_packed_features_are_those_of_the_records(run: Path, analysis: Analysis) -> None:
    """Unpacked as the page does it: ids exact, activations to the rounding that the page names."""
    pack = pack_questions(Run.open(run), analysis, lambda _: None)
    content = orjson.loads(unpacked(pack.questions)) | orjson.loads(unpacked(pack.about))
    columns = np.frombuffer(unpacked(pack.features), np.uint8)
    layers, entries, (low, step) = content["layers"], content["entries"], content["scale"]
    cells = len(content["questions"]) * len(layers)
    sizes = [cells, cells, 2 * cells, 2 * cells, *[entries] * 6]
    assert len(columns) == sum(sizes)
    planes = [plane.astype(np.int64) for plane in np.split(columns, np.cumsum(sizes)[:-1])]
    lengths, active = planes[0] + 256 * planes[1], planes[2] + 256 * planes[3]
    ids = sum(plane << shift for plane, shift in zip(planes[4:8], (0, 8, 16, 24), strict=True))
    starts = np.cumsum([0, *lengths])
    scored = [r for r in map(orjson.loads, run.read_bytes().splitlines()) if not r["error"]]
    assert [question[0] for question in content["questions"]] == [record["example_id"] for record in scored]
    for cell, (record, layer) in enumerate((record, layer) for record in scored for layer in layers):
        kept = range(starts[cell], starts[cell + 1])
        for side, name in enumerate(SIDES):
            count = record[name]["active_feature_count_by_layer"][str(layer)]
            listed, other = (
                {f["feature_id"]: f["activation"] for f in record[each]["active_features_by_layer"][str(layer)]}
                for each in (name, SIDES[1 - side])
            )
            cut = [list(listed.values())[-1]] if count > len(listed) else []
            if record[SIDES[1 - side]]["active_feature_count_by_layer"][str(layer)] > len(other):
                cut.append(list(other.values())[-1])
            assert active[2 * cell + side] == count
            assert {int(ids[entry]) for entry in kept} >= set(list(listed)[:10])
            for entry in kept:
                level, activation = planes[8 + side][entry], listed.get(int(ids[entry]))
                if activation is None:
                    assert level == (0 if other[int(ids[entry])] > max(cut, default=0) else 1)
                else:
                    assert math.exp(low + step * (level - 2)) == pytest.approx(
                        activation, rel=math.expm1(step / 2) * 1.01
                    )


@given(st.integers(0, 5000), st.integers(0, 2**32 - 1))
def test_a_big_run_keeps_the_closest_and_the_worst_within_bounds(total: int, seed: int) -> None:
    margin = np.random.default_rng(seed).normal(5, 20, total)
    stub: Any = SimpleNamespace(questions=SimpleNamespace(margin=margin))
    chosen, why = choose_questions(stub)
    assert len(chosen) == min(total, QUESTIONS)
    assert np.array_equal(chosen, np.unique(chosen))
    assert ("one scored question" if total == 1 else f"{min(total, QUESTIONS):,}") in why
    if total > QUESTIONS:
        assert {*np.argsort(np.abs(margin))[: QUESTIONS // 2], *np.argsort(margin)[: QUESTIONS // 4]} <= set(chosen)


def test_long_texts_are_cut_and_the_page_says_so(
    run: Path, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_pack, "_CHARACTERS", 4000)
    monkeypatch.setattr(question_pack, "_LONGEST", (3000, 20))
    pack = pack_questions(Run.open(run), analysis, lambda _: None)
    texts = [text for question in orjson.loads(unpacked(pack.questions))["questions"] for text in question[4:7]]
    assert max(map(len, texts)) == 21
    assert any("longer than 20 characters" in sentence for sentence in pack.kept)


def test_a_file_that_was_replaced_meanwhile_is_refused(run: Path, analysis: Analysis, tmp_path: Path) -> None:
    other = tmp_path / "run.jsonl"
    other.write_bytes(b"".join(run.read_bytes().splitlines(keepends=True)[:50]))
    shutil.copy(manifest_path(run), manifest_path(other))
    edit_manifest(other, lambda manifest: manifest.pop("progress", None))
    with pytest.raises(LayerscopeError, match="was changed while its report was made"):
        pack_questions(Run.open(other), analysis, lambda _: None)


# Any file


EDGES: dict[str, tuple[Spec, str]] = {
    "one question": (Spec(questions=1), "Not known: no feature has 10 pairs"),
    "one layer": (Spec(questions=40, layers=(13,), effects=[Effect(13, 3, 0.95, 0.05)]), "in layer 13"),
    "error lines only": (Spec(questions=3, errors=(0, 1, 2)), "Not known: no question could be scored."),
    "no lines": (Spec(questions=0, planned=9), "Not known: no question is scored yet."),
    "nothing fires": (Spec(questions=12, active=0), "Not known: no feature has 10 pairs"),
    "identical solutions": (Spec(questions=40, identical=True), "Not known: no feature has 10 pairs"),
    "unfinished": (Spec(questions=30, planned=300), "Unfinished run: 30 of 300"),
}


@pytest.mark.parametrize("name", EDGES)
def test_any_file_makes_a_page(name: str, tmp_path: Path) -> None:
    spec, said = EDGES[name]
    path = tmp_path / "run.jsonl"
    write_run(path, spec)
    with path.open("ab") as stream:
        stream.write(b'{"example_id":9999,"question":"torn')  # a run that is writing
    assert (
        report(path)
        == f"report      {path.with_suffix('.html')} ({(path.with_suffix('.html').stat().st_size) / 1000:.0f} kB)"
    )
    shown = text_of(path.with_suffix(".html").read_bytes())
    assert said in shown
    assert "nan" not in re.findall(r"\w+", shown.lower())


@pytest.mark.parametrize("in_discovery", [True, False])
def test_what_could_not_be_tested_is_never_told_as_none_found(tmp_path: Path, in_discovery: bool) -> None:
    """All goals are in one half: nothing can be selected there, or nothing confirmed here."""
    path = tmp_path / "run.jsonl"
    write_run(path, SPEC)
    letters = map("".join, itertools.product("abcdefghij", repeat=3))
    goals = (goal for goal in letters if in_discovery_half(goal) == in_discovery)
    rewrite(path, lambda record: record.update(question=next(goals)) if record.get("question") else None)
    analysis = analyse(path, Options(permutations=50))
    contrast = analysis.right_wrong
    significant = int(contrast.firing_by_layer.significant.sum())
    assert significant > 0
    report(path)
    shown = text_of(path.with_suffix(".html").read_bytes())
    assert not re.search("none found|No difference found|nothing to try|> None", shown)
    half = "confirms" if in_discovery else "selects"
    assert re.search(rf"not known, because no .* half of the questions that {half}, which has none", shown)
    assert "Layer 1 – confirmed for firing" in shown
    assert f"{significant:,} feature" in sentences.answer(analysis, contrast)
    assert "to fire for one solution more often not tested" in sentences.said_of_layer(analysis, contrast, 1)
    assert "too few pairs" in sentences.map_title(contrast) or "enough pairs" in sentences.map_title(contrast)
    assert np.isnan(depth_correlation(analysis, contrast)), "layers without a test have no course with depth"


def test_a_layer_that_could_not_be_tested_is_left_out_of_the_count(analysis: Analysis) -> None:
    """A feature of one layer lost its pairs on the half that confirms, another layer never had any."""
    contrast = analysis.right_wrong
    firing = contrast.firing
    lost = np.flatnonzero(firing.confirmed)[0]
    validation = replace(
        firing.validation, p=np.where(np.arange(len(firing.confirmed)) == lost, np.nan, firing.validation.p)
    )
    by_layer = replace(contrast.firing_by_layer, selectable=np.append(0, contrast.firing_by_layer.selectable[1:]))
    partly = replace(contrast, firing=replace(firing, validation=validation), firing_by_layer=by_layer)
    told = sentences.answer(analysis, partly)
    assert "1 layer without a feature that has enough pairs" in told
    assert "1 selected feature with too few pairs to be confirmed" in told
    assert "Not tested" not in sentences.answer(analysis, contrast)


def share(count: int, total: int) -> Proportion:
    return proportion(np.arange(total) < count, np.arange(total))


def test_what_differs_in_strength_alone_is_not_told_as_no_difference(analysis: Analysis) -> None:
    """A page said that none was found, above a table of features that are confirmed to be stronger on one side."""
    contrast = analysis.right_wrong
    nothing = np.zeros_like(contrast.firing_by_layer.confirmed)
    strong = nothing.copy()
    strong[0] = 3
    by_strength = replace(
        contrast,
        firing_by_layer=replace(contrast.firing_by_layer, confirmed=nothing),
        magnitude_by_layer=replace(contrast.magnitude_by_layer, confirmed=strong),
    )
    told = "3 features that may fire on both are stronger on one."
    assert told in sentences.answer(analysis, by_strength)
    assert "No difference found" not in sentences.answer(analysis, by_strength)
    neither = replace(by_strength, magnitude_by_layer=replace(by_strength.magnitude_by_layer, confirmed=nothing))
    assert "No difference found" in sentences.answer(analysis, neither)
    whole = replace(analysis, right_wrong=by_strength, chosen_rejected=by_strength)
    assert told in sentences.verdict(whole)


def test_few_questions_are_not_told_as_no_difference(analysis: Analysis) -> None:
    """An interval with one half in it is no proof of chance, nor two that overlap of no influence."""
    few = replace(analysis.header, questions=8, accuracy=share(5, 8))
    assert "too few questions (8)" in sentences.accuracy_title(few)
    assert "better than chance" in sentences.accuracy_title(replace(few, accuracy=share(80, 100)))
    five = ManySolutions(80, 5, 0.2, share(90, 100), 2.0)
    assert "better than chance" in sentences.accuracy_title(replace(few, accuracy=share(40, 100), many=five))
    told = many_solutions(100, five)
    assert "80 of 100 questions have more than two solutions, up to 5" in told
    assert "guessing would be right in 20.0 %" in told
    assert "against the mean of the wrong ones the right solution has the higher log-likelihood in 90.0 %" in told
    bins = tuple(LengthBin(low, low, share(count, 4)) for low, count in ((-3, 2), (5, 3)))
    assert "not shown to sway" in sentences.length_title(bins)
    assert "cannot be told" in sentences.length_title(bins[:1])
    assert "No question" in sentences.length_title(())


def test_an_effect_that_no_pair_tells_has_no_colour() -> None:
    assert effect_class(float("nan")) == "untested"
    assert effect_class(0.0) == "first-0"
    assert sentences.odds(float("nan")) == "–"


def test_a_page_is_called_as_one_says(tmp_path: Path) -> None:
    """In its tab and above its heading, where it is shown as words and never taken for markup."""
    small = tmp_path / "small.jsonl"
    write_run(small, Spec(questions=3))
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(small), "--title", "Soup & <b>\u202ebread"])
    told = small.with_suffix(".html").read_text(encoding="utf-8")
    assert re.search("<title>Soup &amp; &lt;b&gt;[^\u202e<]*bread – layerscope</title>", told)
    assert re.search(r'<p class="eyebrow"><b>Soup &amp; &lt;b&gt;[^<]*bread</b> · layerscope · small\.jsonl', told)


def test_a_report_is_replaced_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.jsonl"
    write_run(small, Spec(questions=3))
    report(small)
    first = small.with_suffix(".html").read_bytes()
    report(small)
    assert small.with_suffix(".html").read_bytes() == first
    for target in (small, tmp_path, tmp_path / "notes.html"):
        (tmp_path / "notes.html").write_text("mine")
        with pytest.raises(UsageError):
            report(small, to=target)
    assert (tmp_path / "notes.html").read_text() == "mine"
    for arguments, code in (
        (["report", str(tmp_path / "none.jsonl")], 2),
        (["report", str(small), "--to", str(small)], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
        error = capsys.readouterr().err
        assert error.startswith("layerscope: ")
        assert len(error.splitlines()) <= 3
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_the_command_shows_cached_explanations_and_opens_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=60, effects=[Effect(*FIRES, first=0.95, second=0.05)]))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "layerscope" / "neuronpedia" / "gemma-2-2b" / "1-gemmascope-res-16k" / "explanations.parquet"
    cached.parent.mkdir(parents=True)
    schema = pa.schema([("feature_id", pa.int32()), ("description", pa.string()), ("explainer", pa.string())])
    pq.write_table(pa.table([[FIRES[1]], ["<i>cups</i> and jars"], ["somebody"]], schema=schema), cached)
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", seen.append)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(path), "--to", str(tmp_path / "page.html"), "--open"])
    assert ended.value.code == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    assert seen == [(tmp_path / "page.html").as_uri()]
    assert "<bdi>&lt;i&gt;cups&lt;/i&gt; and jars</bdi>" in (tmp_path / "page.html").read_text("utf-8")


def test_a_page_that_cannot_be_written_is_a_known_error(tmp_path: Path) -> None:
    small = tmp_path / "small.jsonl"
    write_run(small, Spec(questions=3))
    (tmp_path / "file").write_text("")
    with pytest.raises(LayerscopeError, match="name another"):
        report(small, to=tmp_path / "file" / "page.html")


def test_the_models_own_text_in_the_manifest_is_text_too(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=3))
    edit_manifest(path, lambda manifest: manifest["identity"]["model"].update(repository=HOSTILE))
    edit_manifest(path, lambda manifest: manifest["about"].update(command=HOSTILE))
    report(path)
    assert b"<script>alert" not in path.with_suffix(".html").read_bytes()


# In a browser


def test_sorting_searching_and_copying(chromium: Any, page: Path) -> None:
    with opened(chromium, page, "#contrast=right&layer=1") as tab:
        table = tab.locator('[id="contrast=right&layer=1"] table')
        for _ in range(2):
            table.get_by_role("button", name="right only").click()
        column = [int(text) for text in table.locator("tbody td:nth-child(5)").all_inner_texts()]
        assert column == sorted(column)
        assert len(set(column)) > 3
        tab.get_by_label("Search features").first.fill("LIQUIDS")
        rows = tab.locator("section[data-contrast=right] details.layer tbody tr:visible")
        assert rows.count() == 1
        assert rows.first.get_attribute("data-feature") == "1/7"
        assert "<b>liquids</b>" in rows.first.inner_text()
        tab.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
        tab.locator("details.layer:visible button.copy:visible").first.click()
        lines = tab.evaluate("window.copied").strip().split("\r\n")
        assert lines[0].startswith("layer,feature_id,description,right_fires")
        assert lines[1].startswith('1,7,"<b>liquids</b> in ""jars""",')
        assert len(lines) == 2
        assert len(lines[0].split(",")) == len(lines[1].split(","))


def test_the_two_contrasts_are_never_on_the_screen_together(chromium: Any, page: Path) -> None:
    with opened(chromium, page) as tab:
        for name, shown, hidden in (("chosen vs rejected", "chosen", "right"), ("right vs wrong", "right", "chosen")):
            tab.get_by_role("button", name=name).click()
            assert tab.locator(f"[data-contrast={shown}]:visible").count() > 1
            assert tab.locator(f"[data-contrast={hidden}]:visible").count() == 0


def test_filters_and_question_links(chromium: Any, page: Path, run: Path) -> None:
    scored = [r for r in map(orjson.loads, run.read_bytes().splitlines()) if not r["error"]]
    wrong = [record for record in scored if not record["model_is_correct"]]
    with opened(chromium, page) as tab:
        count = lambda: int(tab.locator("#browser .filters .found").first.inner_text().split()[0])  # noqa: E731
        assert count() == len(scored)
        tab.get_by_label("answered wrong").check()
        assert count() == len(wrong)
        tab.get_by_label("order").select_option("wrong")
        margins = tab.locator(".list .margin").all_inner_texts()
        values = [float(text.split()[1].replace("−", "-")) for text in margins]
        assert values == sorted(values)
        assert values[0] < 0
        tab.get_by_label("answered wrong").uncheck()
        tab.get_by_label("contains").fill(ARABIC)
        assert count() == 1
        tab.get_by_label("contains").fill("")
        tab.locator("#browser select[name=layer]").select_option(label=f"layer {FIRES[0]}")
        tab.locator("#browser input[name=feature]").fill(str(FIRES[1]))
        fires = [
            record
            for record in scored
            if any(
                feature["feature_id"] == FIRES[1]
                for side in SIDES
                for feature in record[side]["active_features_by_layer"][str(FIRES[0])]
            )
        ]
        assert count() == len(fires)
        tab.goto(page.as_uri() + "#q=0")
        assert HOSTILE.split(" ")[0] in tab.locator("#browser .goal").inner_text()
        assert "[U+202E]" in tab.locator("#browser .goal").inner_text()


def test_a_question_shows_the_features_of_its_record(chromium: Any, page: Path, run: Path) -> None:
    record = next(r for r in map(orjson.loads, run.read_bytes().splitlines()) if r["example_id"] == 20)
    listed = [[feature["feature_id"] for feature in record[side]["active_features_by_layer"]["2"]] for side in SIDES]
    with opened(chromium, page, "#q=20&layer=2") as tab:
        lane = tab.locator(".lane.marked")
        assert lane.get_attribute("data-lane") == "2"
        groups = [
            {int(re.match(r"\d+", text)[0]) for text in lane.locator(f".{kind} .chip").all_inner_texts()}  # type: ignore[index]
            for kind in ("only-right", "both", "only-wrong")
        ]
        strongest = {*listed[0][:10], *listed[1][:10]}
        right, wrong = set(listed[0]), set(listed[1])
        assert groups[0] >= strongest & right - wrong
        assert groups[1] >= strongest & right & wrong
        assert groups[2] >= strongest & wrong - right
        assert groups[0] <= right - wrong
        assert groups[1] <= right & wrong
        assert groups[2] <= wrong - right


def test_links_into_the_page_open_what_they_name(chromium: Any, page: Path) -> None:
    with opened(chromium, page, f"#contrast=chosen&layer={MODEL[0]}&feature={MODEL[1]}") as tab:
        row = tab.locator("tr.marked:visible")
        assert row.get_attribute("id") == f"contrast=chosen&layer={MODEL[0]}&feature={MODEL[1]}"
        expect(row).to_be_in_viewport()
    with opened(chromium, page, "#layer=0") as tab:
        assert tab.locator('[id="contrast=right&layer=0"] table:visible').count() == 1
        tab.evaluate(f"location.hash = '#fires={FIRES[0]}/{FIRES[1]}'")
        expect(tab.locator("#browser input[name=feature]")).to_have_value(str(FIRES[1]))


def test_the_keyboard_moves_through_layers_and_questions(chromium: Any, page: Path) -> None:
    with opened(chromium, page) as tab:
        tab.locator("a[data-layer]:visible").first.focus()
        tab.keyboard.press("ArrowRight")
        assert tab.evaluate("document.activeElement.dataset.layer") == "1"
        assert tab.locator(".readout.on").inner_text().startswith("Layer 1:")
        tab.keyboard.press("Enter")
        tab.wait_for_selector('[id="contrast=right&layer=1"][open]')
        tab.locator(".list a").first.focus()
        tab.keyboard.press("ArrowDown")
        expect(tab.locator(".list a").nth(1)).to_have_attribute("aria-current", "true")
        expect(tab.locator(".list a").nth(1)).to_be_focused()


def test_light_and_dark_follow_the_system_and_the_button(chromium: Any, page: Path) -> None:
    brightness = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    )
    for scheme in ("light", "dark"):
        with opened(chromium, page, color_scheme=scheme) as tab:
            before = tab.evaluate(brightness)
            assert (before > 384) == (scheme == "light")
            tab.get_by_role("button", name="Light or dark").click()
            assert (tab.evaluate(brightness) > 384) == (scheme == "dark")


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_wider_than_the_screen_and_no_text_of_a_chart_lies_on_another(
    chromium: Any, page: Path, width: int
) -> None:
    with opened(chromium, page, width=width) as tab:
        for name in ("right vs wrong", "chosen vs rejected"):
            tab.get_by_role("button", name=name).click()
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            assert overlapping_texts(tab) == []


def test_without_scripts_both_contrasts_and_the_questions_are_there(chromium: Any, page: Path) -> None:
    with opened(chromium, page, scripts=False) as tab:
        for contrast in ("right", "chosen"):
            section = tab.locator(f"section[data-contrast={contrast}]")
            assert section.locator("table.features:visible tbody tr").count() >= 1
            assert section.locator("svg.wide:visible").count() == 2
            section.locator("details.layer summary").first.click()
            assert section.locator("details.layer table:visible").count() == 1
        assert tab.locator("#plain-questions table:visible tbody tr").count() > 10
        assert tab.locator("button:visible").count() == 0


def test_a_browser_that_cannot_unpack_says_so(chromium: Any, page: Path) -> None:
    context = chromium.new_context()
    context.add_init_script("delete window.DecompressionStream")
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert "lacks DecompressionStream" in tab.locator("#plain-questions").inner_text()
    assert tab.locator("#plain-questions table:visible").count() == 1
    context.close()


# Its intervals


def test_the_chart_of_auroc_has_the_interval_of_auroc(page: Path, analysis: Analysis) -> None:
    """Read off the chart's own axis: where each bar begins and ends, and where its dot is."""
    held_out = analysis.right_wrong.held_out
    chart = next(iter(re.findall(r'<svg class="chart wide".*?</svg>', page.read_text("utf-8"), re.S)))
    panel = chart[chart.index("How well they tell the two apart") : chart.index("Features that fire on both")]
    assert "AUROC, validation half · bar: its 95 % interval" in panel
    marked = [(float(y) - 4, float(said)) for y, said in re.findall(r'y="([\d.]+)" class="tick"[^>]*>(0\.\d+)<', panel)]
    (y, value), (other_y, other) = marked[0], marked[-1]

    def of(place: str) -> float:
        return value + (float(place) - y) * (other - value) / (other_y - y)

    bars = re.findall(r'd="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)" class="whisker"', panel)
    dots = re.findall(r'cy="([\d.]+)" r="[\d.]+" class="first solid"', panel)
    known = np.flatnonzero(~np.isnan(held_out.auroc))
    assert len(bars) == len(dots) == len(known) >= 1
    for index, (low, high), dot in zip(known, bars, dots, strict=True):
        drawn = of(low), of(dot), of(high)
        assert drawn == pytest.approx(
            (held_out.auroc_low[index], held_out.auroc[index], held_out.auroc_high[index]), abs=1e-3
        )
        assert drawn[0] < drawn[1] < drawn[2]


def test_the_margins_have_the_intervals_of_their_shares(page: Path, analysis: Analysis) -> None:
    chart = next(
        iter(re.findall(r'<svg class="chart wide"[^>]*Histogram of margins.*?</svg>', page.read_text("utf-8")))
    )
    columns = [[float(cell) for cell in row.split(",")] for row in re.findall(r'data-row="(.*?)"', chart)]
    assert sum(count for _, _, count, _, _ in columns) == len(analysis.questions.margin)
    margin, group = analysis.questions.margin, analysis.questions.group
    for begin, end, count, low, high in columns[1:-1]:
        share = proportion((margin >= begin) & (margin < end), group)
        assert (count, low, high) == pytest.approx(
            (share.count, share.low * share.total, share.high * share.total), abs=0.06
        )
    assert chart.count('class="whisker"') == sum(count > 0 for _, _, count, _, _ in columns)


def drawn_bars(page: Path, title: str, until: str) -> list[tuple[float, float]]:
    """Where each bar of a panel of the chart over depth begins and ends, by the panel's own axis."""
    chart = next(iter(re.findall(r'<svg class="chart wide".*?</svg>', page.read_text("utf-8"), re.S)))
    panel = chart[chart.index(f">{title}<") :]
    panel = panel[: panel.index(until)]
    marked = [
        (float(y) - 4, float(said))
        for y, said in re.findall(r'y="([\d.]+)" class="tick"[^>]*"end"[^>]*>([\d.]+)<', panel)
    ]
    (y, value), (other_y, other) = min(marked), max(marked)
    bars = re.findall(r'd="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)" class="whisker"', panel)
    return [
        (
            value + (float(low) - y) * (other - value) / (other_y - y),
            value + (float(high) - y) * (other - value) / (other_y - y),
        )
        for low, high in bars
    ]


def test_the_means_by_depth_have_their_intervals_over_goal_groups(page: Path, analysis: Analysis, run: Path) -> None:
    """Counted anew from the file: active features of both sides, and the overlap of what both lists can show."""
    group, layers = analysis.questions.group, [int(layer) for layer in analysis.layers.layer]
    found = [orjson.loads(line) for line in run.read_bytes().splitlines()]
    found = [record for record in found if not record["error"]]
    draws = np.random.default_rng(0).integers(0, group.max() + 1, (3000, group.max() + 1))

    def plain(values: list[float]) -> Any:
        """By draws of whole goal groups."""
        known = ~np.isnan(values)
        of_groups = [np.bincount(group[known], weight) for weight in (np.array(values)[known], np.ones(known.sum()))]
        means = np.divide(*(of_group[draws].sum(axis=1) for of_group in of_groups))
        low, high = np.quantile(means, [0.025, 0.975])
        return pytest.approx((low, high), abs=0.1 * (high - low))

    active = drawn_bars(page, "Active features", ">Overlap of")
    for number, side in enumerate(reversed(SIDES)):
        counts = [[record[side]["active_feature_count_by_layer"][str(layer)] for record in found] for layer in layers]
        for each, bar in zip(counts, active[number * len(layers) :], strict=False):
            assert bar == plain(each)
    assert len(active) == 2 * len(layers)
    overlap = drawn_bars(page, "Overlap of the two solutions' features".replace("'", "&#39;"), "</svg>")
    assert len(overlap) == len(layers)
    for index, layer in enumerate(layers):
        shares = []
        for record in found:
            lists = [record[side]["active_features_by_layer"][str(layer)] for side in SIDES]
            counts = [record[side]["active_feature_count_by_layer"][str(layer)] for side in SIDES]
            ends = [
                each[-1]["activation"] if count > len(each) else 0 for each, count in zip(lists, counts, strict=True)
            ]
            first, second = ({each["feature_id"] for each in of if each["activation"] > max(ends)} for of in lists)
            shares.append(len(first & second) / len(first | second) if first | second else math.nan)
        assert analysis.layers.jaccard[index] == pytest.approx(np.nanmean(shares))
        assert overlap[index] == plain(shares)


def test_the_headline_number_is_explained_where_it_stands(page: Path, analysis: Analysis) -> None:
    held_out = analysis.right_wrong.held_out
    best = int(np.nanargmax(held_out.auroc))
    text = text_of(page.read_bytes())
    assert text.count(f"AUROC {held_out.auroc[best]:.2f} (95 %: {held_out.auroc_low[best]:.2f} to ") >= 1
    after = text[text.index("with a held-out AUROC" if "with a held-out AUROC" in text else "their held-out AUROC") :]
    assert "means: layer" in after[:120]
    assert f"for the right one in {100 * held_out.auroc[best]:.0f} % of cases, a tie counting half" in after[:500]
    assert "whoever guesses has 50 %" in text
