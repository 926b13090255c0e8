"""Two runs are compared question by question, whatever the order of their lines, and only where that has a meaning."""

import copy
import gc
import json
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Command
from layerscope.analysis.testing.statistics import mean_interval
from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.sources import Question
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.line.readings import Feature
from layerscope.records.manifest.manifest import manifest_path
from layerscope.tables.compare import as_text, compare
from layerscope.tables.measures import Overlap, Paired
from made_up import Features, identity, record_line, write_run

Json = dict[str, Any]
LAYERS = (8, 20)
IDENTITY = identity(LAYERS)
EQUAL = {"mean_jaccard": 1.0, "mean_jaccard_95": [1.0, 1.0], "largest_activation_difference": 0.0}
ALL_EQUAL = {str(layer): EQUAL for layer in LAYERS}


def question(number: int) -> Question:
    return Question(
        number, f"goal {chr(97 + number % 26) * (1 + number // 26)} ☃", f"do {number}", f"leave {number} ", number % 2
    )


def line(
    number: int, first: float = -2.0, second: float = -3.0, features: Features = ((7, 4.0), (9, 1.5)), **other: Any
) -> bytes:
    """A record; the log-likelihoods are of `sol1` and `sol2`, the features are those of every solution and layer."""
    scores = (SolutionScore(first, 2, "a"), SolutionScore(second, 2, "b"))
    return record_line(
        other.get("question", question(number)),
        scores,
        dict.fromkeys(other.get("layers", LAYERS), (features, features)),
    )


@pytest.fixture
def a(tmp_path: Path) -> Path:
    """40 questions, of which every even one is right, and an error line."""
    return write_run(tmp_path / "a.jsonl", [*map(line, range(40)), error_line(40, "sol1 is empty").line], IDENTITY)


def write_b(a: Path, lines: Sequence[bytes], **settings: Any) -> Path:
    return write_run(a.with_name("b.jsonl"), lines, {**IDENTITY, **settings})


def test_a_run_agrees_with_itself(a: Path) -> None:
    found = compare(a, a)
    assert found["questions"] == {"common": 40, "scored_only_by_a": 0, "scored_only_by_b": 0}
    assert found["a"] == found["b"] == {"file": str(a), "model": "google/gemma-2-2b", "scored": 40, "errors": 1}
    assert found["acc"] == {
        "a_right": 20,
        "b_right": 20,
        "only_a_right": 0,
        "only_b_right": 0,
        "goals_ahead": {"a": 0, "b": 0},
        "p": None,
    }
    assert found["same_choice"] == 40
    assert found["log_likelihood"] == {"mean_difference": 0.0, "largest_difference": 0.0, "example_id": None}
    assert found["layers"] == ALL_EQUAL
    assert found["layers_left_out"] == {}
    assert found["settings_that_differ"] == []


def test_what_was_changed_in_known_places_is_found(a: Path) -> None:
    """Other order, other ids, stripped solutions; 6 answers changed, 5 of them for the worse; a question fewer."""
    lines = {number: line(number, -2.5) for number in range(39)}
    for number in (0, 2, 4, 6, 8, 1):  # A has the even ones right
        lines[number] = line(number, -4.0)
    lines[11] = line(11, -2.5, features=[(7, 4.25), (3, 2.0), (9, 1.5)])
    lines[12] = line(12, -2.5, features=[])
    renamed = [
        record.replace(b'"example_id":', b'"example_id":1').replace(b' ","log', b'","log') for record in lines.values()
    ]
    random.Random(0).shuffle(renamed)
    found = compare(a, write_b(a, renamed))
    assert found["questions"] == {"common": 39, "scored_only_by_a": 1, "scored_only_by_b": 0}
    # Exact McNemar by hand: 2 * (1 + 6) / 2^6.
    assert found["acc"] == {
        "a_right": 20,
        "b_right": 16,
        "only_a_right": 5,
        "only_b_right": 1,
        "goals_ahead": {"a": 5, "b": 1},
        "p": 14 / 64,
    }
    assert found["same_choice"] == 39 - 6
    changed = found["changed"]["questions"]
    assert found["changed"]["left_out"] == 0
    assert [(entry["example_id"]["a"], entry["right"]) for entry in changed] == [
        (number, "b" if number == 1 else "a") for number in (0, 1, 2, 4, 6, 8)
    ], "of equal differences in the order of A"
    assert all(abs(entry["margin"]["a"] - entry["margin"]["b"]) == 2 for entry in changed)
    assert changed[0]["question"] == question(changed[0]["example_id"]["a"]).goal
    # sol1 moved by 0.5 in 33 questions and by 2 in 6, sol2 nowhere.
    assert found["log_likelihood"]["mean_difference"] == pytest.approx((33 * 0.5 + 6 * 2.0) / 78)
    assert found["log_likelihood"]["largest_difference"] == 2.0
    assert found["log_likelihood"]["example_id"] == 0
    for overlap in found["layers"].values():
        assert overlap["mean_jaccard"] == pytest.approx((37 + 2 / 3 + 0) / 39)
        assert overlap["largest_activation_difference"] == 0.25


