"""A pair's row holds exactly the tokens of each solution's own text, and the plan is a function of questions alone."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from layerscope.errors import UsageError
from layerscope.questions.opening import Wanted
from layerscope.questions.pairs import Pair, PairTokenizer, UnscorableError
from layerscope.questions.plan import Plan, cut, make_plan
from layerscope.questions.prompts import PROMPT
from layerscope.questions.selection import Selection, select_questions
from layerscope.questions.sources import Question

CONTEXT = 8192
CONTROL = re.compile(r"<(pad|eos|bos|unk|mask|unused\d+|start_of_turn|end_of_turn)>")

PIECES = [
    *("a", "b", "soap ", "the", " the", " the the ", ".", "\n", "\n\n", " ", "  ", "    ", "\t", "▁", "▁▁", "\x00"),
    *("<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<unused0>", "<end_of_turn>", "<start_of_turn>", "<table>", "<"),
    *("é", "e\u0301", "漢字", "\u202eשלום", "\U0001f9fc", "\u3000", "Solution:", "\nSolution: ", "{goal}", "<0x41>"),
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@dataclass(frozen=True)
class Listed:
    """Questions at hand."""

    rows: Sequence[Question]
    origin: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, example_id: int) -> Question:
        return self.rows[example_id]

    def read(self, example_ids: Iterable[int]) -> Iterator[Question]:
        return map(self.__getitem__, example_ids)


@pytest.fixture(scope="module")
def tokenizer_file(tiny: Path) -> Path:
    return tiny / "model" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> PairTokenizer:
    return PairTokenizer(tokenizer_file, CONTEXT)


@pytest.fixture(scope="module")
def innocent(tokenizer_file: Path) -> Tokenizer:
    """The tokeniser as it would be had nobody ever told it of control tokens."""
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if not CONTROL.fullmatch(token["content"])]
    return Tokenizer.from_str(json.dumps(content))


def changed(tokenizer_file: Path, path: Path, **parts: Any) -> Path:
    """A copy of the tokeniser's file with parts of it replaced."""
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **parts}), encoding="utf-8")
    return path


def whole_text(question: Question, solution: int) -> str:
    return f"{PROMPT.format(goal=question.goal)} {question.solutions[solution]}"


def rebuilt(pair: Pair, solution: int) -> list[int]:
    return [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]


# --- the pair ---------------------------------------------------------------------------------------------------------


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Solutions that begin alike, of which one may be another's beginning, or the same; two, or more."""
    goal, start, *ends = (draw(TEXT) for _ in range(draw(st.sampled_from([4, 4, 5, 7]))))
    sol1, sol2, *more = [start + end for end in ends]
    return Question(0, goal, sol1, sol2, draw(st.sampled_from([0, 1])), tuple(more))


@given(questions())
@example(Question(0, "soap", "the soap", "the soap", 0))
@example(Question(0, "soap", "the", "the soap", 0))
@example(Question(0, "soap", "the soap", "the", 0))
@example(Question(0, "<bos>", "<eos><bos>", "<unused0>", 0))
@settings(deadline=None, max_examples=300)
def test_a_row_holds_for_each_solution_the_tokens_of_its_own_text(
    tokenizer: PairTokenizer, innocent: Tokenizer, question: Question
) -> None:
    """Else the model would read something else than the question: one wrong token changes every number after it."""
    assume(all(map(str.strip, question.solutions)))

    def alone(text: str) -> list[int]:
        return [innocent.token_to_id("<bos>"), *innocent.encode(text, add_special_tokens=False).ids]

    pair = tokenizer.pair(question)
    expected = [alone(whole_text(question, solution)) for solution in pair.solutions]
    prompt = len(alone(PROMPT.format(goal=question.goal)))
    same = [len(set(tokens)) == 1 for tokens in zip(*expected, strict=False)]
    assert pair.shared == (same.index(False) if False in same else len(same))
    assert len(pair.lengths) == len(question.solutions)
    assert len(pair.tokens) == sum(map(len, expected)) - (len(expected) - 1) * pair.shared
    assert pair.prompt == prompt
    for solution in pair.solutions:
        assert rebuilt(pair, solution) == expected[solution]
        assert list(pair.solution_tokens(solution)) == expected[solution][prompt:]
        final = pair.final_index(solution)
        assert final == pair.row_index(solution, len(expected[solution]) - 1)
        assert pair.tokens[final] == expected[solution][-1]


