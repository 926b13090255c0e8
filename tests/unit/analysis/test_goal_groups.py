"""Questions that repeat each other count once: in halves, votes, flips, held-out scores and intervals."""

from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.analysis.testing import halves, statistics
from layerscope.analysis.testing.label_flips import LabelFlips
from layerscope.analysis.testing.layer_tests import layer_tests
from layerscope.analysis.testing.votes import Cells
from layerscope.records.goals import GoalGroups, goal_key, told_goals
from layerscope.report.words import sentences
from made_up import edit_manifest
from synthetic_pairs import parts_of, random_pairs
from synthetic_run import Effect, Spec, write_run


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Cut 2 apples.", "cut 3  Apples", True),
        ("How do I boil an egg?", "how do i boil an egg", True),
        ("Straße 1", "STRASSE 22!", True),
        ("يسخن ٣ أكواب", "يسخن ٤ أكواب", True),  # digits of any script
        ("chapter Ⅱ, ½ page", "chapter Ⅷ, ² page", True),  # numbers, whatever they look like
        ("part II", "part III", False),  # letters
        ("cafe\u0301", "caf\u00e9", True),  # the same letter, composed or not
        ("कि", "का", False),  # a vowel sign is no punctuation
        ("boil an egg", "boil an eel", False),
        ("12 + 5 =", "13 + 6 =", False),  # nothing would be left of either
        ("12 + 5 =", "12+5=", True),
        ("?", "!", False),
    ],
)
def test_goals_are_one_but_for_case_digits_punctuation_and_white_space(one: str, other: str, same: bool) -> None:
    assert (goal_key(one) == goal_key(other)) == same


def test_groups_are_counted_and_told() -> None:
    groups = GoalGroups()
    assert [groups.add(goal) for goal in ("a 1", "b", "A 2", "a", "c", "C")] == [0, 1, 0, 0, 2, 2]
    assert groups.result() == {"groups": 3, "shared": 2, "questions_sharing": 5}
    assert "5 questions in 2 groups" in told_goals(groups.result())
    assert told_goals(GoalGroups().result()) == ""


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_groups_rows_are_added_up(data: st.DataObject) -> None:
    """Against a loop over features and groups, on any part of the rows."""
    group = np.array(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=15)))
    rows = sorted(data.draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, len(group) - 1)), min_size=1)))
    feature, pair = np.array(rows).T
    values = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=len(rows), max_size=len(rows))))
    inside = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    cells = Cells.of(feature, pair, group)
    assert (np.diff(cells.feature) >= 0).all()
    found = {
        (int(f), int(g)): (int(total), int(count))
        for f, g, total, count in zip(
            cells.feature, cells.group, cells.sums(values, inside), cells.counts(inside), strict=True
        )
    }
    expected: dict[tuple[int, int], tuple[int, int]] = {}
    for (f, q), value, kept in zip(rows, values, inside, strict=True):
        total, count = expected.get((f, int(group[q])), (0, 0))
        expected[f, int(group[q])] = (total + int(value) * kept, count + int(kept))
    assert found == expected
    assert len(cells.feature) == len(expected)


def test_a_layer_of_groups_is_tested_as_a_plain_loop_would() -> None:
    """Votes and mean differences of groups, in a contrast whose signs differ within a group too."""
    rng = np.random.default_rng(5)
    pairs, group = random_pairs(seed=5, n_pairs=120, n_features=16), rng.integers(0, 70, 120)
    group = np.unique(group, return_inverse=True)[1]
    sign, parts = rng.choice([-1.0, 1.0], 120), parts_of(120)
    flips = LabelFlips.random(int(group.max()) + 1, 10, 0)
    layer = layer_tests(pairs, group, parts["discovery"], {}, [np.ones(120), sign], flips, min_pairs=4)
    found = layer.contrasts[1]
    for row, feature in enumerate(layer.feature_id):
        mine = pairs.feature == feature
        difference = ((pairs.positive - pairs.negative) * sign[pairs.pair])[mine]
        both, of = (pairs.firing == 0)[mine], group[pairs.pair[mine]]
        for part, members in parts.items():
            inside = members[pairs.pair[mine]]
            votes = [np.sign(np.sign(difference[inside & ~both & (of == g)]).sum()) for g in np.unique(of)]
            firing, magnitude = found.firing[part], found.magnitude[part]
            assert (firing.first_only[row], firing.second_only[row]) == (votes.count(1), votes.count(-1))
            means = [
                difference[inside & both & (of == g)].mean() for g in np.unique(of) if (inside & both & (of == g)).any()
            ]
            assert magnitude.known[row] == len(means)
            if np.count_nonzero(means) >= 4:
                assert magnitude.p[row] == pytest.approx(stats.wilcoxon(means, method="asymptotic").pvalue)
                assert magnitude.mean_difference[row] == pytest.approx(np.mean(means))


