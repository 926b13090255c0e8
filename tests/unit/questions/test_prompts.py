"""A template makes one text of a question and a solution, and the solution's tokens are those of the text behind it."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from layerscope.errors import UsageError
from layerscope.questions.pairs import PairTokenizer, UnscorableError
from layerscope.questions.prompts import DEFAULT, Prompt
from layerscope.questions.sources import Question
from layerscope.questions.spelling import last_word

CHAT = Prompt("<start_of_turn>user\n{goal}<end_of_turn>\n<start_of_turn>model\n", "", strip_goal=True)
TEMPLATES = [DEFAULT, Prompt("{goal}", ""), Prompt("Q {goal} {goal} \U0001f9fc", " \t"), Prompt("{goal}漢", "\n"), CHAT]
CONTROL = re.compile(r"<(?:pad|eos|bos|unk|mask|unused\d+|start_of_turn|end_of_turn)>")
PIECES = ["soap ", " the", ".", "\n", "  ", "▁", "\x00", "<bos>", "<end_of_turn>", "é", "e\u0301", "漢字", "\U0001f9fc"]
TEXT = st.lists(st.sampled_from([*PIECES, "👩‍👩‍👧", "\u202eשלום", "{goal}", "a", "9"]), max_size=8).map("".join)


@pytest.fixture(scope="module")
def file(tiny: Path) -> Path:
    return tiny / "model" / "tokenizer.json"


@given(st.sampled_from(TEMPLATES), TEXT, TEXT, TEXT)
@example(Prompt("{goal}", ""), "so", "ap", "\U0001f9fc")  # merged across the border, or all bytes
@settings(deadline=None, max_examples=300)
def test_tokens_joined_are_the_solution_and_are_those_of_the_whole_text_behind_the_prompt(
    file: Path, prompt: Prompt, goal: str, sol1: str, sol2: str
) -> None:
    assume(sol1.strip() and sol2.strip())
    (pair,) = pair_tokenizer(file, prompt, True).pairs([Question(0, goal, sol1, sol2, 0)])
    assume(not isinstance(pair, UnscorableError))
    assert not isinstance(pair, UnscorableError)
    assert pair.spelled
    start = alone(file, prompt, goal, None)
    assert pair.prompt == len(start)
    for solution, text in enumerate((sol1, sol2)):
        ids = [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]
        assert ids == alone(file, prompt, goal, text)
        assert "".join(pair.spelled[solution]) == text
        assert len(pair.spelled[solution]) == len(ids) - len(start)
    plain = pair_tokenizer(file, prompt, False).pair(Question(0, goal, sol1, sol2, 0))
    assert (plain.tokens, plain.lengths, plain.spelled) == (pair.tokens, pair.lengths, None)


@cache
def pair_tokenizer(file: Path, prompt: Prompt, spell: bool) -> PairTokenizer:
    return PairTokenizer(file, 8192, prompt, spell=spell)


@cache
def without_control_tokens(file: Path) -> tuple[Tokenizer, dict[str, int]]:
    """A tokeniser that knows none of them, and their ids."""
    content = json.loads(file.read_text(encoding="utf-8"))
    known = {token["content"]: token["id"] for token in content["added_tokens"] if CONTROL.fullmatch(token["content"])}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in known]
    return Tokenizer.from_str(json.dumps(content)), known


def alone(file: Path, prompt: Prompt, goal: str, solution: str | None) -> list[int]:
    """A text's tokens, put together from its parts at the template's control tokens, by a tokeniser that knows none."""
    innocent, known = without_control_tokens(file)
    *head, last = CONTROL.sub(lambda match: f"\x01{match[0]}\x01", prompt.template).split("\x01")
    goal = goal.strip() if prompt.strip_goal else goal
    ids = [known["<bos>"]]
    for piece in head:
        text = piece.replace("{goal}", goal)
        ids += [known[piece]] if piece in known else innocent.encode(text, add_special_tokens=False).ids
    end = last.replace("{goal}", goal) + ("" if solution is None else prompt.separator + solution)
    return [*ids, *innocent.encode(end, add_special_tokens=False).ids]


def test_a_character_of_several_tokens_stands_at_the_last_of_them(file: Path) -> None:
    """There the model has read it, and there the last word ends."""
    pair = PairTokenizer(file, 8192, spell=True).pair(Question(0, "goal", "a 漢.", "\U0001f9fc", 0))
    assert pair.spelled
    assert pair.spelled[0] == ("a", " ", "", "", "漢", ".")
    assert pair.spelled[1] == ("", "", "", "", "\U0001f9fc")
    assert last_word(pair.spelled[0]) == 4


@pytest.mark.parametrize(
    ("spelled", "word"),
    [
        *(
            (["a", "."], 0),
            (["x", " b2", "!", " …"], 1),
            ([".", "!"], 1),
            (["é"], 0),
            (["٣", "。"], 0),
            (["½", "\n"], 0),
        ),
        *((["ก", "ี", "."], 1), (["e", "\u0301\u0302", "!"], 1), (["त", "", "", "े", "!"], 3)),  # marks of letters
        (["a", "\u200d", "🙂", "\ufe0f"], 0),  # and that of a picture
    ],
)
def test_the_last_word_has_a_letter_or_a_digit_of_any_script(spelled: list[str], word: int) -> None:
    assert last_word(spelled) == word


def test_prompts_of_one_text_that_end_elsewhere_are_told_apart() -> None:
    """What is behind the end is scored. A run was gone on with by the other, and half of its lines scored more."""
    text = "Q: {goal}\nA:\n \t"
    told = [Prompt(text[:end], text[end:]).told() for end in range(text.index("}") + 1, len(text) + 1)]
    assert len(set(told)) == len(told)
    assert DEFAULT.told() == "Question: {goal}\nSolution: {solution}"
    assert Prompt("{goal}\n", "").told() == "{goal}\n{solution}"


def test_control_tokens_of_a_template_are_tokens_and_those_of_a_question_are_text(file: Path) -> None:
    tokenizer = Tokenizer.from_file(str(file))
    turn, bos = (tokenizer.token_to_id(name) for name in ("<start_of_turn>", "<bos>"))
    pair = PairTokenizer(file, 8192, Prompt(f"<bos>{CHAT.template}", "")).pair(
        Question(0, "<start_of_turn>", "<start_of_turn>", "<bos>", 0)
    )
    assert [token for token in pair.tokens if token in (turn, bos)] == [bos, turn, turn]  # BOS once


def test_a_template_that_leaves_no_room_in_the_context_is_refused(file: Path) -> None:
    words = "word " * 50 + "{goal}"
    length = PairTokenizer(file, 8192, Prompt(words)).pair(Question(0, "", "a", "b", 0)).prompt
    with pytest.raises(UsageError, match=rf"--prompt has {length} tokens .*context is {length}\.\n"):
        PairTokenizer(file, length, Prompt(words))
    PairTokenizer(file, length + 1, Prompt(words))
