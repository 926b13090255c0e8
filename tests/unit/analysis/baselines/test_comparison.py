"""The comparison on runs whose truth is known: what is said of effects in length, in copies, in residuals, nowhere."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from scipy import stats

from halves import made_up_questions
from layerscope.analysis.baselines.comparison import compare
from layerscope.analysis.baselines.result import Comparison
from layerscope.analysis.baselines.ridge import Probe
from layerscope.analysis.baselines.split import Split
from layerscope.analysis.baselines.texts import Differences, Texts
from layerscope.analysis.columns.spilling import Column
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Options
from layerscope.records.reading.residuals import Layout, residuals_path
from layerscope.records.reading.run import Run
from layerscope.report.words.baselines_said import compared, hidden_title
from made_up import edit_manifest
from synthetic_run import Effect, Spec, write_run

Records = list[dict[str, Any]]
SIDES = ("positive_solution_details", "negative_solution_details")
OPTIONS = Options(permutations=0)


def write(path: Path, spec: Spec, change: Callable[[Records], object] = lambda _: None) -> Path:
    """A run whose records are changed."""
    write_run(path, spec)
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    change(records)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    edit_manifest(path, lambda manifest: manifest.pop("progress", None))
    return path


def auroc(comparison: Comparison, key: str) -> tuple[float, float, float]:
    baseline = comparison.of(key)
    assert baseline is not None
    measured, at = baseline.measured, baseline.chosen
    return float(measured.auroc[at]), float(measured.auroc_low[at]), float(measured.auroc_high[at])


def longer_is_right(records: Records) -> None:
    """In nine of ten pairs, by tokens and by text."""
    rng = np.random.default_rng(0)
    for record in records:
        short, long = sorted(rng.choice(np.arange(3, 40), 2, replace=False).tolist())
        lengths = (long, short) if rng.random() < 0.9 else (short, long)
        for side, length in zip(SIDES, lengths, strict=True):
            record[side] |= {"token_count": length, "text": "put " * (length - 1) + "."}


def test_an_effect_in_length_alone_is_told_as_such(tmp_path: Path) -> None:
    analysis = analyse(write(tmp_path / "run.jsonl", Spec(questions=500, distinct=True), longer_is_right), OPTIONS)
    said = compared(analysis)
    assert "features are not shown to tell right from wrong" in said
    assert "they beat nothing that they are compared with" in said
    assert "Length (0.9" in said
    assert "alone do better" in said
    assert auroc(analysis.comparison, "length")[1] > 0.85
    length = analysis.comparison.of("length")
    assert length is not None
    assert length.ahead is not None
    assert length.ahead.high < -0.2


def test_near_duplicates_alone_tell_nothing(tmp_path: Path) -> None:
    """A hundred copies of each of three questions in one half do not teach, or prove, anything."""

    def copy(records: Records) -> None:
        rng = np.random.default_rng(1)
        for number, record in enumerate(records):
            scores = rng.permutation(sorted(rng.normal(-60, 10, 2)))
            record["model_is_correct"] = bool(scores[0] > scores[1])
            for side, score in zip(SIDES, scores.astype(np.float32), strict=True):
                record[side]["log_likelihood"] = float(score)
            if number >= 100:
                copied = records[number % 3]
                records[number] = {**copied, "example_id": number, "question": f"{copied['question']}, {number} times"}
        for number in range(3):
            records[number]["question"] += ", once times"

    analysis = analyse(write(tmp_path / "run.jsonl", Spec(questions=400, active=40, distinct=True), copy), OPTIONS)
    said = compared(analysis)
    assert "features are not shown to tell right from wrong" in said
    assert "and neither is anything else: " in said
    assert auroc(analysis.comparison, analysis.comparison.best)[2] - auroc(analysis.comparison, "length")[1] > 0.2
    assert analysis.comparison.groups < 75


def test_features_that_tell_are_said_to_beat_what_does_not(tmp_path: Path) -> None:
    spec = Spec(questions=500, distinct=True, effects=[Effect(1, 7, 0.9, 0.1)])
    path = write(tmp_path / "run.jsonl", spec)
    analysis = analyse(path, OPTIONS)
    comparison, said = analysis.comparison, compared(analysis)
    assert "features tell right from wrong" in said
    assert "in layer 1" in said
    assert "better than log-likelihood" in said
    assert said.endswith(
        " Not compared: difference of means and probe on residuals (needs a run with --residuals); selected random "
        "features and probe on 20 random features (needs a run with --baseline-dictionary)."
    )
    selected = comparison.of("selected")
    assert selected is not None
    assert selected.measured.ranked[1] == pytest.approx(analysis.right_wrong.held_out.paired[1])
    assert comparison.hidden is not None
    assert comparison.hidden.probe == "sparse-20"
    again = analyse(path, OPTIONS).comparison
    for one, other in zip(comparison.baselines, again.baselines, strict=True):
        for name, column in vars(one.measured).items():
            assert column.tobytes() == getattr(other.measured, name).tobytes()


def with_residuals(path: Path, shift: float, errors: int) -> Path:
    """Residuals of sixteen numbers in which the right solution is a step along one direction; none for an error."""
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(residuals="float32"))
    edit_manifest(path, lambda manifest: manifest["about"].update(d_model=16))
    layout = Layout.of(path, Run.open(path).manifest)
    residuals_path(path).mkdir()
    for layer in layout.layers:
        rng = np.random.default_rng(layer)
        rows = rng.standard_normal((layout.lines, 1, 2, 16)) / np.sqrt(2)
        rows[:, 0, 0] += (shift if layer == 1 else 0) * np.full(16, 0.25)
        rows[errors] = np.nan
        layout.file(layer).write_bytes(layout.header() + rows.astype("<f4").tobytes())
    return path


def test_a_direction_in_the_residuals_is_found_and_beats_features_that_know_nothing(tmp_path: Path) -> None:
    """Differences are N(δ, 1) along it: the best AUROC of differences is Φ(√2 δ), the best share of pairs Φ(δ)."""
    shift = 1.2
    path = write(tmp_path / "run.jsonl", Spec(questions=600, layers=(0, 1), distinct=True, errors=(5,)))
    analysis = analyse(with_residuals(path, shift, 5), OPTIONS)
    comparison, said = analysis.comparison, compared(analysis)
    for key in ("means", "dense"):
        found, low, high = auroc(comparison, key)
        assert low <= stats.norm.cdf(np.sqrt(2) * shift) <= high
        baseline = comparison.of(key)
        assert baseline is not None
        assert baseline.chosen == 1
        assert 0.4 < baseline.measured.auroc[0] < 0.6
        assert baseline.measured.ranked[1] == pytest.approx(stats.norm.cdf(shift), abs=0.05)
        assert found > 0.9
    needs = "needs --baseline-dictionary, of the report or of the run"
    assert {need for _, need in comparison.missing} == {needs}
    assert "features are not shown to tell right from wrong" in said
    assert "alone do better" in said
    assert comparison.hidden is not None
    ours, theirs = comparison.hidden.probe_only[1], comparison.hidden.likelihood_only[1]
    assert comparison.hidden.p[1] == pytest.approx(stats.binomtest(ours, ours + theirs).pvalue)
    assert ours > theirs, "as the title says, which is made of the shares"
    assert hidden_title(analysis).startswith("Hidden knowledge: more is found inside than is said")


def test_the_half_that_judges_chooses_neither_layer_nor_size_nor_direction() -> None:
    """Else a baseline, or the features, are said to tell as well as the luckiest of all that was tried."""
    questions = made_up_questions(300)
    split = Split.of(questions, 0)
    assert split is not None
    noise = np.random.default_rng(0).uniform(0.5, 1, 300)
    choosing = np.where(questions.discovery, noise, -noise)  # right in the one half, wrong in the other
    both, nothing = [Probe(-choosing, 0.0), Probe(choosing, 1.0)], [Probe(-choosing, 0.0), Probe(-choosing, 0.2)]
    longer = np.where(questions.discovery, 5, -5)
    questions = replace(questions, positive_tokens=10 + longer, negative_tokens=np.full(300, 10))
    features = {"selected": both, "sparse-1": nothing, "sparse-5": both, "sparse-20": nothing}
    with ExitStack() as stack:
        none = Differences(Column("i", stack), 0)
        words = Texts(lambda: none, lambda: none, False)
        found = compare(questions, split, [0, 1], words, features, "needs a run with --residuals", {}, lambda *_: None)
    assert found.best == "sparse-5"
    for key, chosen in (("selected", 1), ("sparse-5", 1), ("length", 0)):
        baseline = found.of(key)
        assert baseline is not None
        assert baseline.chosen == chosen
        assert baseline.measured.auroc[chosen] == 0


def test_of_many_tokens_there_is_no_residual_and_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "run.jsonl", Spec(questions=80, distinct=True))
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(residuals="float32"))
    assert "needs the folder of residuals beside the file)" in compared(analyse(path, OPTIONS))


def test_tokens_of_the_record_are_counted_where_it_has_them(tmp_path: Path) -> None:
    """One of them is in every right solution; in the texts there is nothing of it."""

    def spell(records: Records) -> None:
        for number, record in enumerate(records):
            for side in SIDES:
                record[side]["text"] = "onesometoken"
                record[side]["tokens"] = ["one" * (side == SIDES[0]), "some" * (number % 2), "token"]

    path = tmp_path / "run.jsonl"
    write(path, Spec(questions=120, distinct=True), spell)
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(tokens=True))
    comparison = analyse(path, OPTIONS).comparison
    assert comparison.tokens
    assert auroc(comparison, "words") == (1, 1, 1)


@pytest.mark.parametrize("questions", [0, 12])
def test_too_few_questions_are_no_result(tmp_path: Path, questions: int) -> None:
    analysis: Analysis = analyse(write(tmp_path / "run.jsonl", Spec(questions=questions, planned=40)), OPTIONS)
    assert not analysis.comparison.baselines
    assert compared(analysis) == (
        "Beside baselines: not known, because either half of the questions needs 10 goals that differ."
        if questions
        else ""
    )
