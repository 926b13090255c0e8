"""The whole analysis on files in the real format: what is planted is found, little else is, and odd files are read."""

import resource
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from layerscope.analysis.baselines import sparse_probes, texts
from layerscope.analysis.columns import censoring, lists, reading, spilling
from layerscope.analysis.findings import analyse
from layerscope.analysis.overview import length_bins
from layerscope.analysis.result import Analysis, Contrast, Options, Questions
from layerscope.analysis.testing import label_flips
from layerscope.analysis.testing.halves import in_discovery_half
from layerscope.analysis.testing.stratum import Survival
from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.verify import verify
from made_up import edit_manifest
from synthetic_run import Effect, Spec, write_run

OPTIONS = Options(permutations=199)
RIGHT, WRONG, STRONGER, CHOSEN = 400, 401, 402, 403
EFFECTS = (
    Effect(layer=5, feature_id=RIGHT, first=0.5, second=0.15),
    Effect(layer=9, feature_id=WRONG, first=0.1, second=0.4),
    Effect(layer=9, feature_id=STRONGER, first=0.6, second=0.6, factor=1.4),
    Effect(layer=7, feature_id=CHOSEN, first=0.5, second=0.2, by_model=True),
)


def analysed(folder: Path, spec: Spec, options: Options = OPTIONS) -> Analysis:
    path = folder / "run.jsonl"
    write_run(path, spec)
    return analyse(path, options)


@pytest.fixture(scope="module")
def planted_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planted") / "run.jsonl"
    write_run(path, Spec(questions=900, layers=(5, 7, 9), top_k=14, effects=EFFECTS, errors=(3, 800)))
    return path


@pytest.fixture(scope="module")
def planted(planted_file: Path) -> Analysis:
    return analyse(planted_file, OPTIONS)


def where(analysis: Analysis, marked: np.ndarray) -> set[tuple[int, int]]:
    return set(
        zip(analysis.features.layer[marked].tolist(), analysis.features.feature_id[marked].tolist(), strict=True)
    )


def row(analysis: Analysis, layer: int, feature_id: int) -> int:
    (found,) = np.flatnonzero((analysis.features.layer == layer) & (analysis.features.feature_id == feature_id))
    return int(found)


def equal(here: Any, there: Any) -> bool:
    """Whether two results are the same to the last bit."""
    if is_dataclass(here):
        return all(equal(getattr(here, field.name), getattr(there, field.name)) for field in fields(here))
    if isinstance(here, tuple):
        return len(here) == len(there) and all(map(equal, here, there))
    return np.array_equal(here, there, equal_nan=isinstance(here, float) or getattr(here, "dtype", None) == np.float64)


def test_the_synthetic_run_is_one_that_verify_accepts(planted_file: Path) -> None:
    """Else everything below would hold of a format that no run writes."""
    assert "900 of 900 lines" in verify(planted_file)


def test_planted_effects_are_found_in_their_layer_with_their_sign(planted: Analysis) -> None:
    contrast = planted.right_wrong
    assert {(5, RIGHT), (9, WRONG)} <= where(planted, contrast.firing.confirmed)
    assert (9, STRONGER) in where(planted, contrast.magnitude.confirmed)
    assert (9, STRONGER) not in where(planted, contrast.firing.confirmed)
    assert (9, WRONG) not in where(planted, contrast.magnitude.confirmed)
    right, wrong, stronger = row(planted, 5, RIGHT), row(planted, 9, WRONG), row(planted, 9, STRONGER)
    for half in (contrast.firing.everything, contrast.firing.discovery, contrast.firing.validation):
        # log-odds of 0.5 * 0.85 : 0.5 * 0.15 and of 0.1 * 0.6 : 0.9 * 0.4
        assert half.effect[[right, wrong]] == pytest.approx(np.log([0.425 / 0.075, 0.06 / 0.36]), abs=0.7)
    # ln 1.4 on a spread of 0.3 sqrt 2 each way
    assert contrast.magnitude.validation.effect[stronger] == pytest.approx(np.log(1.4) / (0.3 * 2**0.5), abs=0.3)
    assert contrast.firing.everything.z[right] > contrast.firing.family_wise_z
    assert planted.features.density[right] == pytest.approx((0.5 + 0.15) / 2, abs=0.03)
    assert planted.features.dense[right]