@given(questions())
@settings(deadline=None)
def test_positions_and_segments_tell_of_every_token_where_row_index_puts_it(
    tokenizer: PairTokenizer, question: Question
) -> None:
    """The mask and the position ids are made of them: elsewhere a token would see the other solution."""
    assume(all(map(str.strip, question.solutions)))
    pair = tokenizer.pair(question)
    by_row: dict[int, tuple[int, int]] = {}
    for solution in pair.solutions:
        for position in range(pair.lengths[solution]):
            segment = 0 if position < pair.shared else solution + 1
            assert by_row.setdefault(pair.row_index(solution, position), (position, segment)) == (position, segment)
    expected = [by_row[index] for index in range(len(pair.tokens))]
    assert list(zip(pair.positions().tolist(), pair.segments().tolist(), strict=True)) == expected


@given(questions())
@settings(deadline=None)
def test_no_text_of_a_question_becomes_a_control_token(
    tokenizer: PairTokenizer, tokenizer_file: Path, question: Question
) -> None:
    """A question that says `<bos>` would else steer the model instead of being read by it."""
    assume(all(map(str.strip, question.solutions)))
    added = Tokenizer.from_file(str(tokenizer_file)).get_added_tokens_decoder()
    control = {token_id for token_id, token in added.items() if CONTROL.fullmatch(token.content)}
    pair = tokenizer.pair(question)
    assert pair.tokens[0] == tokenizer.bos_id
    assert not control & set(pair.tokens[1:])


def test_tokens_agree_with_transformers(tiny: Path, tokenizer: PairTokenizer) -> None:
    """Anybody who checks a log-likelihood does so with transformers."""
    reference = AutoTokenizer.from_pretrained(tiny / "model", split_special_tokens=True)
    bundled, _ = select_questions(Wanted("bundled"))
    odd = Question(0, "<bos> é 漢字\n\n<table>", "two  blanks, \U0001f9fc <eos>", "    four\tblanks ", 0)
    for question in [*bundled, odd]:
        pair = tokenizer.pair(question)
        for solution in (0, 1):
            assert rebuilt(pair, solution) == reference(whole_text(question, solution))["input_ids"]


def test_pairs_come_in_the_order_of_their_questions(tokenizer: PairTokenizer) -> None:
    """However many are tokenised at once, and with ones between them that cannot be scored."""
    rows = [Question(index, f"goal {index}", "" if index % 7 == 0 else "yes", "no", 0) for index in range(600)]
    outcomes = list(tokenizer.pairs(rows))
    assert len(outcomes) == len(rows)
    for question, outcome in zip(rows, outcomes, strict=True):
        if question.sol1:
            assert outcome == tokenizer.pair(question)
        else:
            assert isinstance(outcome, UnscorableError)


def test_a_tokeniser_that_cuts_or_pads_is_kept_from_it(tokenizer_file: Path, tmp_path: Path) -> None:
    """Some repositories save what they trained with in tokenizer.json; long questions would lose their ends."""
    cutting = Tokenizer.from_file(str(tokenizer_file))
    cutting.enable_truncation(5)
    cutting.enable_padding(length=64)
    cutting.save(str(tmp_path / "cutting.json"))
    question = Question(0, "wash the soap dish", "with water", "with sand and water", 0)
    expected = PairTokenizer(tokenizer_file, CONTEXT).pair(question)
    assert PairTokenizer(tmp_path / "cutting.json", CONTEXT).pair(question) == expected


