"""Many questions: shared among processes, kept, and held in few bytes, a plan is what it always was."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.hub import cache
from layerscope.questions import kept_plans, measuring, plan
from layerscope.questions.files.blocks import ROWS
from layerscope.questions.kept_plans import kept_plan
from layerscope.questions.opening import Wanted
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.plan import Plan, make_plan
from layerscope.questions.prompts import Prompt
from layerscope.questions.selection import Selection, select_questions
from layerscope.records.goals import GoalGroups, count_goals
from layerscope.standin import standin_folder

N = 100
LENGTHS = st.lists(st.integers(0, 6), max_size=60).map(lambda lengths: np.array(lengths, np.int32))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    words = ["take", "the", "soap", "and", "put", "it", "in", "a", "basket", "near", "water"]
    rows = [
        {"goal": " ".join(words[: 1 + number % 7]), "sol1": "eat it", "sol2": "" if number == 5 else f"rub {number}"}
        for number in range(N)
    ]
    lines = [json.dumps({**row, "label": number % 2, "note": number}) for number, row in enumerate(rows)]
    path.write_text("\n\n".join(lines))  # every other line is blank
    return path


@pytest.fixture
def selection(file: Path) -> Selection:
    return select_questions(Wanted(str(file)))[0]


@pytest.fixture
def tokenizer() -> PairTokenizer:
    return PairTokenizer(standin_folder() / "model" / "tokenizer.json", 8192)


def same(one: Plan, other: Plan) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(astuple(one), astuple(other), strict=True))


def test_processes_make_the_plan_that_one_makes(
    file: Path, tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wanted, count in ((Wanted(str(file)), None), (Wanted(str(file), metadata=("note",)), 61)):
        selection, _ = select_questions(wanted, count)
        monkeypatch.setattr(measuring, "FEW", N)
        alone = make_plan(selection, tokenizer, 60, processes=2)
        monkeypatch.setattr(measuring, "FEW", 25)
        assert same(make_plan(selection, tokenizer, 60, processes=2), alone)
        assert alone.unscorable == (count is None or 5 in selection.example_ids)


def test_what_goes_wrong_in_a_process_is_told_here(
    file: Path, selection: Selection, tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "FEW", 40)
    run = subprocess.run

    killed = subprocess.CompletedProcess([], -signal.SIGKILL, b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(LayerscopeError, match=r"ended with -9: killed, perhaps for want of memory\.\nRun again"):
        make_plan(selection, tokenizer, 60, processes=2)
    monkeypatch.setattr(subprocess, "run", run)
    file.write_text(file.read_text().replace("rub 90", "rub 09"))
    with pytest.raises(LayerscopeError, match="one of the questions 80 to 95, was changed while it was in use"):
        make_plan(selection, tokenizer, 60, processes=2)


def test_a_process_whose_parent_is_gone_ends(selection: Selection, tokenizer: PairTokenizer, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        measuring.measure(selection, tokenizer, True, tmp_path / "said", of=os.getpid())


def test_a_full_temporary_folder_is_told(
    selection: Selection, tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measuring, "measure", full)
    with pytest.raises(LayerscopeError, match=r"No space left on device.*\n.*set TMPDIR"):
        make_plan(selection, tokenizer, 60)


@given(lengths=LENGTHS)
def test_a_part_at_a_time_sorts_as_all_at_once_do(lengths: NDArray[np.int32]) -> None:
    whole = plan._longest_first(lengths)
    assert whole.tolist() == np.argsort(-lengths, kind="stable").tolist()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan, "_AT_ONCE", 7)
        assert plan._longest_first(lengths).tolist() == whole.tolist()
        assert (
            plan.cut(lengths, 9, lengths // 2).tolist() == plan.cut(lengths.astype(np.int64), 9, lengths // 2).tolist()
        )


@given(goals=st.lists(st.sampled_from(["Cut 2 apples.", "cut 3 apples", "12 + 5 =", "soap", "Soap!", "water"])))
def test_goals_that_are_only_counted_make_the_same_groups(goals: list[str]) -> None:
    groups = GoalGroups()
    for goal in goals:
        groups.add(goal)
    assert count_goals(iter(goals), len(goals)) == groups.result()


def test_rows_are_read_again_by_blocks_in_any_order(file: Path, selection: Selection) -> None:
    ids = np.random.default_rng(0).permutation(N)
    assert [question.example_id for question in selection.read(ids)] == ids.tolist()
    assert [question.sol2 for question in selection] == ["" if n == 5 else f"rub {n}" for n in range(N)]
    assert selection[N - 1].sol2 == f"rub {N - 1}"
    content = file.read_bytes()
    for number in (0, ROWS, N - 1):
        file.write_bytes(content.replace(b"rub %d" % number, b"rob %d" % number, 1))
        with pytest.raises(LayerscopeError, match="was changed while it was in use"):
            list(selection)
    file.write_bytes(content[:-40])
    with pytest.raises(LayerscopeError, match="was changed while it was in use"):
        list(selection)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Plan, bool]]:
    """A plan, and whether it was made."""
    monkeypatch.setattr(cache.constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(kept_plans, "FEW", 10)

    def get(selection: Selection, tokenizer: PairTokenizer, tokens: int = 60, share: bool = True) -> tuple[Plan, bool]:
        made = list[Plan]()

        def make() -> Plan:
            made.append(make_plan(selection, tokenizer, tokens, share))
            return made[0]

        return kept_plan(selection, tokenizer, tokens, share, make), bool(made)

    return get


def test_a_plan_is_made_once(
    selection: Selection, tokenizer: PairTokenizer, kept: Callable[..., tuple[Plan, bool]]
) -> None:
    first, made = kept(selection, tokenizer)
    again, made_again = kept(selection, tokenizer)
    assert (made, made_again) == (True, False)
    assert same(first, again)
    assert again.batch(0).tolist() == first.batch(0).tolist()


def test_whatever_a_plan_depends_on_makes_another(
    file: Path, selection: Selection, tokenizer: PairTokenizer, kept: Callable[..., tuple[Plan, bool]]
) -> None:
    kept(selection, tokenizer)
    some, _ = select_questions(Wanted(str(file)), 50)
    others, _ = select_questions(Wanted(str(file)), 50, seed=1)
    stripped, _ = select_questions(Wanted(str(file)), strip_solutions=True)
    with_notes, _ = select_questions(Wanted(str(file), metadata=("note",)))
    prompted = PairTokenizer(standin_folder() / "model" / "tokenizer.json", 8192, Prompt("{goal}:"))
    shorter = PairTokenizer(standin_folder() / "model" / "tokenizer.json", 20)
    for each in (
        (selection, tokenizer, 61),
        (selection, tokenizer, 60, False),
        (some, tokenizer),
        (others, tokenizer),
        (stripped, tokenizer),
        (with_notes, tokenizer),
        (selection, prompted),
        (selection, shorter),
    ):
        assert kept(*each)[1]
        assert not kept(*each)[1]
    file.write_text(file.read_text().replace("rub 90", "rub 09"))
    assert kept(select_questions(Wanted(str(file)))[0], tokenizer)[1]


@pytest.mark.parametrize("spoil", [lambda content: content[:-9], lambda _: b"", lambda _: b"PK\x05\x06" * 9])
def test_what_the_cache_lost_is_made_again(
    tmp_path: Path,
    selection: Selection,
    tokenizer: PairTokenizer,
    kept: Callable[..., tuple[Plan, bool]],
    spoil: Callable[[bytes], bytes],
) -> None:
    first, _ = kept(selection, tokenizer)
    (file,) = (tmp_path / "cache" / "layerscope" / "plans").iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    again, made = kept(selection, tokenizer)
    assert made
    assert same(first, again)
