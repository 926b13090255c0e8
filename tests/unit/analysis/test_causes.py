"""What moves the margin is chosen on one half of the questions and told of the other, beside what separates."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr, wilcoxon

from layerscope.analysis.causes.measuring import BY_ATTRIBUTION, auroc_of_differences
from layerscope.analysis.causes.result import Causes
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.analysis.testing.statistics import auroc, mean_interval
from layerscope.records.goals import goal_key
from layerscope.records.line.attributions import TERMS
from layerscope.records.line.record import Record, parse
from synthetic_attributions import write_attributions
from synthetic_run import Effect, Spec, write_run

SEPARATES, MATTERS, BOTH = (1, 7), (2, 9), (2, 11)
SPEC = Spec(
    questions=240,
    layers=(1, 2),
    active=10,
    top_k=30,
    errors=(5,),
    effects=[Effect(*SEPARATES, 0.9, 0.1), Effect(*MATTERS, 0.9, 0.9), Effect(*BOTH, 0.9, 0.2)],
)
SIZES = {MATTERS: -0.8, BOTH: 0.4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With questions that share a goal, as thirtieths of them do."""
    path = tmp_path_factory.mktemp("causes") / "run.jsonl"
    write_attributions(path, SPEC, SIZES)
    return path


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyse(run, Options(permutations=20))


@pytest.fixture(scope="module")
def causes(analysis: Analysis) -> Causes:
    assert analysis.causes is not None
    return analysis.causes


def row_of(causes: Causes, feature: tuple[int, int]) -> int:
    assert causes.chosen is not None
    rows = np.flatnonzero((causes.chosen.layer == feature[0]) & (causes.chosen.feature_id == feature[1]))
    assert len(rows) == 1
    return int(rows[0])


def effects(run: Path, layer: int, feature_id: int) -> np.ndarray:
    """[Q] what a feature has of each question's margin, straight from the records."""
    found = []
    for line in run.read_bytes().splitlines():
        if isinstance(record := parse(line), Record):
            groups = (record.attributions[name].lists[layer] for name in ("positive", "negative", "common"))
            found.append(sum(of.attribution for group in groups for of in group if of.feature_id == feature_id))
    return np.array(found)


def by_goal(values: np.ndarray, analysis: Analysis, half: np.ndarray) -> np.ndarray:
    """The mean of every goal group of a half."""
    group = analysis.questions.group
    return np.array([values[group == number].mean() for number in np.unique(group[half])])


def test_both_faces_are_told_apart(causes: Causes) -> None:
    chosen = causes.chosen
    assert chosen is not None
    separates, matters, both = (row_of(causes, feature) for feature in (SEPARATES, MATTERS, BOTH))
    assert chosen.separates[[separates, matters, both]].tolist() == [True, False, True]
    assert chosen.confirmed[[separates, matters, both]].tolist() == [False, True, True]
    assert chosen.auroc[separates] > 0.8
    assert abs(chosen.auroc[matters] - 0.5) < 0.1
    assert chosen.by_contrast[separates]
    assert chosen.by_attribution[matters]
    assert chosen.by_attribution.sum() == BY_ATTRIBUTION
    assert np.nansum(chosen.confirmed) < 6, "noise is confirmed as well"
    assert causes.separate >= 2


@pytest.mark.parametrize("feature", [MATTERS, BOTH, SEPARATES])
def test_every_number_is_of_the_half_that_did_not_choose(
    run: Path, analysis: Analysis, causes: Causes, feature: tuple[int, int]
) -> None:
    chosen, row, half = causes.chosen, row_of(causes, feature), ~analysis.questions.discovery
    assert chosen is not None
    assert 60 < half.sum() < 180
    values = effects(run, *feature)
    groups = by_goal(values, analysis, half)
    assert chosen.mean[row] == pytest.approx(groups.mean())
    assert chosen.magnitude[row] == pytest.approx(by_goal(np.abs(values), analysis, half).mean())
    assert chosen.questions[row] == (values[half] != 0).sum()
    rng = np.random.default_rng(1)
    draws = [rng.choice(groups, len(groups)).mean() for _ in range(2000)]
    reach = np.ptp(np.quantile(draws, [0.025, 0.975]))
    assert [chosen.low[row], chosen.high[row]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.15 * reach)
    assert values[chosen.most[row][0]] == values[np.argmax(np.abs(values))]
    p = wilcoxon(groups[groups != 0], method="asymptotic").pvalue
    assert chosen.q[row] >= p * 0.999