def test_every_pair_is_in_one_half(planted: Analysis) -> None:
    """A feature would else be confirmed by the questions that selected it."""
    for contrast in (planted.right_wrong, planted.chosen_rejected):
        for test, names in ((contrast.firing, ("first_only", "second_only")), (contrast.magnitude, ("known", "pairs"))):
            for name in names:
                halves = getattr(test.discovery, name) + getattr(test.validation, name)
                assert halves.tolist() == getattr(test.everything, name).tolist()


def test_the_contrasts_are_not_mixed(planted: Analysis) -> None:
    """A feature of the chosen solution is one of the right solution too, by as much as the model is right: less so."""
    chosen = row(planted, 7, CHOSEN)
    assert (7, CHOSEN) in where(planted, planted.chosen_rejected.firing.confirmed)
    effects = [c.firing.everything.effect[chosen] for c in (planted.right_wrong, planted.chosen_rejected)]
    assert 0 < effects[0] < 0.8 * effects[1]
    right = row(planted, 5, RIGHT)
    effects = [c.firing.everything.effect[right] for c in (planted.right_wrong, planted.chosen_rejected)]
    assert 0 < effects[1] < 0.8 * effects[0]


def test_little_else_is_found(planted: Analysis) -> None:
    """At a rate of 0.05 a handful of findings admits one that is false, seldom two."""
    contrast = planted.right_wrong
    assert len(where(planted, contrast.firing.confirmed) - {(5, RIGHT), (9, WRONG), (7, CHOSEN)}) <= 1
    assert len(where(planted, contrast.magnitude.confirmed) - {(9, STRONGER)}) <= 1


def test_layers_sum_up_their_features(planted: Analysis) -> None:
    contrast, layers = planted.right_wrong, planted.layers.layer.tolist()
    for tested, by_layer in (
        (contrast.firing, contrast.firing_by_layer),
        (contrast.magnitude, contrast.magnitude_by_layer),
    ):
        for index, layer in enumerate(layers):
            mine = planted.features.layer == layer
            p, q, z = (getattr(tested.everything, name)[mine] for name in ("p", "q", "z"))
            assert by_layer.tested[index] == (~np.isnan(p)).sum() > 0
            assert by_layer.significant[index] == (q <= 0.05).sum()
            assert by_layer.selected[index] == tested.selected[mine].sum()
            assert by_layer.confirmed[index] == tested.confirmed[mine].sum()
            assert by_layer.largest_z[index] == np.abs(z[~np.isnan(p)]).max()
    assert contrast.firing_by_layer.largest_effect[layers.index(5)] > 1.2
    assert contrast.firing_by_layer.largest_effect[layers.index(9)] < -1.2


def test_held_out_scores_are_those_of_a_plain_loop(planted: Analysis, planted_file: Path) -> None:
    """Layer 9's score from the records themselves, above each pair's limit."""
    contrast, index = planted.right_wrong, 2
    picked = contrast.firing.selected & (planted.features.layer == 9)
    ids = planted.features.feature_id[picked].tolist()
    weights = dict(zip(ids, contrast.firing.discovery.effect[picked].tolist(), strict=True))
    scores, goals = [], []
    for line in planted_file.read_bytes().splitlines():
        record = orjson.loads(line)
        if record["error"] or in_discovery_half(record["question"]):
            continue
        sides = [record[name] for name in ("positive_solution_details", "negative_solution_details")]
        lists = [side["active_features_by_layer"]["9"] for side in sides]
        counts = [side["active_feature_count_by_layer"]["9"] for side in sides]
        limit = max(
            listed[-1]["activation"] if count > len(listed) else 0 for listed, count in zip(lists, counts, strict=True)
        )
        scores.append([sum(weights.get(f["feature_id"], 0) for f in x if f["activation"] > limit) for x in lists])
        goals.append(record["question"])
    first, second = np.array(scores).T
    weight = np.array([1 / goals.count(goal) for goal in goals])  # questions with one goal count once
    won = (first > second + 1e-9) + (np.abs(first - second) < 1e-9) / 2
    wins = np.array([np.mean([w for w, other in zip(won, goals, strict=True) if other == goal]) for goal in set(goals)])
    assert contrast.held_out.features[index] == len(weights) >= 1
    assert contrast.held_out.paired[index] == pytest.approx(wins.mean())
    assert contrast.held_out.paired_error[index] == pytest.approx(wins.std() / len(wins) ** 0.5)
    grid = np.round(first[:, None] - second[None, :], 9)
    counted = np.average((np.sign(grid) + 1) / 2, weights=weight[:, None] * weight[None, :])
    assert contrast.held_out.auroc[index] == pytest.approx(counted, abs=1e-6)
    assert counted - 0.2 < contrast.held_out.auroc_low[index] < counted < contrast.held_out.auroc_high[index]
    assert contrast.held_out.paired[index] > 0.6