def test_what_is_no_tokeniser_of_gemma_is_refused(tokenizer_file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_bytes(tokenizer_file.read_bytes()[:-100])
    vocabulary = {"a": 0, "<unk>": 1}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>"}
    changed(tokenizer_file, tmp_path / "no_bos.json", model=model, added_tokens=[], post_processor=None)
    for name, told in (("broken", "not a tokeniser"), ("missing", "not a tokeniser"), ("no_bos", "no <bos> token")):
        with pytest.raises(UsageError, match=told):
            PairTokenizer(tmp_path / f"{name}.json", CONTEXT)


# --- what cannot be scored --------------------------------------------------------------------------------------------


def reason(tokenizer: PairTokenizer, sol1: str, sol2: str) -> str:
    with pytest.raises(UnscorableError) as caught:
        tokenizer.pair(Question(0, "soap", sol1, sol2, 0))
    return str(caught.value)


def test_a_solution_without_text_cannot_be_scored(tokenizer: PairTokenizer) -> None:
    assert reason(tokenizer, "", "yes") == "sol1 is empty"
    assert reason(tokenizer, "yes", "") == "sol2 is empty"
    assert reason(tokenizer, "yes", " \u3000\n") == "sol2 is only white space"


def test_a_solution_that_fills_the_context_is_scored_and_one_token_more_is_not(
    tokenizer_file: Path, tokenizer: PairTokenizer
) -> None:
    """Beyond its context the model was never trained: its numbers there mean nothing."""
    question = Question(0, "soap", "wash the dish with it", "eat", 0)
    length = max(tokenizer.pair(question).lengths)
    assert PairTokenizer(tokenizer_file, length).pair(question) == tokenizer.pair(question)
    short = PairTokenizer(tokenizer_file, length - 1)
    told = f"makes {length} tokens with its question; the model's context is {length - 1}"
    assert reason(short, question.sol1, question.sol2) == f"sol1 {told}"
    assert reason(short, question.sol2, question.sol1) == f"sol2 {told}"


def test_a_solution_that_the_tokeniser_merges_into_the_prompt_cannot_be_scored(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    """Its log-likelihood would be a sum over no tokens, 0, and beat every other."""
    merging = Tokenizer.from_file(str(tokenizer_file))
    merging.add_tokens(["\nSolution: ok"])
    merging.save(str(tmp_path / "merging.json"))
    tokenizer = PairTokenizer(tmp_path / "merging.json", CONTEXT)
    assert reason(tokenizer, "ok", "yes").startswith("sol1 has no token of its own")
    assert reason(tokenizer, "yes", "ok").startswith("sol2 has no token of its own")


# --- the plan ---------------------------------------------------------------------------------------------------------


def select(rows: Sequence[Question], ids: Sequence[int] | None = None) -> Selection:
    return Selection(Listed(rows), np.array(range(len(rows)) if ids is None else ids, dtype=np.int64))


def batches(plan: Plan) -> list[list[int]]:
    return [plan.batch(index).tolist() for index in range(len(plan))]


def check_cut(lengths: Sequence[int], starts: Sequence[int], budget: int) -> None:
    """Batches cover all rows, keep to the budget unless they are one row, and take as many as they can."""
    assert starts[0] == 0
    assert starts[-1] == len(lengths)
    sizes = [max(length, 1) for length in lengths]
    for start, end in pairwise(starts):
        assert start < end
        assert sum(sizes[start:end]) <= budget or end == start + 1
        assert end == len(sizes) or sum(sizes[start : end + 1]) > budget


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 100))
def test_batches_keep_to_the_budget_and_use_it(lengths: list[int], budget: int) -> None:
    """Rows without tokens count one: thousands of questions that cannot be scored must not be one batch."""
    check_cut(lengths, cut(np.array(lengths, dtype=np.int64), budget).tolist(), budget)


@given(st.lists(questions(), max_size=12), st.data(), st.integers(1, 120))
@settings(deadline=None)
def test_the_plan_holds_every_question_once_longest_first(
    tokenizer: PairTokenizer, rows: list[Question], data: st.DataObject, budget: int
) -> None:
    rows = [replace(question, example_id=index) for index, question in enumerate(rows)]
    ids = sorted(data.draw(st.sets(st.sampled_from(range(len(rows)))))) if rows else []
    selection = select(rows, ids)
    plan = make_plan(selection, tokenizer, budget)
    pairs = {question.example_id: pair for question, pair in zip(selection, tokenizer.pairs(selection), strict=True)}
    scorable = {example_id: pair for example_id, pair in pairs.items() if isinstance(pair, Pair)}
    lengths = {example_id: len(scorable[example_id].tokens) if example_id in scorable else 0 for example_id in ids}

    assert plan.order.tolist() == sorted(ids, key=lambda example_id: (-lengths[example_id], example_id))
    assert set(plan.order.tolist()[len(scorable) :]) == pairs.keys() - scorable.keys()  # what cannot be scored is last
    assert plan.unscorable == len(ids) - len(scorable)
    assert plan.shared_tokens == sum(lengths.values())
    assert plan.unshared_tokens == sum(sum(pair.lengths) for pair in scorable.values())
    check_cut([lengths[example_id] for example_id in plan.order.tolist()], plan.starts.tolist(), budget)
    assert [example_id for batch in batches(plan) for example_id in batch] == plan.order.tolist()
    for index in range(len(plan)):
        for line in range(int(plan.starts[index]), int(plan.starts[index + 1])):
            assert plan.batch_of(line) == index


