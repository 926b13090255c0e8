"""The summary of a file of ablations, on made-up margins, by formulas written down once more."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from layerscope.analysis.ablations import summarise
from layerscope.records.ablations import AblationPlan, ablation_line
from layerscope.records.effects import LEVEL, AblationSummary, FeatureEffect
from layerscope.records.manifest.identity import AblationSettings, ChosenFeature, Identity
from layerscope.records.manifest.manifest import AblationAbout, About
from layerscope.records.writing.journal import open_journal
from made_up import about, identity

FEATURES = [ChosenFeature(1, 7, 8), ChosenFeature(1, 9, 8), ChosenFeature(2, 3, None)]
KINDS = (None, "matched", "random")
MOVES, NOISE, SILENT = range(3)


@dataclass
class MadeUp:
    """A file of ablations: [questions], and [questions, features, kinds]."""

    margin: np.ndarray
    ablated: np.ndarray
    tokens: np.ndarray
    groups: list[int]
    discovery: str

    def write(self, path: Path, chosen_by: str, missing: Sequence[int] = ()) -> Path:
        n = len(self.margin)
        settings = AblationSettings(
            run="r" * 32, features=FEATURES, controls=["matched", "random"], steer=None, features_at_once=2
        )
        of = AblationAbout(
            run="run.jsonl",
            chosen_by=chosen_by,
            starts=f"0 {n // 2} {n}",
            groups=" ".join(map(str, self.groups)),
            discovery=self.discovery,
        )
        made = msgspec.convert(identity([1, 2], 10, n), Identity, str_keys=True)
        told = msgspec.convert(about([1, 2], list(range(n))), About, str_keys=True)
        place = {feature[:2]: number for number, feature in enumerate(FEATURES)}
        with open_journal(path, replace(made, ablation=settings), replace(told, ablation=of), overwrite=False) as file:
            for line in AblationPlan.of(told.example_ids, of, settings).places():
                at = line.example_id, place[line.layer, line.feature_id], KINDS.index(line.control)
                scored = line.example_id not in missing
                margins = (float(self.margin[at[0]]), float(self.ablated[at])) if scored else (None, None)
                tokens = int(self.tokens[at]) if scored else 0
                file.append([ablation_line(line, *margins, tokens, "" if scored else "sol1 is empty")])
        return path


@pytest.fixture(scope="module")
def made_up() -> MadeUp:
    """Of 60 questions in 40 goal groups, the first feature moves 20 margins by −3, far beyond what its controls do."""
    rng = np.random.default_rng(3)
    n = 60
    margin = rng.normal(1.0, 2.0, n).astype(np.float32)
    change = rng.normal(0, 0.2, (n, len(FEATURES), len(KINDS)))
    change[::3, MOVES, 0] -= 3.0
    change[:, SILENT] = 0
    change[1::2, NOISE] = 0
    tokens = (change != 0) * rng.integers(1, 5, change.shape)
    ablated = (margin[:, None, None] + change).astype(np.float32)
    ablated[tokens == 0] = np.broadcast_to(margin[:, None, None], ablated.shape)[tokens == 0]
    groups = rng.integers(0, 40, n).tolist()
    return MadeUp(margin, ablated, tokens, groups, "".join(str(group % 2) for group in groups))


def found(summary: AblationSummary) -> list[FeatureEffect]:
    """In the order of the file."""
    places = {(each.layer, each.feature_id): each for each in summary.features}
    return [places[feature[:2]] for feature in FEATURES]


def bootstrap(values: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Means over the questions of goal groups drawn anew, one draw after the other."""
    by_group = [values[np.array(groups) == group] for group in sorted(set(groups))]
    rng = np.random.default_rng(11)
    draws = (rng.integers(0, len(by_group), len(by_group)) for _ in range(2000))
    return np.array([np.concatenate([by_group[each] for each in draw]).mean() for draw in draws])


def no_fewer(alone: int, both: int) -> float:
    """Of so many coins so many heads or more."""
    return sum(comb(both, heads) for heads in range(alone, both + 1)) / 2**both