def test_strata_say_what_becomes_of_every_finding(planted: Analysis) -> None:
    strata = {stratum.name: stratum for stratum in planted.right_wrong.strata}
    assert list(strata) == ["same final token", "full stop", "lists not cut", "without dense features"]
    for stratum in strata.values():
        for survival, tested in (
            (stratum.firing, planted.right_wrong.firing),
            (stratum.magnitude, planted.right_wrong.magnitude),
        ):
            total = survival.kept + survival.same_sign + survival.other_sign + survival.untested
            assert total == tested.confirmed.sum()
    assert strata["same final token"].pairs == pytest.approx(planted.questions.same_final_token.mean())
    assert strata["same final token"].firing.kept >= 2
    assert 0.1 < strata["lists not cut"].pairs < 0.9
    dense = planted.features.dense
    assert strata["without dense features"].firing.untested == (planted.right_wrong.firing.confirmed & dense).sum() >= 2


def test_a_small_stratum_leaves_findings_untested(tmp_path: Path) -> None:
    """Ten questions or so end in the same token in each half: too few to tell, which is not "lost"."""
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=300, layers=(5,), effects=EFFECTS[:1]))
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for number, record in enumerate(records):
        ends = (".", ".") if number % 20 == 0 else (".", "it")
        record["positive_solution_details"]["final_token"], record["negative_solution_details"]["final_token"] = ends
    other = other_order(path, path.with_name("other.jsonl"), [orjson.dumps(record) + b"\n" for record in records])
    found = analyse(other, OPTIONS)
    stratum = found.right_wrong.strata[0]
    assert (stratum.name, stratum.pairs) == ("same final token", 0.05)
    assert found.right_wrong.firing.confirmed.sum() == 1
    assert stratum.firing == Survival(kept=0, same_sign=0, other_sign=0, untested=1, confirmed=0)


def test_the_header_is_the_manifests_and_the_counts(planted: Analysis, planted_file: Path) -> None:
    header = planted.header
    assert (header.questions, header.errors, header.planned, header.finished) == (898, 2, 900, True)
    assert (header.model, header.model_commit) == ("google/gemma-2-2b", "c" * 40)
    assert [sae.layer for sae in header.saes] == [5, 7, 9]
    assert header.saes[1].neuronpedia_id == "gemma-2-2b/7-gemmascope-res-16k"
    assert header.not_canonical == ()
    assert header.accuracy.low < 0.75 < header.accuracy.high
    assert header.accuracy.count == planted.questions.correct.sum()
    assert header.median_margin == np.median(planted.questions.margin)
    assert (planted.questions.margin[planted.questions.correct] >= 0).all()
    cells = cut = 0
    for line in planted_file.read_bytes().splitlines():
        record = orjson.loads(line)
        for name in ("positive_solution_details", "negative_solution_details"):
            counts = (record[name] or {}).get("active_feature_count_by_layer", {}).values()
            cells, cut = cells + len(counts), cut + sum(count > 14 for count in counts)
    assert header.cut_share == pytest.approx(cut / cells)
    assert planted.layers.cut_share.mean() == pytest.approx(cut / cells)


def test_an_sae_that_is_not_the_canonical_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=3))
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(sae_l0="71"))
    edit_manifest(path, lambda manifest: manifest["about"]["neuronpedia"].update({"1": None}))
    assert analyse(path).header.not_canonical == (1,)


