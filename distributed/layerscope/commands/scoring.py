"""One question in this process, for a look: what the model says of its solutions, and what fires. No Ray, no file."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
import numpy as np
import orjson
import pyarrow as pa
from markupsafe import Markup, escape

from layerscope.config import Config
from layerscope.errors import UsageError, did_you_mean
from layerscope.formatting import visible
from layerscope.planning.job import Job
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.records.line.record import Record, Unscored, parse
from layerscope.tables.columns import FEATURES, OF_SOLUTIONS
from layerscope.tables.rows import feature_rows

if TYPE_CHECKING:
    import pandas

    from layerscope.engine.batches.in_process import InProcess

_SETTINGS = frozenset(
    (
        *("model", "revision", "sae_repo", "sae_revision", "sae_repo_id", "site", "sae_width", "sae_l0", "layers"),
        *("top_k", "dtype", "sae_dtype", "threads", "device", "standin", "all_solutions"),
        *("prompt", "solution_separator", "system_prompt", "strip_solutions"),
    )
)
_KINDS = get_type_hints(Config)
_SHOWN = 8  # features of a layer in a notebook
_loaded: "dict[tuple[Config, bytes], InProcess]" = {}  # the last one alone: a model fills a memory


@dataclass(frozen=True)
class Scored:
    """What a question came to."""

    record: Record
    """As a run would write it."""
    line: bytes = field(repr=False)
    """The record's bytes."""

    @property
    def log_likelihoods(self) -> list[float]:
        """Of every solution, in the order they were given in."""
        return [solution.score for solution in self.record.in_order]

    @property
    def chosen(self) -> int:
        """Which solution the model prefers, from 0."""
        scores = self.log_likelihoods
        return scores.index(max(scores))

    @cached_property
    def features(self) -> "pandas.DataFrame":
        """A row for every feature listed, as `LoadedRun.features` gives them."""
        of_all = len(self.record.recorded) > len(self.record.solutions)
        schema = pa.unify_schemas([FEATURES, OF_SOLUTIONS]) if of_all else FEATURES
        return pa.Table.from_batches([feature_rows(self.record, schema=schema)], schema).to_pandas()

    def __str__(self) -> str:
        told = [f"{self.record.question}"]
        for index, solution in enumerate(self.record.in_order):
            mark = "*" if index == self.chosen else " "
            told.append(f"{mark} {solution.score:9.2f}  {solution.text}")
        return "\n".join(told)

    def _repr_html_(self) -> str:
        rows = [
            Markup("<tr><td>{}</td><td>{:.2f}</td><td>{}</td></tr>").format(
                "chosen" if index == self.chosen else "", solution.score, solution.text
            )
            for index, solution in enumerate(self.record.in_order)
        ]
        columns = [solution.active_features_by_layer for solution in self.record.recorded]
        lists = [_cells("td", [layer, *(_strongest(column[layer]) for column in columns)]) for layer in columns[0]]
        head = _cells("th", ["layer", *self._names()])
        goal = Markup("<p><b>{}</b></p>").format(self.record.question)
        return str(Markup("{}<table>{}</table><table>{}{}</table>").format(goal, _join(rows), head, _join(lists)))

    def _names(self) -> list[str]:
        """Of the solutions whose features there are, the right one first; of more than two, which each is."""
        if not self.record.more:
            return ["strongest features: right", "wrong"]
        of_two = self.record.label, self.record.negative_index
        others = [other.index for other in self.record.more]
        told = [f"strongest features: right (sol{of_two[0] + 1})", f"strongest wrong (sol{of_two[1] + 1})"]
        return [*told, *(f"sol{index + 1}" for index in others)][: len(self.record.recorded)]