@pytest.mark.parametrize("chosen_by", ["file", "attribution"])
def test_every_number_is_that_of_its_definition(made_up: MadeUp, tmp_path: Path, chosen_by: str) -> None:
    missing = [4, 5]
    summary = summarise(made_up.write(tmp_path / "a.jsonl", chosen_by, missing))
    of_half = [chosen_by == "file" or half == "0" for half in made_up.discovery]
    tested = np.array([mine and number not in missing for number, mine in enumerate(of_half)])
    groups = [group for group, mine in zip(made_up.groups, tested, strict=True) if mine]
    assert summary.tested == ("all" if chosen_by == "file" else "validation")
    assert summary.groups == len(set(groups))
    assert summary.missing == 0
    margin, ablated = made_up.margin[tested].astype(float), made_up.ablated[tested].astype(float)
    change = ablated - margin[:, None, None]
    ps, flips_ps = [], []
    for number, feature in enumerate(found(summary)):
        kinds = [feature.effect, *(control.effect for control in feature.controls.values())]
        for kind, effect in enumerate(kinds):
            mine = change[:, number, kind]
            assert effect.questions == tested.sum()
            assert effect.touched == (made_up.tokens[tested][:, number, kind] > 0).sum()
            assert effect.mean_change == pytest.approx(mine.mean(), abs=1e-6)
            assert effect.mean_magnitude == pytest.approx(np.abs(mine).mean(), abs=1e-6)
            then = ablated[:, number, kind]
            assert effect.right_to_wrong == sum(a > 0 >= b for a, b in zip(margin, then, strict=True))
            assert effect.wrong_to_right == sum(a <= 0 < b for a, b in zip(margin, then, strict=True))
            assert effect.mean_change_interval is not None
            draws = bootstrap(mine, groups)
            near = pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.25 * draws.std() + 1e-12)
            assert effect.mean_change_interval == near
        of_controls, of_flips = [], []
        for kind, control in enumerate(feature.controls.values(), start=1):
            excess = np.abs(change[:, number, 0]) - np.abs(change[:, number, kind])
            draws = bootstrap(excess, groups)
            assert control.excess == pytest.approx(excess.mean(), abs=1e-6)
            expected = stats.t.sf(excess.mean() / draws.std(), summary.groups - 1) if draws.std() else 1.0
            of_controls.append(control.excess_p)
            assert control.excess_p == pytest.approx(expected, rel=0.6, abs=0.03)  # other draws
            one, other = ((ablated[:, number, k] > 0) != (margin > 0) for k in (0, kind))
            alone = int((one & ~other).sum()), int((other & ~one).sum())
            assert (control.feature_alone, control.control_alone) == alone
            assert control.flips_p == pytest.approx(no_fewer(alone[0], sum(alone)))
            of_flips.append(control.flips_p)
        ps.append(max(p for p in of_controls if p is not None))
        flips_ps.append(max(of_flips))
    for feature, q, flips_q in zip(
        found(summary), stats.false_discovery_control(ps), stats.false_discovery_control(flips_ps), strict=True
    ):
        assert feature.q == pytest.approx(q)
        assert feature.flips_q == pytest.approx(flips_q)
        assert feature.beyond_controls == (q <= LEVEL)
        assert feature.flips_beyond_controls == (flips_q <= LEVEL)
    moves, noise, silent = found(summary)
    assert moves.beyond_controls
    assert not noise.beyond_controls
    assert not silent.beyond_controls
    assert silent.q == silent.flips_q == 1
    assert summary.features[0] == moves  # the largest first
    assert moves.effect.right_to_wrong > 5 or chosen_by != "file"


def test_of_one_question_and_of_none_nothing_is_said_that_is_not_known(made_up: MadeUp, tmp_path: Path) -> None:
    every = range(len(made_up.margin))
    none = summarise(made_up.write(tmp_path / "none.jsonl", "file", list(every)))
    assert none.groups == 0
    for feature in none.features:
        assert feature.effect.mean_change is feature.effect.mean_change_interval is feature.q is None
        assert not feature.beyond_controls
        assert not feature.flips_beyond_controls
    one = found(summarise(made_up.write(tmp_path / "one.jsonl", "file", list(every)[1:])))[MOVES]
    assert (one.effect.questions, one.effect.touched) == (1, 1)
    assert one.effect.mean_change is not None
    assert all(control.excess is not None and control.excess > 0 for control in one.controls.values())
    assert one.effect.mean_change_interval is one.q is None
    assert not one.beyond_controls


def test_of_few_questions_no_more_is_said_than_students_test_says(made_up: MadeUp, tmp_path: Path) -> None:
    few = [0, 3, 6, 9]
    assert len({made_up.groups[number] for number in few}) == len(few)
    missing = sorted(set(range(len(made_up.margin))) - set(few))
    moves = found(summarise(made_up.write(tmp_path / "few.jsonl", "file", missing)))[MOVES]
    change = np.abs(made_up.ablated[few, MOVES].astype(float) - made_up.margin[few, None])
    for kind, control in enumerate(moves.controls.values(), start=1):
        expected = stats.ttest_1samp(change[:, 0] - change[:, kind], 0, alternative="greater").pvalue
        assert control.excess_p == pytest.approx(expected, rel=0.2)  # the bootstrap's draws
        assert control.excess_p > 1e-5  # by the normal distribution it would be 0 to all digits
