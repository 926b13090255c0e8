"""The question browser's data: which questions and features it keeps, read from the file a second time and packed.

Bounded in the page and in memory whatever the run's size; `Pack.kept` says what was kept.
"""

import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import orjson

from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.result import Analysis
from layerscope.errors import LayerscopeError
from layerscope.formatting import count_of, visible
from layerscope.records.line.dictionaries import seen_by
from layerscope.records.line.held import parse_held
from layerscope.records.line.record import Record
from layerscope.records.reading.run import Run
from layerscope.report.packs.cell_pack import Cells
from layerscope.report.packs.kept import Tracked, choose_questions, tracked_features
from layerscope.report.packs.token_pack import Places, has_places, pieces
from layerscope.report.sections.feature_tables import neuronpedia_url
from layerscope.report.sections.groups import Column, read_columns

_FEATURES = 320_000  # strongest features, over all cells of a page, about
_TRACKED = 400_000  # entries of features whose every firing is kept, at most
_CHARACTERS = 2_500_000  # of text
_LONGEST = (6000, 2000, 600, 200)  # characters of one text: the most that fits; the last one always does
_OTHERS = 9  # further solutions of a question
_OF_OTHERS = 160  # characters of each
_SHOWN_PLAINLY = 40  # questions in the table that needs no JavaScript
_EXAMPLE_ID = re.compile(rb'\{"example_id":(\d+),')


@dataclass(frozen=True)
class Question:
    """A question as the page shows it, texts made visible."""

    example_id: int
    margin: float
    correct: bool
    discovery: bool
    goal: str
    positive: str
    negative: str
    log_likelihoods: tuple[float, float]
    token_counts: tuple[int, int]
    final_tokens: tuple[str, str]
    pieces: tuple[list[int], list[int]] | None
    others: tuple[tuple[str, float], ...]
    """Text and log-likelihood of the other wrong solutions, the next strongest first; not all of many."""


@dataclass(frozen=True)
class Pack:
    """What the page holds."""

    questions: str
    """The same for every reading: JSON, deflated, in base64."""
    about: str
    """JSON, deflated, in base64: how `features` are to be read."""
    features: str
    """Columns of bytes, deflated, in base64; `about` says how many of each."""
    tracked: Tracked
    columns: tuple[Column, ...]
    """Of the questions' metadata, by which they are grouped."""
    plain: tuple[Question, ...]
    """The few that are shown without JavaScript."""
    kept: tuple[str, ...]
    """What was kept and what was left out, in sentences."""