def test_labels_shuffled_by_group_keep_the_levels_that_are_promised() -> None:
    """Where questions are copied, labels that go by group find something no more often than they may."""
    shufflings, level, copies = 400, 0.05, 4
    single = random_pairs(seed=1, n_pairs=110)
    places = np.repeat(np.arange(110), np.where(np.arange(110) < 30, copies, 1))  # 30 questions, four times each
    order = [np.flatnonzero(places == q) for q in range(110)]
    feature, pair, source = (
        np.concatenate(column)
        for column in zip(
            *[
                (np.full(len(order[q]), f), order[q], np.full(len(order[q]), m))
                for m, (f, q) in enumerate(zip(single.feature, single.pair, strict=True))
            ],
            strict=True,
        )
    )
    pairs = type(single)(
        single.feature_id,
        single.listed,
        feature,
        pair,
        single.positive[source],
        single.negative[source],
        np.ones(len(places), dtype=bool),
    )
    rng = np.random.default_rng(2)
    signs = list(rng.choice([-1.0, 1.0], (shufflings, 110))[:, places])
    flips = LabelFlips.random(110, 999, seed=3)
    layer = layer_tests(pairs, places, places % 2 == 0, {}, signs, flips, min_pairs=10)
    most, least = stats.binom.isf(1e-4, shufflings, level), stats.binom.ppf(1e-4, shufflings, level)
    for name, largest in (("firing", layer.largest_firing[0]), ("magnitude", layer.largest_magnitude[0])):
        tests = [getattr(contrast, name) for contrast in layer.contrasts]
        tested = ~np.isnan(tests[0]["everything"].p)
        assert tested.sum() > 20
        threshold = statistics.family_wise_threshold(tested, largest, level)
        beyond = sum((np.abs(found["everything"].z[tested]) > threshold).any() for found in tests)
        significant = sum((statistics.false_discovery_rates(found["everything"].p) <= level).any() for found in tests)
        assert significant <= most
        assert least <= beyond <= most
    # The same with every question counted: what the groups are for.
    naive = layer_tests(
        pairs, np.arange(len(places)), places % 2 == 0, {}, signs, LabelFlips.random(len(places), 99, 3), 10
    )
    found = sum(
        (statistics.false_discovery_rates(contrast.firing["everything"].p) <= level).any()
        for contrast in naive.contrasts
    )
    assert found > 3 * most


def near_duplicates(path: Path, questions: int = 400, originals: int = 3) -> Path:
    """A run without any effect, most of whose questions are copies of three of them with a number in the goal."""
    write_run(path, Spec(questions=questions, layers=(0, 1, 2), active=60, d_sae=2048, distinct=True))
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for number in range(100, questions):
        copied = records[number % originals]
        records[number] = {**copied, "example_id": number, "question": f"{copied['question']}, {number} times"}
    for number in range(originals):
        records[number]["question"] += ", once times"
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    edit_manifest(path, lambda manifest: manifest.pop("progress", None))
    return path


def confirmed(analysis: Analysis) -> int:
    contrast = analysis.right_wrong
    return int((contrast.firing.confirmed | contrast.magnitude.confirmed).sum())


def test_near_duplicates_alone_are_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy counted by itself makes hundreds of findings out of three questions."""
    path, options = near_duplicates(tmp_path / "run.jsonl"), Options(permutations=99)
    grouped = analyse(path, options)
    assert confirmed(grouped) <= 1
    sizes = grouped.questions.group_sizes
    assert len(sizes) == 103
    assert sorted(sizes)[-3:] == [100, 100, 100]
    said = sentences.goal_groups(grouped)
    assert "300 of 400 questions share a goal with another" in said
    assert "as if there were 103 questions" in said
    low, high = grouped.header.accuracy.low, grouped.header.accuracy.high
    assert high - low > 0.4, "three questions a hundred times each are not four hundred"

    monkeypatch.setattr(halves, "goal_key", lambda goal: blake2b(goal.encode(), digest_size=16).digest())
    naive = analyse(path, options)
    assert confirmed(naive) > 100
    assert naive.header.accuracy.high - naive.header.accuracy.low < 0.11


def test_a_real_effect_is_still_found_among_near_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_run(path, Spec(questions=500, layers=(0, 1), distinct=True, effects=[Effect(1, 400, 0.6, 0.1)]))
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for number, record in enumerate(records):
        record["question"] = records[number - number % 3]["question"] + " " * (number % 3)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    edit_manifest(path, lambda manifest: manifest.pop("progress", None))
    found = analyse(path, Options(permutations=99))
    assert len(found.questions.group_sizes) == 167
    names = found.features.feature_id[found.right_wrong.firing.confirmed].tolist()
    assert 400 in names
    row = int(np.flatnonzero(found.features.feature_id == 400)[0])
    assert found.right_wrong.firing.everything.pairs[row] <= 167


def test_near_duplicates_stay_in_one_half_whatever_the_order(tmp_path: Path) -> None:
    """Else a feature is confirmed by a copy of the question that selected it."""
    path = near_duplicates(tmp_path / "run.jsonl", questions=160)
    halves = {}
    for turn in (1, -1):
        lines = path.read_bytes().splitlines(keepends=True)[::turn]
        order = " ".join(str(orjson.loads(line)["example_id"]) for line in lines)
        path.write_bytes(b"".join(lines))
        edit_manifest(path, lambda manifest, order=order: manifest["about"].update(order=order))
        questions = analyse(path, Options(permutations=0)).questions
        for group in np.unique(questions.group):
            assert len(set(questions.discovery[questions.group == group].tolist())) == 1
        halves[turn] = dict(zip(questions.example_id.tolist(), questions.discovery.tolist(), strict=True))
        path.write_bytes(b"".join(lines[::turn]))
    assert halves[1] == halves[-1]


def test_held_out_scores_weigh_a_group_as_one_question() -> None:
    """As if it were drawn once: 90 copies of a pair that is won do not make a winner."""
    first, second = np.array([1.0] * 90 + [0.0, 0.0, 1.0]), np.array([0.0] * 90 + [1.0, 1.0, 0.0])
    group = np.array([0] * 90 + [1, 2, 3])
    share, error = statistics.paired_superiority(first, second, group)
    assert (share, error) == pytest.approx((0.5, 0.5 / 2))
    assert statistics.auroc(first, second, statistics.group_weights(group)) == pytest.approx(0.5)
    assert statistics.proportion(first > second, group).total == 93
    wide = statistics.proportion(first > second, group)
    assert wide.high - wide.low > 0.5
