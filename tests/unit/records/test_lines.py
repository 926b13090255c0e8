"""The bytes of a line: the shape that users' scripts read, numbers that come back exactly, and joins that only join."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import LayerBlock, serialise_block
from layerscope.records.line.lines import Frame, choice, error_line, frame_record, in_first_form, join_record, settle
from layerscope.records.line.pieces import SolutionScore
from layerscope.saes.encoder import TopK

Feature = tuple[int, float]

QUESTION = Question(1714, 'Wash a "soap" dish\n\u202e漢 🧼', "éat it\t ", "with \\ water\x00", 1)
SCORES = (SolutionScore(float(np.float32(-24.12)), 7, "▁"), SolutionScore(-3.5, 12, "water"))
FRAME = frame_record(QUESTION, SCORES, (0, 1))


def top_k(rows: Sequence[Sequence[Feature]], counts: Sequence[int] | None = None) -> TopK:
    """One layer's features of every row."""
    features = [feature for row in rows for feature in row]
    return TopK(
        np.array([feature_id for feature_id, _ in features], dtype=np.int64),
        np.array([activation for _, activation in features], dtype=np.float32),
        np.cumsum([0, *map(len, rows)]),
        np.array([len(row) for row in rows] if counts is None else counts, dtype=np.int64),
    )


def line(frame: Frame, blocks: Sequence[LayerBlock]) -> bytes:
    return b"".join(join_record(frame, blocks))


def test_a_line_is_these_bytes() -> None:
    """Names, nesting and order are what existing scripts read; `label` and `error` were added, at the end."""
    block = serialise_block(
        [8, 20],
        [
            top_k([[(12, 1.5)], [(1234, 5.81), (7, 0.1), (16383, 0.1)]], counts=[1, 71]),
            top_k([[(3, 1e-8), (5, 3e-9)], []]),
        ],
    )
    expected = (
        r'{"example_id":1714,"question":"Wash a \"soap\" dish\n'
        "\u202e漢 🧼"
        r'","model_is_correct":true,"positive_solution_details":{"text":"with \\ water\u0000","log_likelihood":-3.5,'
        '"active_features_by_layer":{"8":[{"feature_id":1234,"activation":5.81,"layer":8},'
        '{"feature_id":7,"activation":0.1,"layer":8},{"feature_id":16383,"activation":0.1,"layer":8}],"20":[]},'
        '"active_feature_count_by_layer":{"8":71,"20":0},"token_count":12,"final_token":"water"},'
        r'"negative_solution_details":{"text":"éat it\t ","log_likelihood":-24.12,'
        '"active_features_by_layer":{"8":[{"feature_id":12,"activation":1.5,"layer":8}],'
        '"20":[{"feature_id":3,"activation":1e-8,"layer":20},{"feature_id":5,"activation":3e-9,"layer":20}]},'
        '"active_feature_count_by_layer":{"8":1,"20":2},"token_count":7,"final_token":"▁"},"label":1,"error":""}'
    )
    assert line(FRAME, [block]) == expected.encode() + b"\n"


def test_an_error_line_is_these_bytes() -> None:
    expected = (
        '{"example_id":7,"question":null,"model_is_correct":null,"positive_solution_details":null,'
        '"negative_solution_details":null,"label":null,"error":"sol1 \\"é\\" is empty"}\n'
    )
    assert error_line(7, 'sol1 "é" is empty').line == expected.encode()


def test_in_the_first_form_a_line_has_an_error_only_where_there_is_one() -> None:
    block = serialise_block([8], [top_k([[(12, 1.5)], [(1234, 5.81)]])])
    scored = join_record(FRAME, [block])
    assert b"".join(in_first_form(scored)) == b"".join(scored).replace(b',"error":""}\n', b"}\n")
    assert list(orjson.loads(b"".join(in_first_form(scored))))[-1] == "label"
    for reason in ("sol1 is empty", 'a trap,"error":""}', ""):
        unscored = error_line(7, reason or "x").line
        assert b"".join(in_first_form([unscored])) == orjson.dumps({"example_id": 7, "error": reason or "x"}) + b"\n"


