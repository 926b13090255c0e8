"""Questions are read as they stand or refused with the place and the reason, and the same seed draws the same ones."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.errors import UsageError
from layerscope.questions.opening import Wanted, open_source
from layerscope.questions.selection import draw, select_questions
from layerscope.questions.sources import MAX_LINE_BYTES, Question, QuestionFile

ROW: dict[str, Any] = {"goal": "soap", "sol1": "wash", "sol2": "eat", "label": 0}
UNLABELLED = {key: value for key, value in ROW.items() if key != "label"}
LINE = json.dumps(ROW).encode() + b"\n"

TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\x1f\x85\u2028\u202e\u05d0\ufeff\U0001f9fc")
)

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("questions")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(content: bytes | Sequence[object], labels: bytes | None = None) -> Path:
        """A file of these bytes or rows, and its labels file if there are labels."""
        path = tmp_path / "set.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else b"".join(map(line_of, content)))
        if labels is not None:
            (tmp_path / "set-labels.lst").write_bytes(labels)
        return path

    return to_file


def line_of(row: object) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read(path: Path) -> list[Question]:
    source = QuestionFile(path, origin={})
    return [source[index] for index in range(len(source))]


def labels_of(path: Path) -> list[int]:
    return [question.label for question in read(path)]


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        QuestionFile(path, origin={})
    return str(caught.value)


# --- the draw ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [856, 897, 904, 913, 1259, 1302, 1306, 1358, 1534, 1770]),
        (7, [162, 265, 354, 437, 675, 821, 1017, 1475, 1566, 1809]),
    ],
)
def test_a_seed_draws_these_rows_of_piqa_for_ever(seed: int, expected: list[int]) -> None:
    """Else a file could not be gone on with after an update, and published samples could not be drawn again."""
    assert draw(1838, 10, seed).tolist() == expected


@given(st.integers(0, 200), st.integers(1, 250), st.integers(1, 250), st.integers())
@settings(deadline=None)
def test_a_larger_sample_holds_the_smaller_one_in_ascending_order(
    population: int, count: int, other: int, seed: int
) -> None:
    smaller, larger = (draw(population, size, seed).tolist() for size in sorted((count, other)))
    assert set(smaller) <= set(larger) <= set(range(population))
    for size, sample in zip(sorted((count, other)), (smaller, larger), strict=True):
        assert sample == sorted(set(sample))
        assert len(sample) == min(size, population)
    assert draw(population, None, seed).tolist() == list(range(population))


def test_too_many_questions_are_all_of_them_with_a_warning(write: Write) -> None:
    path = write([ROW] * 3)
    selection, warnings = select_questions(Wanted(str(path)), count=4)
    assert (len(selection), len(warnings)) == (3, 1)
    assert "4" in warnings[0]
    assert "3" in warnings[0]
    for enough in (3, None):
        selection, warnings = select_questions(Wanted(str(path)), count=enough)
        assert ([question.example_id for question in selection], warnings) == ([0, 1, 2], [])


def test_the_drawn_questions_keep_the_ids_of_their_rows(write: Write) -> None:
    path = write([{**ROW, "goal": f"goal {index}"} for index in range(40)])
    selection, _ = select_questions(Wanted(str(path)), count=5)
    assert [question.example_id for question in selection] == selection.example_ids.tolist()
    assert [question.goal for question in selection] == [f"goal {index}" for index in selection.example_ids]


# --- files ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(TEXT, TEXT, TEXT, st.sampled_from([0, 1])).filter(lambda row: row[1] != row[2]),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
    st.lists(st.sampled_from([b"\n", b"\r\n", b"\n\n \t\n", b"\r\n\r\n"]), max_size=6),
    st.booleans(),
)
@settings(deadline=None)
def test_any_text_comes_back_as_it_was_written(
    scratch: Path, rows: list[tuple[str, str, str, int]], escaped: bool, ends: list[bytes], mark: bool
) -> None:
    path = scratch / "round_trip.jsonl"
    objects = [dict(zip(ROW, row, strict=True)) for row in rows]
    lines = [json.dumps(row, ensure_ascii=escaped).encode() for row in objects]
    body = b"".join(line + end for line, end in zip_longest(lines, ends[: len(lines)], fillvalue=b"\n"))
    path.write_bytes(b"\xef\xbb\xbf" * mark + body)
    assert read(path) == [Question(index, **row) for index, row in enumerate(objects)]


FRAGMENTS = [
    *(LINE, LINE[:-1], line_of(UNLABELLED), line_of({**ROW, "label": 2}), b"\xef\xbb\xbf", b"\n", b"\r\n", b"\r", b" "),
    *(b"[", b"]", b"{", b"}", b'"', b"\\ud800", b"null", b"0", b"1", b"\x00", b"\xff", b"\x1f\x8b", b'{"goal":'),
]


@given(
    st.binary() | st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join),
    st.none() | st.lists(st.sampled_from([b"0", b"1", b"\n", b"\r\n", b" ", b"-1", b"\xff"]), max_size=8).map(b"".join),
)
@settings(deadline=None)
def test_whatever_bytes_stand_in_a_file_they_are_questions_or_refused(
    scratch: Path, content: bytes, labels: bytes | None
) -> None:
    """Anything else would be a traceback for the user."""
    path, labels_path = scratch / "fuzz.jsonl", scratch / "fuzz-labels.lst"
    path.write_bytes(content)
    labels_path.unlink(missing_ok=True)
    if labels is not None:
        labels_path.write_bytes(labels)
    try:
        questions, told = read(path), ""
    except UsageError as error:
        questions, told = [], str(error)
    assert questions or told.startswith(str(path.with_suffix("")))
    assert all(question.label in (0, 1) for question in questions)


def test_a_row_is_found_whatever_was_read_before(write: Write) -> None:
    rows = [{**ROW, "goal": "é" * index, "label": index % 2} for index in range(9)]
    source = QuestionFile(write(b"\xef\xbb\xbf\r\n" + b"\n \n".join(map(line_of, rows))[:-1]), origin={})
    assert len(source) == 9
    for index in (8, 0, 5, 5, 3):
        assert source[index] == Question(index, **rows[index])


def test_labels_are_read_from_the_file_beside(write: Write) -> None:
    assert labels_of(write([UNLABELLED] * 4, labels=b"\xef\xbb\xbf1\r\n\n0\n 1 \n0")) == [1, 0, 1, 0]


@pytest.mark.parametrize("value", [0, 1, "0", "1", 0.0, 1.0, "0.0", " 1.0 "])
def test_a_label_is_a_number_or_its_text_also_as_a_data_frame_writes_it(write: Write, value: Any) -> None:
    assert labels_of(write([{**ROW, "label": value}])) == [int(float(value))]


def test_a_labels_file_may_hold_a_data_frames_numbers(write: Write) -> None:
    assert labels_of(write([UNLABELLED] * 2, labels=b"1.0\n0.0\n")) == [1, 0]


OTHERS = [2, -1, None, 0.5, -1.0, 1e300, "", "sol3", "٢", "yes", "NaN", [1], {"label": 1}, 2**63]


@pytest.mark.parametrize("value", OTHERS)
def test_any_other_label_is_refused_with_its_value_and_line(write: Write, value: object) -> None:
    told = refusal(write([ROW, {**ROW, "label": value}]))
    assert f"set.jsonl, line 2 has the label {json.dumps(value, ensure_ascii=False)}" in told
    assert ("test split" in told) == (value == -1)


def test_a_label_of_hidden_characters_is_shown_without_them(write: Write) -> None:
    assert 'has the label "[U+202E]0"' in refusal(write([{**ROW, "label": "\u202e0"}]))


@pytest.mark.parametrize(
    "row",
    [
        b'{"goal": "a", "sol1": "b", "sol2": "c", "label": 0, "label": 1}',
        b'{"goal": "a", "sol1": "b", "sol2": "c", "label": 0, "g\\u006fal" : "d"}',
        b'{"goal": "\\":", "sol1": "b", "sol2": "c", "label": 0, "sol2": "c"}',
        b'{"goal": "a", "sol1": "b", "sol2": "c", "label": 0, "source": {"page": 1, "page": 2}}',
    ],
    ids=["label", "escaped", "beside a text with a colon", "within another"],
)
def test_a_key_that_stands_twice_is_refused_by_name(write: Write, row: bytes) -> None:
    """The last would win in silence, and with it perhaps the other label."""
    told = refusal(write(LINE * 3 + row + b"\n"))
    assert "set.jsonl, line 4: it has the key" in told
    assert "twice" in told


def test_a_text_like_a_key_is_no_key(write: Write) -> None:
    row = {**ROW, "goal": '"label": 1, "goal":', "source": {"goal": [{"goal": 1}, {"goal": 2}]}}
    assert read(write([row]))[0].goal == row["goal"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (None, "no set-labels.lst beside it"),
        (b"0\n1\n", "2 labels for the 3 questions"),
        (b"", "0 labels for the 3 questions"),
        (b"0\n1\n1\n0\n", "4 labels for the 3 questions"),
        (b"0\n\n2\n1\n", 'set-labels.lst, line 3 has the label "2"'),
        (b"-1\n-1\n-1\n", "test split"),
        (b"0 1 0\n", "set-labels.lst, line 1"),
        (b"0\n\xff\n1\n", "set-labels.lst, line 2"),
    ],
)
def test_a_labels_file_that_does_not_fit_is_refused(write: Write, labels: bytes | None, told: str) -> None:
    assert told in refusal(write([UNLABELLED] * 3, labels))


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (line_of({"goal": "a", "sol1": "b", "label": 0}), "has no 'sol2'"),
        (line_of({**ROW, "goal": None}), "has a JSON null for 'goal'"),
        (line_of({**ROW, "sol1": ["a"]}), "has a JSON array for 'sol1'"),
        (line_of({**ROW, "sol2": True}), "has a JSON boolean for 'sol2'"),
        (line_of({**ROW, "sol2": 5}), "has a JSON number for 'sol2'"),
        (line_of(UNLABELLED), "has no 'label', though other lines have one"),
        (b'"goal"\n', "string"),
        (b"17\n", "number"),
        (b"[" + LINE[:-1] + b"]\n", "array"),
        (b"[\n" + LINE[:-1] + b"\n]\n", "is not JSON"),
        (LINE[:20] + b"\n", "is not JSON"),
        (LINE[:-1] + LINE, "is not JSON"),
        (b'{"goal": "\\ud800", "sol1": "a", "sol2": "b", "label": 0}\n', "is not JSON"),
        (b"\xef\xbb\xbf" + LINE, "is not JSON"),
    ],
)
def test_one_bad_line_among_thousands_is_named(write: Write, second: bytes, told: str) -> None:
    """The line's number is the one an editor shows, blank lines and a byte-order mark counted as an editor does."""
    message = refusal(write(b"\xef\xbb\xbf" + LINE * 2000 + b"\n\r\n" + second + LINE * 2000))
    assert "set.jsonl, line 2003 " in message
    assert told in message


