"""The bytes of a record: who serialises which part, and how the driver joins the parts.

A record is one line of JSON. The Gemma actor knows everything but the features and makes the frame around them; each
encoder makes the features of its layers; the driver joins bytes and parses nothing.

Every line has the same keys, and `error` is a string in all of them: libraries that settle a file's schema by its first
lines take a column of nulls for one that never holds anything, and refuse or lose the first message far behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson

from layerscope.records.line.attributions import OF_THE_LINE, AttributionRows, list_name, names_of_the_line, terms_name
from layerscope.records.line.pieces import COUNTS, Pieces, SolutionScore, around, around_other, as_key, dumps
from layerscope.records.line.record import METADATA, NEGATIVE, OTHERS, POSITIVE, choice, strongest_wrong

if TYPE_CHECKING:
    from layerscope.questions.sources import Question
    from layerscope.records.line.feature_lists import LayerBlock

_NO_ERROR = b',"error":""}\n'
_UNSCORED = ("question", "model_is_correct", POSITIVE, NEGATIVE)


class Slot(NamedTuple):
    """A row of a line: which of the batch's, and what stands between its two halves."""

    row: int
    between: bytes


@dataclass(frozen=True)
class Frame:
    """A record but for its features: the pieces of bytes around them, and what the summary counts."""

    example_id: int
    pieces: tuple[bytes, ...]
    """One more than there are slots."""
    rows: tuple[int, ...]
    """Of the batch's rows of features, by the first dictionary, those of the positive solution, reading by reading,
    then the negative's, then those of the others whose features are recorded."""
    correct: bool
    """The right solution has the highest log-likelihood."""
    correct_per_character: bool
    """The right solution has the highest log-likelihood per character (lm-evaluation-harness's acc_norm)."""
    recorded: int = 2
    """Solutions whose features are recorded."""
    more: bool = False
    """Some question of the run has more than two solutions."""
    metadata: bytes = b""
    """Of the question, as JSON; empty for none."""
    further: tuple[Slot, ...] = ()
    """Of a run with attributions or further dictionaries, all rows in the order of the line."""

    @property
    def slots(self) -> Iterable[Slot]:
        """What comes between the pieces."""
        return self.further or (Slot(row, COUNTS) for row in self.rows)

    @property
    def final_rows(self) -> tuple[int, int]:
        """Of the positive and the negative solution, those of the reading `final`, which comes first of each."""
        return self.rows[0], self.rows[len(self.rows) // self.recorded]

    @property
    def rows_of_two(self) -> tuple[int, ...]:
        """The rows of the positive solution and of the negative."""
        return self.rows[: 2 * len(self.rows) // self.recorded]


@dataclass(frozen=True)
class WholeLine:
    """A line that lacks nothing."""

    line: bytes


@dataclass(frozen=True)
class ErrorLine(WholeLine):
    """That of a question that cannot be scored."""


Outcome = Frame | WholeLine


def frame_record(
    question: Question,
    scores: Sequence[SolutionScore],
    rows: Sequence[int | None],
    others: Sequence[Mapping[str, int]] = (),
    more: bool = False,
    attributions: AttributionRows | None = None,
    dictionaries: Mapping[str, int] = {},
) -> Frame:
    """The frame of a question's record.

    Args:
        scores: of all solutions: `sol1`, `sol2` and so on.
        rows: of them among the batch's rows of features, for the reading `final`; None for those whose features are
            not recorded, which are neither the right one nor the strongest wrong one.
        others: the same of the other readings, by name, in the order of the record.
        more: whether any question of the run has more than two solutions.
        attributions: among the batch's rows, where the run has them.
        dictionaries: by name, in the order of the record, how far behind the first dictionary's rows another one's are.
    """
    texts, label = question.solutions, question.label
    more = more or len(texts) > 2
    others = others or [{}] * len(texts)
    log_likelihoods = [score.log_likelihood for score in scores]
    per_character = [score.log_likelihood / len(text) for score, text in zip(scores, texts, strict=True)]
    negative = strongest_wrong(log_likelihoods, label)
    recorded = [label, negative]
    correct = choice(*log_likelihoods) == label
    pieces, slots = Pieces(_beginning(question, correct)), list[Slot]()
    for key, solution in zip((POSITIVE, NEGATIVE), recorded, strict=True):
        pieces.add(as_key(key), around(texts[solution], scores[solution], others[solution], dictionaries))
        slots += _slots_of(solution, rows, others, dictionaries)
        if attributions is not None:
            pieces.add_attributions(list_name(), b"}}")
            slots.append(Slot(attributions.own[solution], _between(terms_name())))
    if more:
        separator = as_key(OTHERS) + b"["
        for solution in sorted(set(range(len(texts))) - {label, negative}):
            there = around_other(solution, texts[solution], scores[solution], rows, others, dictionaries)
            pieces.add(separator, there)
            recorded += [solution] if rows[solution] is not None else []
            slots += _slots_of(solution, rows, others, dictionaries)
            separator = b","
        pieces.add(separator if len(texts) == 2 else b"", [b"]"])
    pieces.add(b',"label":%d' % label + _metadata(question.metadata), [b"}"])
    for group in OF_THE_LINE if attributions is not None else ():
        pieces.add_attributions(list_name(group), b"}}")
        slots.append(Slot(getattr(attributions, group), _between(terms_name(group))))
    pieces.end_with(_NO_ERROR)
    return Frame(
        question.example_id,
        tuple(pieces.all),
        tuple(row for of in recorded for row in _rows_of(of, rows, others)),
        correct,
        choice(*per_character) == label,
        len(recorded),
        more,
        question.metadata,
        tuple(slots) if attributions is not None or dictionaries else (),
    )


def _beginning(question: Question, correct: bool) -> bytes:
    return dumps({"example_id": question.example_id, "question": question.goal, "model_is_correct": correct})[:-1]


def _rows_of(solution: int, rows: Sequence[int | None], others: Sequence[Mapping[str, int]]) -> list[int]:
    """Those of a solution, reading by reading."""
    return [row for row in (rows[solution], *others[solution].values()) if row is not None]


def _slots_of(
    solution: int,
    rows: Sequence[int | None],
    others: Sequence[Mapping[str, int]],
    dictionaries: Mapping[str, int],
) -> list[Slot]:
    """Of a solution: dictionary by dictionary, and of each reading by reading."""
    of_first = _rows_of(solution, rows, others)
    return [Slot(row + behind, COUNTS) for behind in (0, *dictionaries.values()) for row in of_first]


def error_line(
    example_id: int, reason: str, more: bool = False, metadata: bytes = b"", attributed: bool = False
) -> ErrorLine:
    """The line of a question that cannot be scored.

    Args:
        more: whether any question of the run has more than two solutions.
        metadata: of the question, as JSON; empty for none.
        attributed: whether the run has attributions.
    """
    names = [*_UNSCORED, *([OTHERS] if more else []), "label"]
    start = dumps({"example_id": example_id, **dict.fromkeys(names)})
    end = dumps({**dict.fromkeys(names_of_the_line() if attributed else []), "error": reason})
    return ErrorLine(start[:-1] + _metadata(metadata) + b"," + end[1:] + b"\n")


def _metadata(found: bytes) -> bytes:
    return as_key(METADATA) + found if found else b""


def in_first_form(pieces: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """The pieces of a line as files of format 1 have it: `error` only where there is one, and then nothing else."""
    *others, last = pieces
    if bytes(last[-len(_NO_ERROR) :]) == _NO_ERROR:
        return [*others, last[: -len(_NO_ERROR)], b"}\n"]
    unscored = orjson.loads(b"".join(pieces))
    return [dumps({name: unscored[name] for name in ("example_id", "error")}) + b"\n"]


def join_record(frame: Frame, blocks: Sequence[LayerBlock]) -> list[bytes | memoryview]:
    """The pieces of a record's line, in order, to be written one after the other; the features are not copied."""
    pieces: list[bytes | memoryview] = []
    for piece, (row, between) in zip(frame.pieces, frame.slots, strict=False):
        pieces += [piece, *_comma_separated(blocks, 2 * row), between, *_comma_separated(blocks, 2 * row + 1)]
    return [*pieces, frame.pieces[-1]]


def settle(outcome: Outcome, blocks: Sequence[LayerBlock]) -> Outcome:
    """The outcome, or the error line of a record one of whose numbers is not finite: the first layer is named."""
    if isinstance(outcome, WholeLine):
        return outcome
    slots = list(outcome.slots)
    attributed = any(slot.between != COUNTS for slot in slots)
    for what, of_features in (("feature activation", True), ("attribution", False)):
        rows = [slot.row for slot in slots if (slot.between == COUNTS) == of_features]
        layers = [int(block.failed_layers[row]) for block in blocks for row in rows if block.failed_layers[row] >= 0]
        if layers:
            reason = f"non-finite {what} at layer {min(layers)}"
            return error_line(outcome.example_id, reason, outcome.more, outcome.metadata, attributed)
    return outcome


def _comma_separated(blocks: Sequence[LayerBlock], part: int) -> list[bytes | memoryview]:
    pieces: list[bytes | memoryview] = []
    for block in blocks:
        pieces += [b",", block.json[block.offsets[part] : block.offsets[part + 1]].data]
    return pieces[1:]


def _between(name: str) -> bytes:
    return b"}" + as_key(name) + b"{"