def test_the_auroc_of_a_feature_is_that_of_its_differences(analysis: Analysis, causes: Causes, run: Path) -> None:
    half, group = ~analysis.questions.discovery, analysis.questions.group
    difference = []
    for line in run.read_bytes().splitlines():
        if isinstance(record := parse(line), Record):
            lists = (details.active_features_by_layer[SEPARATES[0]] for details in record.solutions)
            ours = [next((f.activation for f in of if f.feature_id == SEPARATES[1]), 0.0) for of in lists]
            difference.append(ours[0] - ours[1])
    d, weight = np.array(difference)[half], (1 / np.bincount(group)[group])[half]
    assert causes.chosen is not None
    assert causes.chosen.auroc[row_of(causes, SEPARATES)] == pytest.approx(auroc(d, -d, weight))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 4)), max_size=12), st.integers(0, 5))
def test_pairs_that_do_not_differ_need_not_be_there(pairs: list[tuple[int, int]], others: int) -> None:
    if not pairs and not others:
        return
    d, weight = (np.array([pair[place] for pair in pairs], dtype=float) for place in (0, 1))
    whole = np.concatenate([d, np.zeros(others)])
    weights = np.concatenate([weight, np.ones(others)])
    found = auroc_of_differences(d, weight, float(weights.sum()))
    assert found == pytest.approx(auroc(whole, -whole, weights))


def test_the_correlation_is_over_all_that_was_tested_and_not_over_the_chosen(
    run: Path, analysis: Analysis, causes: Causes
) -> None:
    """Among features that one face or the other chose, what lacks one has the other: a correlation of the choice."""
    faces, tested = causes.faces, analysis.right_wrong.firing.selectable
    assert faces is not None
    assert faces.feature_id.tolist() == analysis.features.feature_id[tested].tolist()
    half = ~analysis.questions.discovery
    means = [
        by_goal(effects(run, int(layer), int(feature)), analysis, half).mean()
        for layer, feature in zip(faces.layer[:8], faces.feature_id[:8], strict=True)
    ]
    assert faces.mean[:8] == pytest.approx(means)
    assert faces.correlation == pytest.approx(spearmanr(np.abs(faces.auroc - 0.5), np.abs(faces.mean)).statistic)


def test_depth_has_the_mean_terms_and_sizes(run: Path, causes: Causes) -> None:
    records = [record for line in run.read_bytes().splitlines() if isinstance(record := parse(line), Record)]
    common = [record.attributions["common"] for record in records]
    terms = np.mean([[getattr(of.terms[2], name) for name in TERMS] for of in common], axis=0)
    assert causes.depth.terms[1, 2] == pytest.approx(terms)
    assert causes.depth.mass[1, 2] == pytest.approx(
        np.mean([sum(abs(each.attribution) for each in of.lists[2]) for of in common])
    )


def test_depth_has_the_intervals_of_what_the_solutions_tokens_have(run: Path, causes: Causes) -> None:
    records = [record for line in run.read_bytes().splitlines() if isinstance(record := parse(line), Record)]
    goals = np.unique([goal_key(record.question) for record in records], return_inverse=True)[1]
    of_solutions = [[record.attributions[name] for name in ("positive", "negative", "common")] for record in records]
    totals = np.array([sum(of.terms[2].total for of in groups) for groups in of_solutions])
    sizes = np.array([sum(abs(one.attribution) for of in groups for one in of.lists[2]) for groups in of_solutions])
    depth = causes.depth
    assert depth.terms_interval[1, 3] == pytest.approx(mean_interval(totals, goals))
    assert depth.mass_interval[1] == pytest.approx(mean_interval(sizes, goals))
    assert depth.mass_interval[1].mean() == pytest.approx(depth.mass[1, :3].sum())


@pytest.mark.parametrize("questions", [0, 6])
def test_too_few_questions_are_told_as_that(tmp_path: Path, questions: int) -> None:
    path = tmp_path / "run.jsonl"
    write_attributions(path, Spec(questions=questions, layers=(1, 2)), {})
    causes = analyse(path, Options(permutations=0)).causes
    assert causes is not None
    assert causes.chosen is None
    assert causes.why == "either half of the questions needs 10 goals that differ"


def test_a_run_without_attributions_has_no_causes(tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl", Spec(questions=30))
    assert analyse(tmp_path / "run.jsonl", Options(permutations=0)).causes is None