def pack_questions(run: Run, analysis: Analysis, progress: Callable[[float], None], sharing: int = 1) -> Pack:
    """Reads the chosen questions again and packs them.

    Args:
        sharing: how many readings share the room that a page has for features.

    Raises:
        LayerscopeError: the file is no longer the one that was analysed.
    """
    chosen, why = choose_questions(analysis)
    tracked = tracked_features(analysis, len(chosen), _TRACKED / sharing)
    strongest = int(np.clip(_FEATURES // sharing // max(len(chosen) * len(analysis.layers.layer), 1), 1, 10))
    places = _places(run, analysis, chosen)
    cells = Cells(tuple(map(int, analysis.layers.layer)), strongest, tracked, analysis.options.reading, places)
    columns = read_columns(run, analysis, progress)
    questions = []
    for index, record in records_of(run, analysis, chosen, progress):
        questions.append(_question(analysis, index, record))
        cells.add(record)
    questions, longest, cut = _shortened(questions)
    levels, rounding = cells.columns()
    content = {
        "fields": [field.name for field in fields(Question)],
        "layers": list(map(int, analysis.layers.layer)),
        "pages": {sae.layer: neuronpedia_url(sae.neuronpedia_id, "") for sae in analysis.header.saes},
        "groups": [
            {"name": column.name, "values": column.values, "of": column.of[chosen].tolist()} for column in columns
        ],
        "questions": [list(vars(question).values()) for question in questions],
    }
    about = {
        "entries": len(cells.feature_id),
        "scale": cells.scale,
        "placed": places is not None,
        "tracked": {layer: sorted(ids) for layer, ids in tracked.all.items()},
    }
    kept = [
        why,
        f"Of every solution and layer the {strongest} strongest features are kept"
        + (f", and every firing of {tracked.count:,} of the surest." if tracked.count else "."),
        _said_of(places),
        f"Activations are rounded to {rounding:.1%}." if rounding else "",
        f"{count_of(cut, 'question')} with a text longer than {longest:,} characters, which is cut." if cut else "",
    ]
    return Pack(
        packed(orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)),
        packed(orjson.dumps(about, option=orjson.OPT_NON_STR_KEYS)),
        packed(levels),
        tracked,
        columns,
        _plainly(questions),
        tuple(filter(None, kept)),
    )


def _places(run: Run, analysis: Analysis, chosen: Ints) -> Places | None:
    settings = run.manifest.identity.settings
    if not has_places(settings, analysis.options.reading):
        return None
    columns = analysis.questions
    tokens = int(columns.positive_tokens[chosen].sum() + columns.negative_tokens[chosen].sum())
    return Places(tokens * len(analysis.layers.layer) * settings.token_activations)


def _said_of(places: Places | None) -> str:
    if places is None or not (places.selected_only or places.left_out):
        return ""
    of = "the selected features'" if places.selected_only else "these features'"
    more = f"; {places.left_out:,} lists of them found no room" if places.left_out else ""
    return f"Of activations at every token {of} are kept{more}."


def records_of(
    run: Run, analysis: Analysis, chosen: Ints, progress: Callable[[float], None]
) -> Iterator[tuple[int, Record]]:
    """The records of the chosen questions with their index, in the file's order; parses no other.

    Raises:
        LayerscopeError: the file is no longer the one that was analysed.
    """
    wanted = dict(zip(analysis.questions.example_id[chosen].tolist(), chosen.tolist(), strict=True))
    left = len(wanted)
    for line in run.lines():
        if not left:
            return
        index = wanted.get(_example_id(line))
        if index is not None:
            left -= 1
            progress(min(1.0, run.bytes_read / run.size))
            record = parse_held(line)
            if isinstance(record, Record):
                yield index, seen_by(record, analysis.options.dictionary)
    if left:
        raise LayerscopeError(f"{run.path} was changed while its report was made. Make the report again.")


def _example_id(line: bytes) -> int:
    """Of a line as `records/line/lines.py` writes it without parsing the rest."""
    found = _EXAMPLE_ID.match(line)
    return int(found[1] if found else orjson.loads(line)["example_id"])


def _question(analysis: Analysis, index: int, record: Record) -> Question:
    positive, negative = record.solutions
    columns = analysis.questions
    goal, right, wrong = (visible(text[: _LONGEST[0] + 1]) for text in (record.question, positive.text, negative.text))
    return Question(
        int(columns.example_id[index]),
        round(float(columns.margin[index]), 3),
        bool(columns.correct[index]),
        bool(columns.discovery[index]),
        goal,
        right,
        wrong,
        (positive.log_likelihood, negative.log_likelihood),
        (positive.token_count, negative.token_count),
        (visible(positive.final_token), visible(negative.final_token)),
        pieces(record),
        tuple(_others(record)),
    )


def _others(record: Record) -> Iterator[tuple[str, float]]:
    for other in sorted(record.more, key=lambda other: -other.score)[:_OTHERS]:
        text = visible(other.text)
        yield text if len(text) <= _OF_OTHERS else text[:_OF_OTHERS] + "…", other.log_likelihood


def _shortened(questions: list[Question]) -> tuple[list[Question], int, int]:
    """The questions with texts that fit the page, how long a text may be, and how many questions have a longer one."""
    texts = [(question.goal, question.positive, question.negative) for question in questions]
    for longest in _LONGEST:
        if sum(min(len(text), longest) for each in texts for text in each) <= _CHARACTERS:
            break
    cut = sum(any(len(text) > longest for text in each) for each in texts)
    shorter = [[text if len(text) <= longest else text[:longest] + "…" for text in each] for each in texts]
    return (
        [replace(q, goal=t[0], positive=t[1], negative=t[2]) for q, t in zip(questions, shorter, strict=True)],
        longest,
        cut,
    )


def _plainly(questions: list[Question]) -> tuple[Question, ...]:
    """The most confidently wrong ones, then those of smallest margin."""
    wrong = [question for question in sorted(questions, key=lambda q: q.margin) if not question.correct]
    closest = sorted(questions, key=lambda q: abs(q.margin))
    both = {question.example_id: question for question in [*wrong[: _SHOWN_PLAINLY // 2], *closest]}
    return tuple(both.values())[:_SHOWN_PLAINLY]


def packed(data: bytes) -> str:
    """Deflated, in base64, as the page's script unpacks it."""
    return b64encode(zlib.compress(data, 9)).decode()