def score(question: str, solutions: Sequence[str], label: int = 0, **settings: Any) -> Scored:
    """Scores the solutions of one question and lists their strongest features, in this process and without Ray.

    The first call loads the model and the SAEs, the next ones with the same settings do not.

    Args:
        solutions: two or more.
        label: which is the right one, from 0; `positive` in the record.
        settings: as the options of `layerscope run`: `model="google/gemma-2-2b"`, `layers=[8, 20]`, `top_k=20`,
            `standin=True` …; `all_solutions=True` lists the features of every wrong solution, not of the strongest
            alone.

    Raises:
        UsageError: there is no such setting, or the question cannot be scored; it says why.
        LayerscopeError: something cannot be fetched or read, or does not fit the memory.
    """
    row = _row(question, solutions, label)
    config = replace(
        _config(settings),
        num_samples="all",
        columns=",".join(f"{name}={name}" for name in row),
        first_label="0",
    )
    with TemporaryDirectory(prefix="layerscope-") as folder:
        file = Path(folder, "question.jsonl")
        file.write_bytes(orjson.dumps(row))
        job = prepare(replace(config, dataset=str(file), output_file=str(Path(folder, "out.jsonl"))), [probe()])
        (line,) = _in_process(replace(config, columns=""), job).lines(job, 0)
    record = parse(line)
    if isinstance(record, Unscored):
        raise UsageError(f"The question cannot be scored: {record.error}.")
    return Scored(record, line)


def _config(settings: dict[str, Any]) -> Config:
    """
    Raises:
        UsageError: there is no such setting, or it has not such values: no command line has looked at them.
    """
    if unknown := sorted(settings.keys() - _SETTINGS):
        hint = did_you_mean(unknown[0], _SETTINGS)
        raise UsageError(f"score has no setting {', '.join(unknown)}. It has {', '.join(sorted(_SETTINGS))}.{hint}")
    texts = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in settings.items()}
    layers = texts.get("layers")
    if isinstance(layers, Collection) and not isinstance(layers, str):  # as a run's `features` takes them
        texts["layers"] = ",".join(map(str, layers))
    for name, value in texts.items():
        try:
            msgspec.convert(value, _KINDS[name])
        except (msgspec.ValidationError, UnicodeError) as error:
            raise UsageError(f"score was given {name}={value!r}: {str(error).partition(' - at')[0]}.") from error
    return Config(**texts)


def _row(question: str, solutions: Sequence[str], label: int) -> dict[str, str | int]:
    """
    Raises:
        UsageError: these are no question and its solutions in their order. One text is a sequence of letters too, and
            would be scored.
    """
    if isinstance(solutions, str | bytes | Set | Mapping) or not isinstance(solutions, Iterable):
        raise UsageError(f"The solutions are {visible(repr(solutions)[:80])}; give a list of two texts or more.")
    solutions = list(solutions)
    if len(solutions) < 2 or not isinstance(label, int | np.integer) or not 0 <= label < len(solutions):
        raise UsageError(f"A question has two solutions or more; there are {len(solutions)}, and label is {label!r}.")
    texts = {"goal": question, **{f"sol{number}": text for number, text in enumerate(solutions, 1)}}
    for name, text in texts.items():
        if not isinstance(text, str) or re.search("[\ud800-\udfff]", text):
            raise UsageError(f"{name} is {visible(repr(text)[:80])}; goal and solutions must be UTF-8 texts.")
    if twice := next((text for text in solutions if solutions.count(text) > 1 and text.strip()), ""):
        raise UsageError(f"{visible(repr(twice)[:80])} is there twice; solutions must differ.")
    return {**texts, "label": int(label)}


def _in_process(config: Config, job: Job) -> "InProcess":
    """The model and SAEs of these settings, loaded unless the last call had them with the same content."""
    identity = job.identity()
    key = config, msgspec.json.encode((identity.model, identity.saes))
    if key not in _loaded:
        from layerscope.engine.batches.in_process import InProcess

        _loaded.clear()  # before the next one is loaded
        _loaded[key] = InProcess(job)
    return _loaded[key]


def _strongest(features: Sequence[Any]) -> str:
    return ", ".join(f"{each.feature_id} ({each.activation:.1f})" for each in features[:_SHOWN]) or "–"


def _cells(tag: str, cells: Iterable[object]) -> Markup:
    of_row = (Markup("<{0}>{1}</{0}>").format(Markup(tag), cell) for cell in cells)
    return Markup("<tr>{}</tr>").format(_join(list(of_row)))


def _join(rows: Sequence[Markup]) -> Markup:
    return Markup().join(map(escape, rows))