@pytest.mark.parametrize(
    ("scores", "label", "correct"),
    [
        ((-1.0, -2.0), 0, True),
        ((-1.0, -2.0), 1, False),
        ((-2.0, -1.0), 1, True),
        ((-1.5, -1.5), 0, True),
        ((-1.5, -1.5), 1, False),
    ],
)
def test_the_higher_log_likelihood_is_chosen_and_a_tie_goes_to_sol1(
    scores: tuple[float, float], label: int, correct: bool
) -> None:
    """A tie that went to the right solution would flatter the model."""
    question = Question(0, "soap", "same", "size", label)
    frame = frame_record(question, (SolutionScore(scores[0], 1, ""), SolutionScore(scores[1], 1, "")), (4, 5))
    assert (frame.correct, frame.correct_per_character) == (correct, correct)
    assert frame.rows == ((4, 5) if label == 0 else (5, 4))
    assert choice(*scores) == (label if correct else 1 - label)


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FLOAT32, min_size=1), FLOAT32)
def test_every_number_gives_its_float32_back(activations: list[float], log_likelihood: float) -> None:
    score = SolutionScore(log_likelihood, 1, "")
    question = Question(0, "soap", "wash", "eat", 0)
    row = list(enumerate(activations))
    written = line(frame_record(question, (score, score), (0, 0)), [serialise_block([3], [top_k([row])])])
    details = orjson.loads(written)["positive_solution_details"]
    read = [feature["activation"] for feature in details["active_features_by_layer"]["3"]]
    assert np.float32(read).tobytes() == np.float32(activations).tobytes()
    assert np.float32(details["log_likelihood"]).tobytes() == np.float32(log_likelihood).tobytes()


@settings(deadline=None)  # what stands before an activation is made for all ids at once
@given(st.data(), st.integers(1, 6), st.integers(2, 4))
def test_layers_joined_from_any_blocks_are_the_same_bytes(data: st.DataObject, n_layers: int, n_rows: int) -> None:
    """Else the file would depend on --layer-blocks."""
    row = st.lists(st.tuples(st.integers(0, 2**20), FLOAT32), max_size=3)
    found = [top_k(data.draw(st.lists(row, min_size=n_rows, max_size=n_rows))) for _ in range(n_layers)]
    layers = sorted(data.draw(st.sets(st.integers(0, 45), min_size=n_layers, max_size=n_layers)))
    inner = data.draw(st.sets(st.integers(1, n_layers - 1))) if n_layers > 1 else set()
    borders = [0, *sorted(inner), n_layers]
    parts = [slice(start, end) for start, end in pairwise(borders)]
    frame = frame_record(QUESTION, SCORES, (n_rows - 1, 0))
    blocks = [serialise_block(layers[part], found[part]) for part in parts]
    assert line(frame, blocks) == line(frame, [serialise_block(layers, found)])
    details = orjson.loads(line(frame, blocks))["positive_solution_details"]  # label 1: sol2, row 0
    assert details["active_feature_count_by_layer"] == {
        str(layer): int(of_layer.active_counts[0]) for layer, of_layer in zip(layers, found, strict=True)
    }
    assert {layer: len(features) for layer, features in details["active_features_by_layer"].items()} == {
        str(layer): int(of_layer.starts[1]) for layer, of_layer in zip(layers, found, strict=True)
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("parts", [[slice(0, 4)], [slice(0, 1), slice(1, 3), slice(3, 4)]])
def test_the_first_layer_with_a_non_finite_activation_of_either_solution_is_told(
    bad: float, parts: list[slice]
) -> None:
    """It would stand in the file as null, which a reader may take for nothing."""
    good = [(1, 2.0), (2, 1.0)]
    layers = [4, 5, 8, 20]
    found = [
        top_k([good, [], good, good, [], []]),
        top_k([good, good, [], [(1, bad), (2, 1.0)], good, []]),
        top_k([[], good, [(9, 2.0), (5, bad)], good, [], good]),
        top_k([[(3, bad)], good, [], [(3, bad)], good, [(1, 3.0), (2, bad)]]),
    ]
    blocks = [serialise_block(layers[part], found[part]) for part in parts]
    expected = {(0, 1): 20, (1, 0): 20, (2, 3): 5, (3, 2): 5, (1, 2): 8, (1, 4): None, (4, 5): 20}
    for rows, layer in expected.items():
        for label in (0, 1):
            frame = frame_record(Question(0, "soap", "wash", "eat", label), SCORES, rows)
            told = error_line(0, f"non-finite feature activation at layer {layer}")
            assert settle(frame, blocks) == (frame if layer is None else told)
    unscorable = error_line(0, "sol1 is empty")
    assert settle(unscorable, blocks) is unscorable
