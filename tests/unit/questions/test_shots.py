"""Examples stand before every question as they are drawn; nobody sees its own answer, and a batch holds them once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from layerscope.config import Config
from layerscope.errors import UsageError
from layerscope.planning.describe import describe
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.questions.pairs import PairTokenizer, UnscorableError, tokens_read
from layerscope.questions.plan import cut, make_plan
from layerscope.questions.prompts import Prompt
from layerscope.questions.selection import Selection
from layerscope.questions.shots import Shots, draw_shots
from layerscope.questions.sources import Question
from layerscope.questions.table import QuestionTable
from layerscope.records.manifest.differences import settings_that_differ
from layerscope.records.manifest.manifest import Manifest

ROWS: list[dict[str, Any]] = [
    {"question": f"how to cut {word}", "choices": [f"with {word}", "with a knife", "with ice"], "answer": number % 3}
    for number, word in enumerate(("soap", "bread", "a rope", "glass", "paper", "wood"))
]


def source(rows: list[dict[str, Any]]) -> QuestionTable:
    return QuestionTable(((f"row {i}", row) for i, row in enumerate(rows)), "rows", {})


@pytest.fixture(scope="module")
def file(tiny: Path) -> Path:
    return tiny / "model" / "tokenizer.json"


def drawn(count: int = 2, rows: list[dict[str, Any]] = ROWS) -> Shots:
    return draw_shots(source(rows), count, 0, "shots.jsonl")


@pytest.mark.parametrize(
    "template", ["Question: {goal}\nAnswer:", "{goal} {goal}", "<start_of_turn>user\n{goal}<end_of_turn>\n"]
)
def test_a_text_is_the_examples_with_their_right_solutions_then_the_question(file: Path, template: str) -> None:
    shots, tokenizer = drawn(), Tokenizer.from_file(str(file))
    pairs = PairTokenizer(file, 8192, Prompt(template, " ", shots=shots))
    question = Question(9, "how to cut cloth", "with scissors", "with water", 0, ("with a cup",))
    pair = pairs.pair(question)
    filled = [template.replace("{goal}", each.goal) for each in (*shots.usual, question)]
    right = [each.solutions[each.label] for each in shots.usual]
    before = "".join(f"{text} {answer}\n\n" for text, answer in zip(filled, right, strict=False)) + filled[-1]
    assert pair.prompt == len(tokenizer.encode(before, add_special_tokens=False).ids) + 1
    for solution, text in enumerate(question.solutions):
        ids = [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]
        assert ids == [pairs.bos_id, *tokenizer.encode(f"{before} {text}", add_special_tokens=False).ids]


def test_the_draw_is_the_seeds_a_larger_one_holds_the_smaller_and_equal_rows_count_once() -> None:
    def rows_of(count: int, seed: int = 0) -> list[int]:
        return [each.example_id for each in draw_shots(source(ROWS), count, seed, "").usual]

    assert rows_of(3) == sorted(rows_of(3)) == rows_of(3)
    assert set(rows_of(2)) < set(rows_of(3))
    assert len({tuple(rows_of(3, seed)) for seed in range(9)}) > 3
    assert len({each.goal for each in drawn(6, ROWS * 2).examples}) == 6


def test_a_question_that_is_an_example_sees_the_next_one_drawn(file: Path) -> None:
    shots, questions = drawn(), [source(ROWS)[row] for row in range(6)]
    spare = shots.examples[shots.spare]
    for question in questions:
        seen = shots.of(question)
        assert len(seen) == 2
        assert question not in seen
        assert (spare in seen) == (question in shots.usual)
    tokenizer = PairTokenizer(file, 8192, Prompt(shots=shots))
    plan = make_plan(Selection(source(ROWS), np.arange(6)), tokenizer, 10_000)
    assert plan.among_shots == 2


def test_what_cannot_be_drawn_or_leaves_no_room_is_told_with_the_number(file: Path) -> None:
    with pytest.raises(UsageError, match=r"^--shots 7: shots.jsonl has 6 different questions\.\nTake fewer"):
        drawn(7, ROWS * 3)
    all_of_them = drawn(6)
    with pytest.raises(UsageError, match=r"has no more different questions, and question 0 .*\nIt would be answered"):
        all_of_them.of(source(ROWS)[0])
    length = PairTokenizer(file, 8192, Prompt(shots=all_of_them)).pair(Question(0, "", "x", "y", 0)).prompt
    with pytest.raises(UsageError, match=rf"^--shots 6: the prompt has {length} tokens .*is {length}\.\n.*Take fewer"):
        PairTokenizer(file, length, Prompt(shots=all_of_them))
    with pytest.raises(UsageError, match="--shots is 2 and --shots-from is ''"):
        Config(shots=2)
    with pytest.raises(UsageError, match="has turns"):
        Config(shots=2, shots_from="x", prompt="chat")


def test_a_batch_is_cut_by_what_it_holds_once(file: Path) -> None:
    tokenizer = PairTokenizer(file, 8192, Prompt(shots=drawn(4)))
    selection = Selection(source(ROWS), np.arange(6))
    pairs = [pair for pair in tokenizer.pairs(selection) if not isinstance(pair, UnscorableError)]
    others = [pair for pair in pairs if pair.common == max(each.common for each in pairs)]
    assert len(others) == 2  # four are examples themselves, and begin otherwise
    assert tokens_read(others) == tokens_read(others, share=False) - others[0].common
    assert others[0].common > len(others[0].tokens) / 2
    shared, apart = (make_plan(selection, tokenizer, 10_000, share) for share in (True, False))
    assert shared.shared_tokens == tokens_read(pairs)
    assert apart.shared_tokens == sum(len(pair.tokens) for pair in pairs)
    lengths, common = np.array([100, 90, 90, 80, 0, 0]), np.array([80, 80, 10, 80, 0, 0])
    assert cut(lengths, 110, common).tolist() == [0, 2, 3, 6]  # 100 + 10; 90; 80 + 1 + 1
    assert cut(lengths, 110).tolist() == [0, 1, 2, 3, 6]


def test_examples_are_in_plan_and_manifest_and_a_run_with_others_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "shots.csv").write_text("goal,sol1,sol2,label\na,b,c,0\nd,e,f,1\ng,h,i,0\n")
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "dataset": "bundled"}
    common = {"device": "cpu", "output_file": str(tmp_path / "out.jsonl"), "shots_from": str(tmp_path / "shots.csv")}
    config = Config(**sources, **common, num_samples=5, shots=2)  # type: ignore[arg-type]
    job = prepare(config, [probe()])
    assert "examples   2 questions with the right solution before each: --shots-from" in describe(job)
    manifest = Manifest(format=2, identity=job.identity(), about=job.about(""))
    assert manifest.identity.settings.shots
    assert sorted(manifest.identity.settings.shots.rows.split(",")) == ["0", "1", "2"]
    assert "shots.csv" in manifest.about.shots_from
    (tmp_path / "shots.csv").write_text("goal,sol1,sol2,label\na,b,c,1\nd,e,f,1\ng,h,i,0\n")
    assert any("shots.sha256" in told for told in settings_that_differ(manifest, prepare(config, [probe()]).identity()))
    without = prepare(replace(config, shots=0, shots_from=""), [probe()])
    assert any(told.startswith("settings.shots was") for told in settings_that_differ(manifest, without.identity()))
    with pytest.raises(UsageError, match=r"--shots-from .*none.csv: no such file"):
        prepare(replace(config, shots_from=str(tmp_path / "none.csv")), [probe()])
