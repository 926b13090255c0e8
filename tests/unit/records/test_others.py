"""A record of more than two solutions: the right one, the strongest wrong one, and the others behind them."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.questions.sources import Question
from layerscope.records.line.checking import check
from layerscope.records.line.feature_lists import LayerBlock, serialise_block
from layerscope.records.line.lines import error_line, frame_record, join_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.line.record import NotARecordError, Record, Unscored, parse
from layerscope.records.totals import Totals
from layerscope.saes.encoder import TopK

TEXTS = ("a", "bb", "ccc", "dddd", "eeeee")


def block(n_rows: int) -> LayerBlock:
    """One feature a row, whose id is the row's number."""
    numbers = np.arange(n_rows)
    found = TopK(numbers, np.ones(n_rows, np.float32), np.arange(n_rows + 1), np.ones(n_rows, np.int64))
    return serialise_block([3], [found])


def line(label: int, scores: list[float], every: bool = False) -> bytes:
    question = Question(7, "goal", *TEXTS[:2], label, TEXTS[2 : len(scores)])
    of = [SolutionScore(score, 2, "x") for score in scores]
    wrong = [index for index in range(len(scores)) if index != label]
    strongest = max(wrong, key=scores.__getitem__)
    rows = [index if every or index in (label, strongest) else None for index in range(len(scores))]
    return b"".join(join_record(frame_record(question, of, rows, more=True), [block(len(scores))]))


def record(label: int, scores: list[float], every: bool = False) -> Record:
    found = parse(line(label, scores, every))
    assert isinstance(found, Record)
    check(found, 100, 100)
    return found


def test_the_others_follow_the_strongest_wrong_one() -> None:
    """Users' scripts read these names; what stood before them stands as it did."""
    assert line(1, [-3.0, -2.0, -1.5, -4.0]) == (
        b'{"example_id":7,"question":"goal","model_is_correct":false,'
        b'"positive_solution_details":{"text":"bb","log_likelihood":-2.0,"active_features_by_layer":'
        b'{"3":[{"feature_id":1,"activation":1.0,"layer":3}]},"active_feature_count_by_layer":{"3":1},'
        b'"token_count":2,"final_token":"x"},'
        b'"negative_solution_details":{"text":"ccc","log_likelihood":-1.5,"active_features_by_layer":'
        b'{"3":[{"feature_id":2,"activation":1.0,"layer":3}]},"active_feature_count_by_layer":{"3":1},'
        b'"token_count":2,"final_token":"x"},'
        b'"others":[{"index":0,"text":"a","log_likelihood":-3.0,"token_count":2},'
        b'{"index":3,"text":"dddd","log_likelihood":-4.0,"token_count":2}],"label":1,"error":""}\n'
    )


def test_every_solution_has_its_own_features_where_all_are_asked_for() -> None:
    found = record(1, [-3.0, -2.0, -1.5, -4.0], every=True)
    ids = [details.active_features_by_layer[3][0].feature_id for details in found.recorded]
    assert ids == [1, 2, 0, 3]


@given(st.lists(st.integers(-6, 0).map(lambda n: n / 2), min_size=2, max_size=5), st.data())
def test_right_is_what_lm_eval_calls_right(scores: list[float], data: st.DataObject) -> None:
    """acc is the first largest log-likelihood, acc_norm the same of log-likelihood over characters; ties abound."""
    label = data.draw(st.integers(0, len(scores) - 1))
    found = record(label, scores)
    by_character = [score / len(text) for score, text in zip(scores, TEXTS, strict=False)]
    assert found.correct() == found.model_is_correct == (int(np.argmax(scores)) == label)
    assert found.correct_per_character() == (int(np.argmax(by_character)) == label)
    wrong = [score for index, score in enumerate(scores) if index != label]
    assert found.margin == scores[label] - max(wrong)
    assert found.margin_to_mean == pytest.approx(scores[label] - np.mean(wrong))
    assert [solution.score for solution in found.in_order] == scores
    totals = Totals()
    totals.add_record(found)
    assert (totals.correct, totals.correct_per_character) == (found.correct(), found.correct_per_character())


def test_all_lines_of_a_file_have_the_same_keys() -> None:
    """Whoever settles a schema by the first lines would lose the column, or refuse the file."""
    two = orjson.loads(line(0, [-1.0, -2.0]))
    failed = error_line(7, "sol3 is empty", more=True).line
    assert list(two) == list(orjson.loads(line(0, [-1.0, -2.0, -3.0]))) == list(orjson.loads(failed))
    assert two["others"] == []
    assert isinstance(parse(failed), Unscored)
    assert record(0, [-1.0, -2.0]).more == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"index":0', b'"index":1', "not of one question"),
        (b'"index":3', b'"index":4', "not of one question"),
        (b'"label":1', b'"label":4', "not of one question"),
        (b'"label":1', b'"label":0', "not of one question"),
        (b'"log_likelihood":-4.0', b'"log_likelihood":-1.0', "not the strongest"),
        (b'"text":"dddd"', b'"text":""', "text is empty"),
    ],
)
def test_what_cannot_be_is_no_record(old: bytes, new: bytes, words: str) -> None:
    """verify would else vouch for a record whose answers belong to other solutions."""

    def read(changed: bytes) -> None:
        found = parse(changed)
        assert isinstance(found, Record)
        check(found, 100, 100)

    with pytest.raises(NotARecordError, match=words):
        read(line(1, [-3.0, -2.0, -1.5, -4.0]).replace(old, new))