def test_many_questions_of_one_length_come_by_id(tokenizer: PairTokenizer) -> None:
    """A small sort keeps ties in order by itself, a large one only when told, and else as its version likes."""
    rows = [Question(index, "soap", "wash" + " it" * (index % 3), "no", 0) for index in range(600)]
    expected = [index for length in (2, 1, 0) for index in range(length, 600, 3)]
    assert make_plan(select(rows), tokenizer, 100).order.tolist() == expected


ROWS = [
    Question(0, "soap", "wash the dish with it", "eat it", 0),
    Question(1, "dish", "wash the soap with it", "eat it", 1),
    Question(2, "spoon", "stir", "", 0),
    Question(3, "cup", "fill it ", "fill it", 1),
]


@pytest.mark.parametrize("row", range(len(ROWS)))
@pytest.mark.parametrize(
    "change",
    [
        lambda question: replace(question, goal=question.goal + "s"),
        lambda question: replace(question, sol1=question.sol1 + "."),
        lambda question: replace(question, sol2=question.sol2 + "."),
        lambda question: replace(question, label=1 - question.label),
        lambda question: replace(question, sol1=question.sol1 + question.sol2[:1], sol2=question.sol2[1:]),
        lambda question: replace(question, sol1=question.sol2, sol2=question.sol1),
    ],
    ids=["goal", "sol1", "sol2", "label", "border", "swapped"],
)
def test_the_digest_tells_of_any_change_to_any_question(tokenizer: PairTokenizer, row: int, change: Any) -> None:
    """A resumed run would else go on with other questions under the old ones' lines."""
    other = [change(question) if index == row else question for index, question in enumerate(ROWS)]
    digests = [make_plan(select(rows), tokenizer, 20).digest for rows in (ROWS, other)]
    assert (digests[0] == digests[1]) == (other == ROWS)


def test_the_digest_tells_of_other_batches_and_of_nothing_else(tokenizer: PairTokenizer) -> None:
    def plan(budget: int, ids: Sequence[int] = (0, 1, 2, 3)) -> Plan:
        return make_plan(select(ROWS, ids), tokenizer, budget)

    single, together = plan(1), plan(1000)
    assert batches(single) != batches(together)
    assert plan(1).digest == single.digest
    assert plan(1001).digest == together.digest
    assert len({single.digest, together.digest, plan(1000, [0, 1, 2]).digest, plan(1000, [0, 1, 3]).digest}) == 4


def test_stripping_changes_what_is_tokenised_and_the_digest(tokenizer: PairTokenizer) -> None:
    selection = select(ROWS)
    stripped = replace(selection, strip_solutions=True)
    as_they_are, without_blanks = make_plan(selection, tokenizer, 50), make_plan(stripped, tokenizer, 50)
    assert without_blanks.unshared_tokens < as_they_are.unshared_tokens
    assert without_blanks.digest != as_they_are.digest


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100), st.integers(1, 70))
@settings(deadline=None)
def test_the_parts_of_a_plan_one_after_the_other_are_the_plan(lengths: list[int], budget: int, count: int) -> None:
    """The same batches in the same order, cut at other places, about equally many each: the same bytes come out."""
    order, starts = np.arange(len(lengths)), cut(np.array(lengths), budget)
    plan = Plan(order, starts, sum(lengths), 0, 0, "digest")
    parts = [plan.part(index, count) for index in range(1, count + 1)]
    assert [batch for part in parts for batch in batches(part)] == batches(plan)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(len(part.order) == part.starts[-1] and part.starts[0] == 0 for part in parts)
