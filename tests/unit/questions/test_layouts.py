"""The same questions in every format and layout that people have are the same questions; what is wrong is named."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_server import HubServer, Repository, point_to
from layerscope.config import parse_columns
from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.opening import Wanted, open_source
from layerscope.questions.sources import Question

ROWS: list[dict[str, Any]] = [
    {"goal": "dry a cup", "sol1": 'with a "cloth", soft', "sol2": "with a stone", "label": 0},
    {"goal": "ö 日本\nboil", "sol1": "  =1+1", "sol2": "NA", "label": 1},
    {"goal": "None", "sol1": "", "sol2": "nan", "label": 1},
]
EXPECTED = [Question(index, **row) for index, row in enumerate(ROWS)]


def read(path: Path | str, **wanted: Any) -> list[Question]:
    source = open_source(Wanted(str(path), **wanted))
    return [source[index] for index in range(len(source))]


def refusal(path: Path | str, **wanted: Any) -> str:
    with pytest.raises(UsageError) as caught:
        open_source(Wanted(str(path), **wanted))
    return str(caught.value)


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def packed(text: str) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as out:
        out.write(text.encode())
    return bytes(stream.getvalue())


FORMATS: dict[str, Callable[[], bytes]] = {
    "q.jsonl": lambda: lines(ROWS).encode(),
    "q.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "lines.json": lambda: lines(ROWS).encode(),
    "q.csv": lambda: table(ROWS).encode("utf-8-sig"),
    "semicolons.csv": lambda: table(ROWS, ";").encode(),
    "q.tsv": lambda: table(ROWS, "\t").replace("\r\n", "\n").encode(),
    "q.jsonl.gz": lambda: gzip.compress(lines(ROWS).encode()),
    "q.csv.gz": lambda: gzip.compress(table(ROWS).encode()),
    "q.jsonl.zst": lambda: packed(lines(ROWS)),
    "Q.JSON.ZST": lambda: packed(json.dumps(ROWS)),
    "no-ending": lambda: lines(ROWS).encode(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_questions(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FORMATS[name]())
    assert read(tmp_path / name) == EXPECTED


def test_parquet_and_a_saved_data_set_give_the_same_questions(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "q.parquet")
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": saved, "train": saved.select([0])}).save_to_disk(str(tmp_path / "splits"))
    assert read(tmp_path / "q.parquet") == read(tmp_path / "one") == EXPECTED
    assert read(tmp_path / "splits", split="test") == EXPECTED
    assert "no split validation: --split test or train" in refusal(tmp_path / "splits")


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]))] * 3).filter(lambda texts: texts[1] != texts[2]),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=50)
def test_any_text_comes_through_a_table_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str, str]]
) -> None:
    """A reader that guesses types would make numbers of digits and nothing of "NA"."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    rows = [dict(zip(("goal", "sol1", "sol2", "label"), (*three, 1), strict=True)) for three in texts]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(stream.getvalue().encode())
    assert [(q.goal, q.sol1, q.sol2) for q in read(path)] == texts


LAYOUTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "mmlu": ([{"question": r["goal"], "choices": [r["sol1"], r["sol2"]], "answer": r["label"]} for r in ROWS], ""),
    "arc": (
        [
            {
                "question": r["goal"],
                "choices": {"text": [r["sol1"], r["sol2"]], "label": ["1", "2"]},
                "answerKey": "12"[r["label"]],
            }
            for r in ROWS
        ],
        "",
    ),
    "hellaswag": ([{"ctx": r["goal"], "endings": [r["sol1"], r["sol2"]], "label": str(r["label"])} for r in ROWS], ""),
    "winogrande": (
        [
            {"sentence": r["goal"], "option1": r["sol1"], "option2": r["sol2"], "answer": str(1 + r["label"])}
            for r in ROWS
        ],
        "",
    ),
    "lm-eval's log": ([{"doc_id": i, "doc": r, "target": str(r["label"])} for i, r in enumerate(ROWS)], ""),
    "named": (
        [{"q": r["goal"], "good": r["sol1"], "bad": r["sol2"], "which": "AB"[r["label"]]} for r in ROWS],
        "goal=q, sol1=good,sol2=bad,label=which",
    ),
    "in one column": (
        [{"q": r["goal"], "both": json.dumps([r["sol1"], r["sol2"]]), "label": bool(r["label"])} for r in ROWS],
        "goal=q,choices=both",
    ),
    "answer in words": (
        [{"question": r["goal"], "choices": [r["sol1"], r["sol2"]], "answer": r[f"sol{1 + r['label']}"]} for r in ROWS],
        "",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_questions_and_is_told(name: str, tmp_path: Path) -> None:
    rows, columns = LAYOUTS[name]
    (tmp_path / "q.jsonl").write_text(lines(rows))
    (tmp_path / "q.json").write_text(json.dumps(rows))
    wanted = {"columns": parse_columns(columns)}
    assert read(tmp_path / "q.jsonl", **wanted) == read(tmp_path / "q.json", **wanted) == EXPECTED
    told = open_source(Wanted(str(tmp_path / "q.jsonl"), **wanted)).told
    assert "goal from" in told
    assert "solutions from" in told


def test_preferences_and_minimal_pairs_have_the_right_one_first(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "say hello", "chosen": "hello", "rejected": "no"}\n')
    (tmp_path / "b.csv").write_text("sentence_good,sentence_bad,field\nCats sleep.,Cats sleeps.,x\n")
    (tmp_path / "c.csv").write_text("q,yes,no\ngoal,a,b\n")
    assert read(tmp_path / "p.jsonl") == [Question(0, "say hello", "hello", "no", 0)]
    assert read(tmp_path / "b.csv") == [Question(0, "", "Cats sleep.", "Cats sleeps.", 0)]
    named = parse_columns("goal=q,sol1=yes,sol2=no,label=sol1")
    assert read(tmp_path / "c.csv", columns=named) == [Question(0, "goal", "a", "b", 0)]
    assert open_source(Wanted(str(tmp_path / "b.csv"))).told == (
        "no goal, solutions from sentence_good and sentence_bad, sentence_good is the right one"
    )


@pytest.mark.parametrize(
    ("labels", "first", "expected"),
    [
        ([0, 1], "auto", [0, 1]),
        ([1, 2], "auto", [0, 1]),
        (["1", "2.0"], "auto", [0, 1]),
        ([2, 2], "auto", [1, 1]),
        ([0.0, 0.0], "auto", [0, 0]),
        (["A", "b"], "auto", [0, 1]),
        (["sol2", "sol1"], "auto", [1, 0]),
        ([False, True], "auto", [0, 1]),
        ([1, 1], "0", [1, 1]),
        ([1, 1], "1", [0, 0]),
        ([1, "B"], "1", [0, 1]),
    ],
)
def test_labels_count_from_where_all_of_them_say(
    labels: list[object], first: str, expected: list[int], tmp_path: Path
) -> None:
    rows = [{"question": "q", "choices": ["x", "y"], "answer": label} for label in labels]
    (tmp_path / "q.jsonl").write_text(lines(rows))
    assert [question.label for question in read(tmp_path / "q.jsonl", first_label=first)] == expected


@pytest.mark.parametrize(
    ("rows", "first", "expected"),
    [
        ([(["2", "3"], "2")], "auto", None),  # counted from 1 the second, by its text the first
        ([(["1", "2"], "1"), (["3", "2"], "2")], "auto", [0, 1]),  # the same by both
        ([(["2", "3"], "2"), (["4", "5"], "1")], "1", [1, 0]),  # whoever says so means numbers
        ([(["2", "3"], "2"), (["40", "12"], "12")], "1", None),  # but 12 is no number of two
        ([(["2", "3"], 2), (["4", "5"], 1)], "auto", [1, 0]),  # a number of JSON is no text
        ([(["0", "7"], "1"), (["1", "0"], "0")], "auto", None),
    ],
)
def test_a_number_that_is_the_text_of_another_solution_is_refused(
    rows: list[tuple[list[str], object]], first: str, expected: list[int] | None, tmp_path: Path
) -> None:
    """Arithmetic: of the choices 2 and 3 the answer "2" is the first, and was taken for the second without a word."""
    file = tmp_path / "q.jsonl"
    file.write_text(lines([{"question": "q", "choices": choices, "answer": label} for choices, label in rows]))
    if expected:
        assert [question.label for question in read(file, first_label=first)] == expected
    else:
        with pytest.raises(UsageError, match=r"is the text of another solution.*\n.*sol1, sol2"):
            read(file, first_label=first)


def test_labels_of_our_own_columns_are_numbers_whatever_the_solutions_say(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("goal,sol1,sol2,label\none and one,1,2,1\n")
    assert read(tmp_path / "q.csv")[0].label == 1


@pytest.mark.parametrize(
    ("choices", "labels", "expected"),
    [
        (["wxyz"] * 4, [0, 1, 2, 3], [0, 1, 2, 3]),
        (["wxyz"] * 3, ["1", "4", "2"], [0, 3, 1]),
        (["wxyz", "xy", "vwxyz"], [2, 2, 4], [1, 1, 3]),  # the second counts from 1, and so do all
        (["xy", "vwxyz"], [0, 4], [0, 4]),
        (["wxyz"] * 3, ["D", "b", "sol3"], [3, 1, 2]),
        (["wxyz"] * 2, ["y", "w"], [2, 0]),
    ],
    ids=["from 0", "from 1", "mixed from 1", "mixed from 0", "letters", "texts"],
)
def test_labels_of_any_number_of_choices(
    choices: list[str], labels: list[object], expected: list[int], tmp_path: Path
) -> None:
    rows = [
        {"question": "q", "choices": [*texts], "answer": label} for texts, label in zip(choices, labels, strict=True)
    ]
    (tmp_path / "q.jsonl").write_text(lines(rows))
    (tmp_path / "q.json").write_text(json.dumps(rows))
    found = read(tmp_path / "q.jsonl")
    assert [question.label for question in found] == expected
    assert [question.solutions for question in found] == list(map(tuple, choices))
    assert found == read(tmp_path / "q.json")
    assert open_source(Wanted(str(tmp_path / "q.json"))).solutions == max(map(len, choices))


def test_many_solutions_may_have_columns_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("q,a,b,c,right\ngoal,x,y,z,3\ngoal,x,y,z,2\n")
    named = parse_columns("goal=q,sol1=a,sol2=b,sol3=c,label=right")
    assert [(q.solutions, q.label) for q in read(tmp_path / "q.csv", columns=named)] == [
        (("x", "y", "z"), 2),
        (("x", "y", "z"), 1),
    ]
    told = open_source(Wanted(str(tmp_path / "q.csv"), columns=named)).told
    assert told.endswith("label from right; numbers count from 1; up to 3 solutions a question")


@pytest.mark.parametrize(
    ("rows", "wanted", "words"),
    [
        ([{"question": "q", "choices": ["x", "y"], "answer": 1}] * 2, {}, ["line 1", "are 1", "--first-label 0"]),
        (
            [{"question": "q", "choices": ["x", "y"], "answer": label} for label in (2, 0)],
            {},
            ["line 1, column answer has the label 2", "others have 0"],
        ),
        (
            [{"question": "q", "choices": ["x", "y"], "answer": 2}],
            {"first_label": "0"},
            ["the label 2", "--first-label is 0"],
        ),
        (
            [{"question": "q", "choices": list("xyz"), "answer": label} for label in (2, 1)],
            {},
            ["from 1 to 2", "line 1", "--first-label 0"],
        ),
        (
            [{"question": "q", "choices": ["x"], "answer": 1}],
            {},
            ["line 1 has 1 solution in 'choices'", "at least two"],
        ),
        ([{"question": "q", "choices": [*map(str, range(3000))], "answer": 1}], {}, ["3,000 solutions", "at most 100"]),
        ([{"question": "q", "choices": ["x", "y", "x"], "answer": 1}], {}, ['line 1 has "x" twice', "must differ"]),
        (
            [{"question": "q", "choices": list("xyz"), "answer": 4}],
            {},
            ["column answer has the label 4", "of 3 solutions a label is 0 to 2", "A to C"],
        ),
        ([{"question": "q", "choices": ["x", 2], "answer": 1}], {}, ["a JSON number (2) in 'choices'", "strings"]),
        ([{"question": "q", "choices": ["x", None], "answer": 1}], {}, ["a JSON null (null) in 'choices'"]),
        (
            [*[{"question": "q", "choices": list("xy"), "answer": 1}], {"question": "q"}],
            {},
            ["line 2 has no 'choices'"],
        ),
        ([{"prompt": "p", "chosen": "a", "rejected": "a"}], {}, ['"a" twice in chosen and rejected']),
        ([{**ROWS[0], "sol2": ROWS[0]["sol1"]}], {}, ["twice in sol1 and sol2"]),
        ([{"question": "q", "choices": list("xyz"), "answer": "D"}], {}, ['label "D"', "beyond the last of 3"]),
        ([{"question": "q", "choices": "x or y", "answer": 1}], {}, ["\"x or y\" for 'choices'", "array"]),
        ([{"question": "q", "answers": ["x"], "key": 1}], {}, ["Its columns: question, answers, key", "--columns"]),
        ([ROWS[0]], {"columns": {"goal": "question"}}, ["no column question", "goal, sol1, sol2, label"]),
        ([{"goal": "g", "chosen": "a", "rejected": 1}], {}, ["--columns"]),
    ],
    ids=[
        "all 1",
        "0 and 2",
        "2 from 0",
        "neither 0 nor 3",
        "one",
        "3,000",
        "twice",
        "beyond",
        "a number among texts",
        "null among texts",
        "no choices",
        "chosen is rejected",
        "sol1 is sol2",
        "letter beyond",
        "text",
        "unknown",
        "misnamed",
        "half a layout",
    ],
)
def test_what_cannot_be_understood_is_named(
    rows: list[dict[str, Any]], wanted: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text(lines(rows))
    told = refusal(tmp_path / "q.jsonl", **wanted)
    assert [word for word in words if word not in told] == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.csv", b"goal,sol1,sol2,label\na,b,c,0,d\n", ["line 2", "more cells"]),
        ("q.csv", b"goal,sol1,sol2,label\na,b\n", ["line 2", "fewer cells"]),
        ("q.csv", b"goal,goal,sol1,sol2,label\na,b,c,d,0\n", ["column goal twice"]),
        ("q.csv", b'goal,sol1,sol2,label\n"a"x,b,c,0\n', ["no table that can be read"]),
        ("q.csv", b"goal,sol1,sol2,label\n\xff,b,c,0\n", ["not UTF-8"]),
        ("q.csv", b"goal,sol1,sol2,label\n", ["holds no questions"]),
        ("q.csv", b"", ["holds no questions"]),
        ("q.json", b"[]", ["holds no questions"]),
        ("q.json", b'[{"goal": 1', ["not JSON"]),
        ("q.json", b"[1, 2]", ["question 0 is a JSON number"]),
        ("q.jsonl.gz", b"plain", ["cannot be read"]),
        ("q.jsonl.zst", b"plain", ["cannot be read"]),
        ("q.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:-9], ["cannot be read"]),
        ("q.parquet", b"PAR1", ["cannot be read"]),
        ("q.parquet.gz", b"", ["compressed"]),
        ("q.csv", "goal,sol1,sol2,label\né,b,c,0\n".encode("cp1252"), ["not UTF-8", "In Excel that is File, Save As"]),
        ("q.xlsx", b"PK\x03\x04\x14\x00\x00\x00", ["a spreadsheet", "Save As, CSV (UTF-8)"]),
        ("q.csv", b"PK\x03\x04\x14\x00\x00\x00", ["a spreadsheet"]),
        ("q.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["a spreadsheet (.xls)"]),
        ("q.txt", "goal\tsol1".encode("utf-16"), ["UTF-16 text", "Save As, CSV (UTF-8)"]),
        ("q.db", b"SQLite format 3\x00", ["no text", ".csv, .tsv, .parquet"]),
        ("q.csv", b"goal,sol1,sol2,label,\na,b,c,0,d\n", ["line 2", "'d' in a column without a name"]),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(
    name: str, content: bytes, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    told = refusal(tmp_path / name)
    assert [word for word in (name, *words) if word not in told] == []


@pytest.mark.parametrize(
    "saved",
    [
        "\ufeffgoal,sol1,sol2,label\r\nÖl, warm,a,b,0\r\n",
        "\ufeffgoal;sol1;sol2;label\r\nÖl, warm;a;b;0\r\n",
        "sep=;\r\ngoal;sol1;sol2;label\r\nÖl, warm;a;b;0\r\n",
        "goal,sol1,sol2,label\rÖl, warm,a,b,0\r",
        "goal,sol1,sol2,label,,\r\nÖl, warm,a,b,0,,\r\n,,,,,\r\n,,,,,\r\n",
    ],
    ids=["mark", "semicolons", "told", "old Mac", "emptied cells"],
)
def test_a_table_is_read_however_a_spreadsheet_saves_it(saved: str, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(saved.replace("Öl, warm", '"Öl, warm"').encode())
    (question,) = read(tmp_path / "q.csv")
    assert (question.goal, question.sol1, question.sol2, question.label) == ("Öl, warm", "a", "b", 0)


def test_ten_problems_are_told_at_once(tmp_path: Path) -> None:
    good, bad = lines([ROWS[0]]), '{"goal": "g", "sol1": 5, "sol2": "x", "label": 0}\n'
    (tmp_path / "q.jsonl").write_text(good + bad + "nonsense\n" + good + bad)
    told = refusal(tmp_path / "q.jsonl").splitlines()
    assert [line.split(", ")[1][:6] for line in told if line.startswith("/")] == ["line 2", "line 3", "line 5"]
    (tmp_path / "q.jsonl").write_text(good + bad * 50)
    told = refusal(tmp_path / "q.jsonl").splitlines()
    assert len(told) == 11
    assert told[-1] == "There may be more."


@pytest.mark.parametrize(
    "text",
    [
        "goal",
        "goal=",
        "gaol=x",
        "goal=a,goal=b",
        "sol1=a",
        "sol1=a,sol3=b",
        "sol1=a,sol2=b,sol3=a",
        "sol0=a,sol1=b",
        "choices=a,sol1=b,sol2=c",
        "sol1=a,sol2=a",
    ],
)
def test_columns_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--columns"):
        parse_columns(text)


def test_a_data_set_of_the_hub_is_found_by_split_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real client, from files in the layouts that data sets have there; no code of theirs is run."""
    parquet = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), parquet)
    files = {
        "README.md": b"",
        "script.py": b"raise SystemExit",
        "main/test-00000-of-00002.parquet": parquet.getvalue(),
        "main/test-00001-of-00002.parquet": parquet.getvalue(),
        "other/test.csv": table(ROWS).encode(),
        "other/train.jsonl": lines(ROWS).encode(),
    }
    with HubServer() as hub:
        hub.add(Repository("dataset", "some/questions", files))
        point_to(hub.endpoint, monkeypatch)
        name = "some/questions"
        assert [q.goal for q in read(name, split="test", config="main")] == [q.goal for q in EXPECTED * 2]
        assert read(name, split="train") == EXPECTED
        source = open_source(Wanted(name, split="test", config="other"))
        assert source.origin.keys() == {"dataset", "revision", "split", "config"}
        assert "several configurations: main, other" in refusal(name, split="test")
        told = refusal(name)
        assert "no data file of a validation split" in told
        assert "other/train.jsonl" in told
        hub.add(Repository("dataset", "some/odd", {"validation.jsonl": lines([{"bad": 1}]).encode()}))
        assert "some/odd, validation.jsonl, line 1" in refusal("some/odd")
        for file, words in (("script.py", "no code of a data set is run"), ("a.arrow", "files are of other formats")):
            hub.add(Repository("dataset", "some/none", {file: b""}))
            assert words in refusal("some/none")
        hub.add(Repository("dataset", "some/gated", {"validation.jsonl": b""}, gated=True))
        with pytest.raises(
            LayerscopeError, match=f"licence on {hub.endpoint}/datasets/some/gated, then `hf auth login`"
        ):
            read("some/gated")


HOSTILE: dict[str, tuple[bytes, list[str]]] = {
    "deep.csv": (b"question,choices,answer\nq," + b"[" * 5000 + b",0\n", ["line 2", "which is no JSON"]),
    "half.csv": (b'question,choices,answer\nq,"[""\\ud800"",""b""]",0\n', ["line 2", "which is no JSON"]),
    "twice.csv": (
        b'question,choices,answer\nq,"{""text"":[""x"",""y""],""text"":[""y"",""x""]}",0\n',
        ["'text' twice"],
    ),
    "names.csv": (
        b'question,choices,answer\nq,"{""text"":[""x"",""y""],""label"":[""A"",""A""]}",A\n',
        ['the label "A"', "more than one"],
    ),
    "bomb.csv.gz": (gzip.compress(b"a" * (20 << 20)), ["a line of over 16 Mi"]),
    "bomb.jsonl.gz": (gzip.compress(b"a" * (20 << 20)), ["a line of over 16 Mi"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_strangers_put_into_files_is_refused_in_words(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name][0])
    told = refusal(tmp_path / name)
    assert [word for word in (name, *HOSTILE[name][1]) if word not in told] == []
    assert len(told) < 600


def test_a_compressed_array_is_unpacked_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of gzip may be a gigabyte of array, which is held whole to be parsed."""
    monkeypatch.setattr("layerscope.questions.files.rows._MAX_ARRAY_BYTES", 1 << 20)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b"[" + b" " * (2 << 20)))
    assert "one JSON array of over 1 MiB" in refusal(tmp_path / "bomb.json.gz")


def test_a_table_of_many_columns_is_refused_at_once(tmp_path: Path) -> None:
    """Each name compared with each would take an hour."""
    (tmp_path / "wide.csv").write_text("\n".join(",".join(f"c{i}" for i in range(200_000)) for _ in range(2)))
    assert "Its columns: c0, c1" in refusal(tmp_path / "wide.csv")


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\n" * 5000, b"\xef\xbb\xbf" + b" " * 5000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_array_is_seen_behind_a_mark_and_white_space(
    before: bytes, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / ("q.json" if pack is bytes else "q.json.gz")
    path.write_bytes(pack(before + json.dumps(ROWS).encode()))
    assert read(path) == EXPECTED


def test_columns_of_other_types_are_named_and_none_counts_twice(tmp_path: Path) -> None:
    whole = pa.Table.from_pylist(ROWS)
    pa.parquet.write_table(whole.append_column("goal", [["x", "y", "z"]]), tmp_path / "twice.parquet")
    assert "the column goal twice" in refusal(tmp_path / "twice.parquet")
    far = pa.array([10**15] * 3, pa.timestamp("ms"))  # the year 33,658
    pa.parquet.write_table(whole.append_column("when", far), tmp_path / "far.parquet")
    assert "far.parquet cannot be read: date" in refusal(tmp_path / "far.parquet")
    pa.parquet.write_table(whole.set_column(0, "goal", pa.array([b"x"] * 3)), tmp_path / "bytes.parquet")
    assert "a value of type bytes for 'goal'" in refusal(tmp_path / "bytes.parquet")


@pytest.mark.parametrize(
    ("choices", "answer", "expected"),
    [
        (["True", "False"], "True", None),
        (["true", "false"], True, None),
        (["False", "True"], "True", 1),
        (["b", "a"], "a", None),
        (["a", "b"], "A", 0),
        (["yes", "no"], True, 1),
        (["1", "0"], 0, 0),
    ],
)
def test_a_label_that_is_one_solution_by_name_and_the_other_by_text_is_refused(
    choices: list[str], answer: object, expected: int | None, tmp_path: Path
) -> None:
    """ "True" of True and False was taken for the second: every number of such a data set was the wrong way round."""
    (tmp_path / "q.jsonl").write_text(lines([{"question": "is it?", "choices": choices, "answer": answer}]))
    if expected is None:
        assert "by its text the other one" in refusal(tmp_path / "q.jsonl")
    else:
        assert [question.label for question in read(tmp_path / "q.jsonl")] == [expected]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", "[]"),
        ("state.json", '{"_data_files": []}'),
        ("state.json", '{"_data_files": 7}'),
        ("dataset_info.json", "[]"),
        ("dataset_info.json", '{"features": 7}'),
        ("dataset_dict.json", '{"splits": 7}'),
        ("dataset_dict.json", "[]"),
    ],
)
def test_a_saved_data_set_of_a_wrong_shape_is_refused(file: str, content: str, tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS)
    (datasets.DatasetDict({"test": saved}) if "dict" in file else saved).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / file).write_text(content)
    assert "none that Dataset.save_to_disk made" in refusal(tmp_path / "saved")


def test_a_saved_data_set_is_read_whatever_it_was_looked_at_as(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).with_format("numpy").save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "saved") == EXPECTED


def test_a_log_of_samples_of_an_unknown_task_is_read_by_what_the_model_was_asked(tmp_path: Path) -> None:
    """As lm-eval 0.4.13 writes it: arguments by number, the target as a text."""

    def sample(target: str, *asked: tuple[str, str]) -> dict[str, Any]:
        by_number = {f"gen_args_{i}": {"arg_0": before, "arg_1": after} for i, (before, after) in enumerate(asked)}
        return {"doc_id": 0, "doc": {"x": "?"}, "target": target, "arguments": by_number, "resps": [[["-1", "False"]]]}

    path = tmp_path / "samples.jsonl"
    path.write_text(
        lines([sample("2", *(("Q: why?\nA:", f" {c}") for c in "abc")), sample("0", ("B", " d"), ("B", " e"))])
    )
    assert [(q.goal, q.solutions, q.label) for q in read(path)] == [
        ("Q: why?\nA:", ("a", "b", "c"), 2),
        ("B", ("d", "e"), 0),
    ]
    path.write_text(lines([sample("0", ("one text", " d"), ("another", " e"))]))
    assert "lm-eval logs for multiple_choice" in refusal(path)
