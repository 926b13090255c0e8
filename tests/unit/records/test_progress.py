"""A rate is of the work: Ray's start and the loading of weights, which take minutes, are no part of it."""

import io

import pytest

from layerscope.records import progress
from layerscope.records.progress import Progress
from layerscope.records.totals import Totals


def test_a_rate_counts_from_when_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    totals, told = Totals(questions=40), io.StringIO()
    with Progress(100, totals, told) as shown:
        now += 90  # until the first actor is ready
        assert shown.rate() == 0
        shown.update()
        assert "no question done yet" in told.getvalue()
        shown.begin()
        now += 10
        shown.begin()  # at every call of an actor
        totals.questions = 60
        shown.update()
    assert shown.rate() == pytest.approx(2)
    assert "60/100 questions, 2.0/s, 20 s left" in told.getvalue()


def test_accuracy_so_far_has_its_interval_and_says_of_which_questions_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    totals, told = Totals(questions=50, correct=40), io.StringIO()
    assert (totals.accuracy_so_far(), Totals().accuracy_so_far()) == (
        "80.0% (95%: 67.0% to 88.8%)",
        "no question scored",
    )
    with Progress(100, totals, told) as shown:
        now += 11
        shown.update()
        totals.questions = totals.correct = 100
        now += 11
        shown.update()
    first, last = told.getvalue().splitlines()
    assert first.endswith("accuracy 80.0% (95%: 67.0% to 88.8%), longest questions first")
    assert last.endswith("accuracy 100.0% (95%: 96.3% to 100.0%)")