def test_length_bins_hold_every_question_once(planted: Analysis) -> None:
    bins = planted.length_bins
    assert len(bins) == 5
    assert sum(bin_.accuracy.total for bin_ in bins) == 898
    assert sum(bin_.accuracy.count for bin_ in bins) == planted.header.accuracy.count
    assert all(before.high < after.low for before, after in pairwise(bins))
    assert min(bin_.accuracy.total for bin_ in bins) > 100


def test_a_length_bin_ends_with_its_quantile() -> None:
    """Ten differences in five bins of two, whatever the order; equal differences are never parted."""
    columns = {field.name: np.zeros(10, dtype=np.int64) for field in fields(Questions)}
    columns |= {"positive_tokens": np.arange(10)[::-1], "correct": np.arange(10) > 4}
    bins = length_bins(Questions(**columns))
    assert [(bin_.low, bin_.high) for bin_ in bins] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert [bin_.accuracy.count for bin_ in bins] == [2, 2, 1, 0, 0]
    alike = length_bins(Questions(**columns | {"positive_tokens": np.array([3] * 9 + [8])}))
    assert [(bin_.low, bin_.high, bin_.accuracy.total) for bin_ in alike] == [(3, 3, 9), (8, 8, 1)]


def test_the_halves_are_the_same_in_every_process() -> None:
    """Python's own hash of a text is not: what is selected would change from one report to the next."""
    assert [in_discovery_half(f"goal {number}") for number in range(8)] == [
        False,
        False,
        True,
        False,
        True,
        False,
        False,
        False,
    ]


def test_questions_with_one_goal_stay_in_one_half_whatever_the_order(planted: Analysis, planted_file: Path) -> None:
    halves: dict[str, set[bool]] = {}
    discovery = dict(zip(planted.questions.example_id.tolist(), planted.questions.discovery.tolist(), strict=True))
    lines = planted_file.read_bytes().splitlines(keepends=True)
    for record in map(orjson.loads, lines):
        if not record["error"]:
            halves.setdefault(record["question"], set()).add(discovery[record["example_id"]])
    assert len(halves) < len(discovery)
    assert all(len(half) == 1 for half in halves.values())
    assert 0.4 < np.mean(list(discovery.values())) < 0.6

    shuffled = planted_file.with_name("shuffled.jsonl")
    other_order(planted_file, shuffled, [lines[number] for number in np.random.default_rng(0).permutation(len(lines))])
    again = analyse(shuffled, OPTIONS)
    assert equal(again.features, planted.features)
    here, there = again.right_wrong.firing, planted.right_wrong.firing
    assert equal(
        (here.discovery, here.validation, here.confirmed), (there.discovery, there.validation, there.confirmed)
    )


def test_an_analysis_is_the_same_every_time(planted: Analysis, planted_file: Path) -> None:
    again = analyse(planted_file, OPTIONS)
    assert equal(again.right_wrong, planted.right_wrong)
    assert not equal(again.right_wrong, planted.chosen_rejected)


def other_order(of: Path, path: Path, lines: list[bytes]) -> Path:
    """A file of these lines, and the manifest of a run that wrote them instead."""
    path.write_bytes(b"".join(lines))
    shutil.copy(manifest_path(of), manifest_path(path))
    order = " ".join(str(orjson.loads(line)["example_id"]) for line in lines)
    edit_manifest(path, lambda manifest: (manifest.pop("progress"), manifest["about"].update(order=order)))
    return path


def swapped(planted_file: Path, which: Callable[[dict[str, Any]], bool]) -> Path:
    """The same run with right and wrong exchanged in some of its questions."""
    path, lines = planted_file.with_name("swapped.jsonl"), []
    for record in map(orjson.loads, planted_file.read_bytes().splitlines()):
        if not record["error"] and which(record):
            positive, negative = record["positive_solution_details"], record["negative_solution_details"]
            record |= {"positive_solution_details": negative, "negative_solution_details": positive}
            record |= {"label": 1 - record["label"], "model_is_correct": not record["model_is_correct"]}
        lines.append(orjson.dumps(record) + b"\n")
    return other_order(planted_file, path, lines)