def test_both_accuracies_are_compared(a: Path) -> None:
    """By characters `leave 0 ` (8) may win where by the sum `do 0` (4) does: -3 / 8 against -2 / 4."""
    found = compare(a, write_b(a, [line(0, -1.0)]))
    assert found["acc"] == {
        "a_right": 1,
        "b_right": 1,
        "only_a_right": 0,
        "only_b_right": 0,
        "goals_ahead": {"a": 0, "b": 0},
        "p": None,
    }
    assert found["acc_norm"] == {
        "a_right": 0,
        "b_right": 1,
        "only_a_right": 0,
        "only_b_right": 1,
        "goals_ahead": {"a": 0, "b": 1},
        "p": 1.0,
    }


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_mcnemar_is_the_sign_test_of_the_questions_that_one_run_has_right(answers: list[tuple[bool, bool]]) -> None:
    """Against the definition, by counting: twice the chance of a split at least as uneven, at most 1."""
    paired = Paired()
    for number, answer in enumerate(answers):
        paired.add(number, *answer)
    signs = [a for a, b in answers if a != b]
    less = min(sum(signs), len(signs) - sum(signs))
    binomial = [1]
    for chosen in range(len(signs)):
        binomial.append(binomial[-1] * (len(signs) - chosen) // (chosen + 1))
    p = pytest.approx(min(1.0, 2 * sum(binomial[: less + 1]) / 2 ** len(signs)))
    assert paired.p() == (p if signs else None), "where no answer differs nothing was tested"
    assert paired.questions == len(answers)


FEATURE_LIST = st.dictionaries(st.integers(0, 9), st.integers(1, 64).map(lambda eighths: eighths / 8))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(FEATURE_LIST, FEATURE_LIST), min_size=1, max_size=5))
def test_overlap_is_the_mean_jaccard_and_the_largest_difference(
    pairs: list[tuple[dict[int, float], dict[int, float]]],
) -> None:
    """Two empty lists share nothing, and are no agreement; where none is compared the mean is not 0 or 1 but none."""
    overlap, jaccards, gaps, groups = Overlap(), [], [], []
    for number, (a, b) in enumerate(pairs):
        overlap.add(number // 2, *([Feature(i, v, 0) for i, v in features.items()] for features in (a, b)))
        either = set(a) | set(b)
        jaccards += [len(set(a) & set(b)) / len(either)] if either else []
        groups += [number // 2] if either else []
        gaps += [abs(a[feature] - b[feature]) for feature in either if feature in a and feature in b]
    assert overlap.result()["mean_jaccard"] == (pytest.approx(np.mean(jaccards)) if jaccards else None)
    low, high = overlap.result()["mean_jaccard_95"] or (np.nan, np.nan)
    assert (low, high) == pytest.approx(mean_interval(np.array(jaccards), np.array(groups, dtype=int)), nan_ok=True)
    assert overlap.result()["largest_activation_difference"] == max(gaps, default=None)


def test_lists_of_other_lengths_are_compared_by_what_both_could_hold(a: Path) -> None:
    """A list that was cut at 1 says nothing of the second feature, so that one is in neither."""
    settings = {**IDENTITY["settings"], "top_k": 1}
    b = write_b(a, [line(number, features=[(7, 4.0)]) for number in range(40)], settings=settings)
    for pair in ((a, b), (b, a)):
        assert compare(*pair)["layers"] == ALL_EQUAL
    assert "settings.top_k was 100, is 1" in compare(a, b)["settings_that_differ"]
    everything = write_b(a, [line(number) for number in range(40)], settings={**settings, "top_k": "all"})
    assert compare(everything, everything)["layers"] == compare(a, everything)["layers"] == ALL_EQUAL


def test_features_of_other_saes_are_not_compared(a: Path) -> None:
    """The same number is another feature there."""
    other = copy.deepcopy(IDENTITY)
    other["saes"]["layers"]["8"]["sha256"] = "f" * 64
    b = write_run(a.with_name("b.jsonl"), list(map(line, range(40))), other)
    found = compare(a, b)
    assert found["layers"] == {"20": ALL_EQUAL["20"]}
    assert list(found["layers_left_out"]) == ["8"]
    assert "other SAEs" in found["layers_left_out"]["8"]
    assert found["acc"]["a_right"] == 20, "the rest is compared all the same"

    del other["saes"]["layers"]["20"]
    write_run(b, [line(number, layers=(8,)) for number in range(40)], other)
    assert compare(a, b)["layers_left_out"]["20"] == "only in A"
    assert compare(b, a)["layers_left_out"]["20"] == "only in B"
    assert compare(a, b)["layers"] == {}


def test_an_sae_of_the_same_hash_is_the_same_wherever_its_file_lay(a: Path) -> None:
    saes = json.loads(json.dumps(IDENTITY["saes"])) | {"repository": "a folder", "commit": None}
    for layer, sae in saes["layers"].items():
        sae["path"] = f"elsewhere/{layer}.npz"
    found = compare(a, write_b(a, [line(number) for number in range(40)], saes=saes))
    assert found["layers"] == ALL_EQUAL
    assert found["layers_left_out"] == {}
    assert not any("saes" in text for text in found["settings_that_differ"])
    saes["layers"]["8"]["sha256"] = "f" * 64
    found = compare(a, write_b(a, [line(number) for number in range(40)], saes=saes))
    assert any("saes.repository was" in text for text in found["settings_that_differ"])


def test_a_neuronpedia_id_says_that_the_sae_is_the_same(a: Path) -> None:
    """A copy of it in another format or repository has another hash."""
    other = copy.deepcopy(IDENTITY)
    for sae in other["saes"]["layers"].values():
        sae["sha256"] = "f" * 64
    lines = list(map(line, range(40)))
    pages = {"8": "gemma-2-2b/8-gemmascope-res-16k", "20": "gemma-2-2b/20-gemmascope-res-16k"}
    write_run(a, lines, IDENTITY, neuronpedia=pages)
    b = write_run(a.with_name("b.jsonl"), lines, other, neuronpedia=pages | {"20": "gemma-2-2b/20-gemmascope-res-65k"})
    assert compare(a, b)["layers"] == {"8": ALL_EQUAL["8"]}


def test_files_of_the_same_content_are_the_same_wherever_they_lie(a: Path) -> None:
    """A folder or another repository that holds them is no setting that differs."""
    first = copy.deepcopy(IDENTITY)
    first["model"]["files"] = {"model.safetensors": "a" * 64}
    lines = list(map(line, range(40)))
    write_run(a, lines, first)
    other = copy.deepcopy(first)
    for part in ("model", "saes"):
        other[part] |= {"repository": "a folder", "commit": None}
    for sae in other["saes"]["layers"].values():
        sae["path"] = f"copied/{sae['path']}"
    b = write_run(a.with_name("b.jsonl"), lines, other)
    assert compare(a, b)["settings_that_differ"] == []
    assert compare(a, b)["layers"] == ALL_EQUAL
    other["model"]["files"] = {"model.safetensors": "b" * 64}
    write_run(b, lines, other)
    told = compare(a, b)["settings_that_differ"]
    assert any(setting.startswith("model.repository was google/gemma-2-2b, is a folder") for setting in told)


def test_what_was_not_tested_is_not_told_as_no_difference(a: Path) -> None:
    """Layers in which neither run lists a feature, or both list others; accuracies that differ in no question."""
    lines = [line(number, features=[]) for number in range(3)]
    write_run(a, lines, IDENTITY)
    found = compare(a, write_b(a, lines))
    assert found["layers"]["8"] == {
        "mean_jaccard": None,
        "mean_jaccard_95": None,
        "largest_activation_difference": None,
    }
    text = as_text(found)
    assert text.count("neither run lists any") == len(LAYERS)
    assert text.count("not tested: no question that one run alone has right") == 2
    write_run(a, [line(number, features=[(1, 2.0)]) for number in range(3)], IDENTITY)
    found = compare(a, write_b(a, [line(number, features=[(3, 2.0)]) for number in range(3)]))
    assert found["layers"]["8"] == {
        "mean_jaccard": 0.0,
        "mean_jaccard_95": [0.0, 0.0],
        "largest_activation_difference": None,
    }
    assert as_text(found).count("none is shared") == len(LAYERS)


def test_a_shard_without_batches_is_named(a: Path) -> None:
    b = write_b(a, [], settings={**IDENTITY["settings"], "shard": "3/9"})
    with pytest.raises(UsageError, match="holds no question and never will: its shard 3/9 has none"):
        compare(a, b)


def test_questions_are_matched_by_their_texts_and_not_by_example_id(a: Path) -> None:
    moved = [line(number, question=question(number + 100)) for number in range(40)]
    b = write_b(a, moved, questions={"dataset": "other.jsonl"})
    with pytest.raises(UsageError, match="no question in common") as caught:
        compare(a, b)
    assert "40 of piqa validation and 40 of other.jsonl" in str(caught.value)
    swapped = question(0)
    swapped = Question(0, swapped.goal, swapped.sol2, swapped.sol1, swapped.label)
    with pytest.raises(UsageError, match="no question in common"):  # the other solution is the right one there
        compare(a, write_b(a, [line(0, question=swapped)]))
    assert compare(a, write_b(a, [*moved, line(3)]))["questions"]["common"] == 1


def test_a_question_that_is_asked_twice_is_matched_twice(a: Path) -> None:
    twice = [line(0), line(0, -7.0).replace(b'"example_id":0', b'"example_id":50')]
    b = write_b(a, twice)
    assert compare(b, b)["questions"]["common"] == 2
    assert compare(b, b)["log_likelihood"]["largest_difference"] == 0
    assert compare(a, b)["questions"] == {"common": 1, "scored_only_by_a": 39, "scored_only_by_b": 1}


def test_runs_that_have_not_got_far_are_compared_as_far_as_they_are(a: Path) -> None:
    b = write_b(a, [*map(line, range(5)), line(5)[:80]])
    assert compare(a, b)["questions"]["common"] == compare(b, a)["questions"]["common"] == 5
    b.write_bytes(b"")
    with pytest.raises(UsageError, match="no question in common"):
        compare(a, b)


def test_what_is_no_run_is_refused(a: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        compare(a, a.with_name("none.jsonl"))
    b = write_b(a, [line(0), b"broken\n"])
    for pair in ((a, b), (b, a)):
        with pytest.raises(LayerscopeError, match=r"b\.jsonl, line 2: "):
            compare(*pair)
    manifest_path(b).unlink()
    with pytest.raises(LayerscopeError, match=r"b\.jsonl, line 2: "):
        compare(a, b)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(12)), st.permutations(range(12)))
def test_the_order_of_the_lines_does_not_matter(tmp_path_factory: Any, of_a: list[int], of_b: list[int]) -> None:
    folder = tmp_path_factory.mktemp("order")
    a = write_run(folder / "a.jsonl", [line(number, -number) for number in of_a], IDENTITY)
    b = write_run(folder / "b.jsonl", [line(number, -number - 0.5) for number in of_b], IDENTITY)
    found = compare(a, b)
    assert found["questions"]["common"] == 12
    assert found["log_likelihood"]["mean_difference"] == 0.25
    assert found["log_likelihood"]["largest_difference"] == 0.5


def test_neither_file_is_held(tmp_path: Path) -> None:
    """Six times the questions take a place each more, not a record each, which is ten thousand bytes as a line."""
    features = [(feature_id, 200.0 - feature_id) for feature_id in range(50)]
    peaks = []
    for number in (10, 60):
        lines = [line(n, features=features) for n in range(number)]
        a = write_run(tmp_path / "a.jsonl", lines, IDENTITY)
        b = write_run(tmp_path / "b.jsonl", lines[::-1], IDENTITY)
        compare(a, b)  # what is imported and cached is not counted
        # The least of a few: what waits for the garbage collector, of the tests before as well, is counted or not.
        peaks.append(min(peak_of(a, b) for _ in range(3)))
    assert peaks[1] - peaks[0] < 50 * 2000


def peak_of(a: Path, b: Path) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        compare(a, b)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_command_prints_for_people_and_for_programs(layerscope: Command, a: Path) -> None:
    settings = {**IDENTITY["settings"], "dtype": "bfloat16"}
    b = write_b(a, [*map(line, range(1, 40)), line(0, -4.0)], settings=settings)
    done = layerscope("compare", a.name, b.name, "--json", cwd=a.parent)
    assert done.returncode == 0, done.stderr
    found = orjson.loads(done.stdout)
    assert found == orjson.loads(orjson.dumps(compare(a, b))) | {
        run: {**found[run], "file": file.name} for run, file in (("a", a), ("b", b))
    }
    text = as_text(found).splitlines()
    assert text[0] == "A  a.jsonl  (model: google/gemma-2-2b; 40 questions scored, 1 with an error)"
    assert any(row.split() == ["acc", "50.00%", "±", "8.01%", "47.50%", "±", "8.00%", "1", "0", "1"] for row in text)
    assert any(row.split() == ["20", "1.0000", "0"] for row in text)
    assert "  settings.dtype was float32, is bfloat16" in text
    assert all(row == row.rstrip() for row in text)
