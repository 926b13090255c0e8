"""From the lines of a file to columns, in one pass: the questions' columns in memory, the features' on disk.

Memory is bounded by the number of questions times layers (16 bytes each), and by one layer's features when it is asked
for. Knows nothing of statistics.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path

import numpy as np

from layerscope.analysis.baselines.residuals import Scored
from layerscope.analysis.baselines.texts import TextColumns, Texts
from layerscope.analysis.causes.columns import AttributionColumns
from layerscope.analysis.columns.lists import Lists, Others, StoredLists
from layerscope.analysis.columns.spilling import Column
from layerscope.analysis.many_solutions import SolutionColumns
from layerscope.analysis.result import Questions
from layerscope.analysis.testing.halves import Halves
from layerscope.analysis.testing.proportion import ManySolutions
from layerscope.errors import LayerscopeError
from layerscope.records.line.checking import check_prompt
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.line.readings import ReadingLists
from layerscope.records.line.record import NotARecordError, Record, Unscored
from layerscope.records.manifest.manifest import Manifest
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import Files, read_run
from layerscope.records.totals import Totals

_feature_id, _activation = attrgetter("feature_id"), attrgetter("activation")


@dataclass(frozen=True)
class Columns:
    """What a file holds so far."""

    file: str
    written: datetime
    """When it was last written to, UTC."""
    manifest: Manifest
    unnoted: str
    """What is not known for want of a manifest, which then says what the records say; empty where there is one."""
    layers: tuple[int, ...]
    totals: Totals
    scored: Sequence[Scored]
    """One for each file, in their order."""
    questions: Questions
    texts: Texts
    many: ManySolutions | None
    """What is to be said of more than two solutions; None where every question has two."""
    feature_lists: Callable[[int], Lists]
    """Those of the layer with this index into `layers`."""
    attributions: AttributionColumns | None = None
    """None where the run has none."""
    others: Others | None = None
    """None where no question has more than two solutions, or the run has not the features of all."""


@contextmanager
def reading(files: Files, name: str, progress: Callable[[float], None], dictionary: str = FIRST) -> Iterator[Columns]:
    """Reads a file, or the shards of one job, and of their readings one, of one dictionary.

    What it spills to temporary files (8 bytes a listed feature) is gone when the `with` block is left.

    Args:
        progress: gets which share of the file is read.

    Raises:
        UsageError: there is no such file, it has no such reading or dictionary, or several are not shards of one job.
        LayerscopeError: a line is not a record, the solutions differ at the prompt, which they share, or there is no
            room for the temporary files.
    """
    run = read_run(files, dictionary)
    run.check_reading(name)
    layers = tuple(run.manifest.about.layers)
    totals, rows, solutions = Totals(), _QuestionRows(), SolutionColumns()
    scored = list[tuple[Path, "array[int]"]]()
    with ExitStack() as stack:
        columns = [_LayerColumns(layer, stack) for layer in layers]
        of_others = [_LayerColumns(layer, stack, 1) for layer in layers] if run.all_solutions else []
        attributions = AttributionColumns(layers, stack) if run.attributed else None
        texts = TextColumns(stack)
        for _, record in _records(run, scored):
            totals.add_record(record)
            if isinstance(record, Record):
                _trust_prompt(run, record)
                rows.add(record)
                texts.add(record)
                solutions.add(record)
                for details in record.solutions:
                    for column in columns:
                        column.add(details.reading(name))
                for column in of_others:
                    for details in record.recorded[2:]:
                        column.add(details.reading(name))
                if attributions is not None:
                    attributions.add(record)
            progress(min(1.0, sum(part.bytes_read for part in run.parts) / run.size))  # it may have grown
        questions = rows.columns()
        del rows
        yield Columns(
            run.name,
            _written(run),
            run.manifest,
            run.unnoted,
            layers,
            totals,
            [Scored(path, np.array(has, dtype=bool)) for path, has in scored],
            questions,
            texts.texts(),
            solutions.many(questions.group),
            lambda index: columns[index].feature_lists(),
            attributions,
            solutions.others(lambda index: of_others[index].feature_lists()) if of_others else None,
        )


def _records(run: Run, scored: "list[tuple[Path, array[int]]]") -> Iterator[tuple[bytes, Record | Unscored]]:
    """Every line, file after file; notes of each of a file's whether it is scored."""
    for part in run.parts:
        has = array("b")
        scored.append((part.path, has))
        for line, record in part.records():
            has.append(isinstance(record, Record))
            yield line, record


def _trust_prompt(run: Run, record: Record) -> None:
    try:
        check_prompt(record)
    except NotARecordError as error:
        raise LayerscopeError(
            f"{run.path}{run.others}, example_id {record.example_id}: {error}.\n"
            "What tells the solutions apart there is no finding but a fault, so no other number of it can be trusted."
        ) from error


def _written(run: Run) -> datetime:
    return datetime.fromtimestamp(max(part.path.stat().st_mtime for part in run.parts), UTC)


class _LayerColumns:
    """One layer's feature lists, list after list."""

    def __init__(self, layer: int, stack: ExitStack, solutions: int = 2) -> None:
        self._layer, self._solutions = layer, solutions
        self._feature_id, self._activation = Column("i", stack), Column("f", stack)
        self._listed, self._active = Column("i", stack), Column("i", stack)

    def add(self, details: ReadingLists) -> None:
        features = details.active_features_by_layer[self._layer]
        self._feature_id.extend(map(_feature_id, features))
        self._activation.extend(map(_activation, features))
        self._listed.extend((len(features),))
        self._active.extend((details.active_feature_count_by_layer[self._layer],))

    def feature_lists(self) -> StoredLists:
        listed, active = (
            column.read().astype(np.int64).reshape(-1, self._solutions) for column in (self._listed, self._active)
        )
        return StoredLists(self._feature_id, self._activation, listed, active)


class _QuestionRows:
    """The questions' columns while they grow."""

    def __init__(self) -> None:
        self._example_id, self._margin, self._tokens = array("q"), array("d"), array("i")
        self._marks = array("B")
        self._halves = Halves()

    def add(self, record: Record) -> None:
        positive, negative = record.solutions
        finals = positive.final_token, negative.final_token
        self._example_id.append(record.example_id)
        self._margin.append(record.margin)
        self._tokens.extend((positive.token_count, negative.token_count))
        self._marks.extend(
            (
                record.model_is_correct,
                record.correct_per_character(),
                finals[0] == finals[1],
                all(final.endswith(".") for final in finals),
            )
        )
        self._halves.add(record.question)

    def columns(self) -> Questions:
        correct, per_character, same, stop = np.array(self._marks, dtype=bool).reshape(-1, 4).T.copy()
        positive, negative = np.array(self._tokens, dtype=np.int64).reshape(-1, 2).T.copy()
        group, discovery = self._halves.groups()
        return Questions(
            np.array(self._example_id, dtype=np.int64),
            np.array(self._margin),
            correct,
            per_character,
            positive,
            negative,
            same,
            stop,
            discovery[group],
            group,
        )