def test_nothing_of_the_validation_half_leaks_into_the_scores(planted: Analysis, planted_file: Path) -> None:
    """With the labels of that half alone exchanged, the same features with the same weights score it the other way."""
    other = analyse(swapped(planted_file, lambda record: not in_discovery_half(record["question"])), OPTIONS)
    here, there = planted.right_wrong, other.right_wrong
    assert equal(here.firing.discovery, there.firing.discovery)
    assert here.held_out.features.tolist() == there.held_out.features.tolist()
    scored = here.held_out.features > 0
    assert scored.all()
    np.testing.assert_allclose(here.held_out.paired + there.held_out.paired, 1)
    np.testing.assert_allclose(here.held_out.auroc + there.held_out.auroc, 1)
    assert not there.firing.confirmed.any()


def test_swapped_labels_swap_right_and_wrong_and_leave_the_choice(planted: Analysis, planted_file: Path) -> None:
    """A sign that hangs on the order in a record, and not on label and choice, would show here."""
    other = analyse(swapped(planted_file, lambda _: True), OPTIONS)
    assert equal(other.features, planted.features)
    here, there = planted.right_wrong, other.right_wrong
    for name in ("firing", "magnitude"):
        for part in ("everything", "discovery", "validation"):
            one, two = getattr(getattr(here, name), part), getattr(getattr(there, name), part)
            np.testing.assert_allclose(one.z, -two.z, atol=1e-9)
            np.testing.assert_allclose(one.effect, -two.effect, atol=1e-9)
            np.testing.assert_allclose(one.p, two.p)
            np.testing.assert_allclose(one.q, two.q)
        assert equal(getattr(here, name).confirmed, getattr(there, name).confirmed)
        assert equal(getattr(planted.chosen_rejected, name).everything, getattr(other.chosen_rejected, name).everything)
    np.testing.assert_allclose(here.held_out.paired, there.held_out.paired)  # weights flip with the sides
    assert (here.firing.family_wise_z, here.first) == (there.firing.family_wise_z, "right")


def nothing_found(contrast: Contrast) -> bool:
    tests = (contrast.firing, contrast.magnitude)
    return not any(test.selected.any() or (test.everything.q <= 0.05).any() for test in tests)


def test_identical_solutions_differ_in_nothing(tmp_path: Path) -> None:
    found = analysed(tmp_path, Spec(questions=60, identical=True))
    assert len(found.features.layer) == 0
    assert nothing_found(found.right_wrong)
    assert nothing_found(found.chosen_rejected)
    assert found.layers.jaccard.tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(found.right_wrong.firing.family_wise_z)
    assert np.isnan(found.right_wrong.held_out.paired).all()
    assert found.header.median_margin == 0


@pytest.mark.parametrize(
    "spec",
    [
        Spec(questions=1),
        Spec(questions=1, errors=(0,)),
        Spec(questions=0, planned=5),
        Spec(questions=40, active=0),
        Spec(questions=40, layers=(13,)),
        Spec(questions=40, top_k=2),  # every list is cut
        Spec(questions=40, top_k=1),
        Spec(questions=40, errors=range(40)),
    ],
    ids=str,
)
@pytest.mark.parametrize("permutations", [0, 20])
def test_little_or_nothing_to_read_is_no_error(tmp_path: Path, spec: Spec, permutations: int) -> None:
    found = analysed(tmp_path, spec, Options(permutations=permutations, min_pairs=1))
    assert found.header.questions == spec.questions - len(spec.errors)
    assert len(found.layers.layer) == len(found.right_wrong.held_out.features) == len(spec.layers)
    assert len(found.questions.margin) == found.header.questions
    if permutations == 0:
        assert np.isnan(found.right_wrong.firing.family_wise_z)


def test_lists_that_are_all_cut_are_compared_above_their_limits(tmp_path: Path) -> None:
    found = analysed(tmp_path, Spec(questions=500, layers=(5,), top_k=4, effects=EFFECTS[:1]))
    assert found.header.cut_share > 0.95
    assert where(found, found.right_wrong.firing.confirmed) == {(5, RIGHT)}


def test_a_growing_file_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=30, planned=50))
    whole = analyse(path, OPTIONS)
    assert (whole.header.questions, whole.header.planned, whole.header.finished) == (30, 50, False)
    with path.open("ab") as stream:
        stream.write(b'{"example_id":30,"question":"goal 30","model_is')
    torn = analyse(path, OPTIONS)
    assert equal(
        (torn.questions, torn.features, torn.right_wrong), (whole.questions, whole.features, whole.right_wrong)
    )


