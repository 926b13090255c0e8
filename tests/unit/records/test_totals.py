"""The summary's numbers: the same from the frames of a run as from the lines of its file, and right."""

from collections.abc import Sequence

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import serialise_block
from layerscope.records.line.lines import error_line, frame_record, join_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.line.record import Record, SolutionDetails, parse
from layerscope.records.totals import Counts, Totals
from layerscope.saes.encoder import TopK

Scored = tuple[str, str, float, float, int, list[int]]


def counts_only(counts: Sequence[int]) -> TopK:
    """One layer in which these many features fire in every row, none of them listed."""
    zeros = np.zeros(len(counts) + 1, dtype=np.int64)
    return TopK(zeros[:0], np.zeros(0, dtype=np.float32), zeros, np.array(counts, dtype=np.int64))


LOG_LIKELIHOOD = st.floats(-300, 0, width=32) | st.integers(-60, 0).map(lambda tenths: float(np.float32(tenths / 10)))
SCORED = st.tuples(
    st.text("aé🧼 ", min_size=1, max_size=12),
    st.text("aé🧼 ", min_size=1, max_size=12),
    LOG_LIKELIHOOD,
    LOG_LIKELIHOOD,
    st.sampled_from([0, 1]),
    st.lists(st.integers(0, 999), min_size=2, max_size=2),
)


@given(st.lists(st.none() | SCORED, max_size=8))
@example([("aaa", "a", float(np.float32(-0.3)), float(np.float32(-0.1)), 0, [0, 0])])
def test_a_file_read_again_counts_as_it_was_written(rows: list[Scored | None]) -> None:
    """A run that was killed and resumed would else sum up otherwise than one that was not."""
    written, read = Totals(), Totals()
    for index, row in enumerate(rows):
        if row is None:
            written.add_error()
            read.add_record(parse(error_line(index, "sol1 is empty").line))
            continue
        sol1, sol2, first, second, label, counts = row
        question = Question(index, "soap", sol1, sol2, label)
        frame = frame_record(question, (SolutionScore(first, 1, ""), SolutionScore(second, 1, "")), (0, 1))
        blocks = [serialise_block([3], [counts_only(counts)]), serialise_block([8], [counts_only(counts[::-1])])]
        written.add_counts(Counts(frame.correct, frame.correct_per_character, 2 * sum(counts), 4))
        read.add_record(parse(b"".join(join_record(frame, blocks))))
    assert read == written


def record(texts: tuple[str, str], log_likelihoods: tuple[float, float], label: int) -> Record:
    """A record as a file holds it, of a run over two layers; texts and log-likelihoods are of sol1 and sol2."""
    details = [
        SolutionDetails(text, score, {}, {3: 10, 8: 25}, 1, "")
        for text, score in zip(texts, log_likelihoods, strict=True)
    ]
    correct = (log_likelihoods[0] >= log_likelihoods[1]) == (label == 0)
    return Record(0, "soap", correct, details[label], details[1 - label], label)


def test_accuracies_are_those_of_lm_evaluation_harness() -> None:
    """By hand: acc is 3 of 4, acc_norm 1 of 4, both with the error sqrt(p (1 - p) / (n - 1)) = sqrt(3 / 16 / 3)."""
    totals = Totals()
    totals.add_error()
    totals.add_record(record(("ab", "abcdefgh"), (-4.0, -6.0), 0))  # -2 and -0.75 a character: right, wrong
    totals.add_record(record(("abcdefgh", "ab"), (-6.0, -4.0), 1))  # right, wrong
    totals.add_record(record(("ab", "abcd"), (-4.0, -8.0), 0))  # right, and a tie a character: sol1, right
    totals.add_record(record(("abcd", "ab"), (-8.0, -8.0), 1))  # a tie: sol1, wrong; -2 and -4 a character: wrong
    assert (totals.questions, totals.errors, totals.scored) == (5, 1, 4)
    assert totals.accuracy() == "75.00% ± 25.00%"
    assert totals.accuracy_per_character() == "25.00% ± 25.00%"
    assert totals.mean_active_features() == "17.5"


def test_characters_are_counted_and_not_bytes() -> None:
    """An é would else weigh twice; lm-evaluation-harness takes the length of the text."""
    totals = Totals()
    totals.add_record(record(("éééé", "aaaaa"), (-4.0, -4.5), 1))  # -1.0 and -0.9 a character, -0.5 and -0.9 a byte
    assert totals.accuracy_per_character().startswith("100.00%")


def test_a_summary_of_nothing_is_told_in_words() -> None:
    totals = Totals()
    totals.add_error()
    assert totals.accuracy() == totals.accuracy_per_character() == "no question scored"
    assert totals.mean_active_features() == "none"