def test_a_label_where_the_labels_file_was_read_is_refused(write: Write) -> None:
    """Two labels for one question: nobody could say which one counted."""
    assert "line 2 has a 'label'" in refusal(write([UNLABELLED, ROW], labels=b"0\n1\n"))


@pytest.mark.parametrize("content", [b"", b"\n\r\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_questions_is_refused(write: Write, content: bytes) -> None:
    assert "holds no questions" in refusal(write(content))


def test_a_json_array_is_refused_in_plain_words(write: Write) -> None:
    """As exported by pandas or a hub viewer; the commonest file that looks right and is not."""
    told = refusal(write(json.dumps([ROW, ROW]).encode()))
    assert "line 1 is a JSON array" in told
    assert "one JSON object" in told


def test_an_endless_line_is_refused_before_it_fills_the_memory(write: Write) -> None:
    path = write(LINE + b'{"goal": "' + b"x" * MAX_LINE_BYTES)
    assert f"over 16 MiB at byte {len(LINE)}" in refusal(path)


@pytest.mark.parametrize("label", [b"[" * 1010 + b"]" * 1010, b'"' + b"x" * 100_000 + b'"'], ids=["deep", "long"])
def test_an_absurd_label_is_refused_in_a_message_that_can_be_read(write: Write, label: bytes) -> None:
    told = refusal(write(b'{"goal":"a","sol1":"b","sol2":"c","label":' + label + b"}"))
    assert "line 1 has the label" in told or "line 1 is not JSON" in told
    assert len(told) < 1000


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.jsonl", "no such file"),
        ("set.jsonl/", "a folder's name"),
        ("set.jsonl/more", "no such file"),
        ("folder", "is a folder"),
        ("", "is a folder"),
        ("pipe", "is a pipe or a device"),
        ("/dev/null", "is a pipe or a device"),
        ("set.jsonl.bz2", "is compressed"),
        ("set.jsonl.gz", "cannot be read"),
        ("data/set.jsonl", "no such file"),
        ("x" * 300, "cannot be a path"),
        ("~nobody_here/questions.jsonl", "cannot be a path"),
    ],
)
def test_what_is_no_file_is_refused_by_what_it_is(
    write: Write, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    folder = write([ROW]).parent
    monkeypatch.chdir(folder)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")  # to open it would wait for ever
    for name_of_packed in ("set.jsonl.gz", "set.jsonl.bz2"):
        (folder / name_of_packed).write_bytes(b"\x1f\x8b")
    with pytest.raises(UsageError, match=told):
        open_source(Wanted(name))


@pytest.mark.parametrize("named", ["bundled", "bundled-middle", "set.jsonl"])
def test_a_revision_is_of_the_hub_alone(write: Write, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """A pin that pins nothing is taken in silence."""
    monkeypatch.chdir(write([ROW]).parent)
    with pytest.raises(UsageError, match=rf"--dataset-revision v1 .*--dataset {named} has none"):
        open_source(Wanted(named, revision="v1"))


NAMES = [b"with blank", b'it\'s "so"', b"-dash", b"\xfc\xff", "日本".encode(), b"x" * 250, b"[*]", b"a\nb"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_file_of_questions_may_have_any_name(write: Write, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    path = write([ROW])
    monkeypatch.chdir(path.parent)
    named = os.fsdecode(name)
    path.rename(named)
    source = open_source(Wanted(named))
    assert source[0].goal == "soap"
    orjson.dumps(source.origin)  # goes into the manifest


def test_a_home_is_found_for_questions(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(write([ROW]).parent))
    assert len(open_source(Wanted("~/set.jsonl"))) == 1


def test_stripping_frees_the_solutions_of_blanks_and_leaves_the_goal(write: Write) -> None:
    path = write([{**ROW, "goal": " soap ", "sol1": "\u3000 wash it \n", "sol2": "\t"}])
    for strip, expected in ((False, ("\u3000 wash it \n", "\t")), (True, ("wash it", ""))):
        selection, _ = select_questions(Wanted(str(path)), strip_solutions=strip)
        assert list(selection) == [selection[0]] == [Question(0, " soap ", *expected, 0)]


# --- what comes with layerscope ---------------------------------------------------------------------------------------


def words_that_differ(question: Question) -> int:
    return sum(one != other for one, other in zip_longest(question.sol1.split(), question.sol2.split()))


def test_the_bundled_questions_show_what_piqa_has() -> None:
    """A first run would else not meet what decides pairs: shared words, blanks at the end, both labels."""
    selection, _ = select_questions(Wanted("bundled"))
    questions = list(selection)
    assert len(questions) >= 64
    assert Counter(question.label for question in questions) == dict.fromkeys((0, 1), len(questions) / 2)
    assert len({(question.goal, question.sol1, question.sol2) for question in questions}) == len(questions)
    assert all(question.sol1.strip() != question.sol2.strip() for question in questions)
    assert sum(words_that_differ(question) == 1 for question in questions) >= 10
    assert sum(question.stripped() != question for question in questions) >= 10


def test_the_questions_with_a_word_in_the_middle_are_the_bundled_ones_and_a_sentence() -> None:
    """Else what is found in one and not in the other could come from the questions."""
    closing = " Dry a wet plate with a towel."
    bundled, middle = (list(select_questions(Wanted(name))[0]) for name in ("bundled", "bundled-middle"))
    assert len(bundled) == len(middle)
    for question, longer in zip(bundled, middle, strict=True):
        assert (question.goal, question.label) == (longer.goal, longer.label)
        for short, long in ((question.sol1, longer.sol1), (question.sol2, longer.sol2)):
            assert long.removesuffix(closing).removesuffix(".") == short.strip().removesuffix(".")
            assert long.endswith(closing)


def test_a_lone_surrogate_is_named_not_passed_on(write: Write) -> None:
    """Half a character, which no tokeniser takes and no file in UTF-8 can hold."""
    row = b'{"goal": "soap", "sol1": "\\ud800", "sol2": "eat", "label": 0}\n'
    assert "line 2 is not JSON" in refusal(write(LINE + row))