def test_progress_comes_to_its_end(planted_file: Path) -> None:
    told: dict[str, list[float]] = {}
    analyse(planted_file, Options(permutations=0), lambda stage, share: told.setdefault(stage, []).append(share))
    assert list(told) == ["reading", "testing", "scoring", "comparing"]
    for shares in told.values():
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


@pytest.mark.parametrize(
    "line",
    [
        b"{\n",
        b"[]\n",
        b"7\n",
        b'{"example_id":1}\n',
        b'{"positive_solution_details":{"active_features_by_layer":{}}}\n',
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=4))
    with path.open("ab") as stream:
        stream.write(line)
    with pytest.raises(LayerscopeError, match="line 5: "):
        analyse(path)


def test_a_feature_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=4))
    lines = path.read_bytes().splitlines(keepends=True)
    for broken in (b'"feature_id":null,', b'"feature_id":1.5,', b'"feature_id":99999999999,', b'"other":1,'):
        head, _, tail = lines[2].partition(b'"feature_id":')
        path.write_bytes(b"".join([*lines[:2], head + broken + tail.partition(b",")[2], lines[3]]))
        with pytest.raises(LayerscopeError, match="line 3: "):
            analyse(path)


def test_no_file_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        analyse(tmp_path / "none.jsonl")
    (tmp_path / "alone.jsonl").write_bytes(b"{}\n")
    with pytest.raises(UsageError, match="no manifest"):
        analyse(tmp_path / "alone.jsonl")
    with pytest.raises(UsageError, match="level between 0 and 1"):
        Options(level=5)


def test_reading_does_not_hold_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the questions may cost their own few bytes, not the 8 bytes a feature."""
    monkeypatch.setattr(spilling, "_HELD", 256)
    peaks, n_features = [], []
    for questions in (60, 180):
        path = tmp_path / f"{questions}.jsonl"
        write_run(path, Spec(questions=questions, layers=(0,), active=80))
        with reading.reading(path, "final", lambda _: None):  # what is imported on the way is not counted
            pass
        tracemalloc.start()
        with reading.reading(path, "final", lambda _: None) as run:
            peaks.append(tracemalloc.get_traced_memory()[1])
            n_features.append(len(run.feature_lists(0).read().feature_id))
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 8 * (n_features[1] - n_features[0]) / 5


def test_features_tested_some_after_the_others_are_tested_as_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held is bounded so, and no figure may tell it."""
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=100, layers=(0,), top_k=9, effects=[Effect(0, 500, 0.8, 0.1)]))
    whole = analyse(path, Options(permutations=40))
    monkeypatch.setattr(censoring, "PART", 150)
    monkeypatch.setattr(lists, "STRETCH", 70)
    monkeypatch.setattr(label_flips, "_WAITING", 200)
    monkeypatch.setattr(sparse_probes, "QUESTIONS", 64)
    monkeypatch.setattr(texts, "_ROWS", 50)
    with reading.reading(path, "final", lambda _: None) as run:
        of_layer = run.feature_lists(0)
        parts = list(censoring.PairedLists(of_layer).parts())
        assert len(parts) > 5
        assert all(part.listed.sum() <= 150 or len(part.feature_id) == 1 for part in parts)
        assert max(len(some.feature_id) for _, some in of_layer.stretches()) <= 70
        asked = np.array([500, 1_000_000])  # as an attribution may name one that is in no list
        assert [part.feature_id.tolist() for part in censoring.PairedLists(of_layer).parts(asked)] == [[500]]
    again = analyse(path, Options(permutations=40))
    for name in ("layers", "features", "right_wrong", "chosen_rejected", "comparison"):
        for one, other in zip(_leaves(getattr(whole, name)), _leaves(getattr(again, name)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def _leaves(value: Any) -> Iterator[Any]:
    """The numbers and arrays of nested dataclasses."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict | tuple | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)
    elif isinstance(value, np.ndarray | float | int):
        yield value


def test_no_room_for_temporary_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write that nobody noticed would shift every feature behind it."""
    monkeypatch.setattr(spilling, "_HELD", 256)
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=60, layers=(0,), active=80))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(LayerscopeError, match="temporary files of the analysis cannot be written"):
            analyse(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
