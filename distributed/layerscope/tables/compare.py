"""Comparing two runs over the same questions: of another model, prompt or SAE width, or on other hardware.

Questions are matched by their texts, because an `example_id` only counts the rows of the data set that a run had. The
first file is read in its order, the second by the places of its lines, so that neither is held.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import aligned, told, utf8
from layerscope.records.goals import GoalGroups, told_goals
from layerscope.records.line.dictionaries import FIRST, seen_by
from layerscope.records.line.held import parse_held
from layerscope.records.line.record import NotARecordError, OtherSolution, Record, SolutionDetails, Unscored
from layerscope.records.progress import shown
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import Files, as_seen_by, read_run, whose_lists, without_batches
from layerscope.records.reading.stretches import LinesByPlace
from layerscope.records.totals import Totals
from layerscope.tables.attribution_agreement import Agreements, rows_of_text
from layerscope.tables.measures import Changed, Margins, Overlap, Paired, told_margins
from layerscope.tables.same_settings import differing, same_saes

Json = dict[str, Any]
_Place = tuple[Path, int, int]  # of a line: file, where its stretch begins, and which it is there


@dataclass
class Comparison:
    """What two runs come to on the questions that both scored."""

    layers: Sequence[int]
    """Those with the same SAE in both."""
    reading: str
    top_k: int | None
    """Of the strongest features of each list only so many are compared: what the shorter lists of the two hold."""
    acc: Paired = field(default_factory=Paired)
    acc_norm: Paired = field(default_factory=Paired)
    difference: float = 0.0
    """Sum of the absolute differences of the log-likelihoods of the solutions."""
    solutions: int = 0
    margins: Margins = field(default_factory=Margins)
    changed: Changed = field(default_factory=Changed)
    largest: float = 0.0
    largest_example_id: int | None = None
    """Of the first run; None where no log-likelihood differs."""
    overlaps: dict[int, Overlap] = field(default_factory=lambda: defaultdict(Overlap))
    goals: GoalGroups = field(default_factory=GoalGroups)
    attributions: Agreements = field(init=False)

    def __post_init__(self) -> None:
        self.attributions = Agreements(self.layers, self.top_k)

    def add(self, a: Record, b: Record) -> None:
        """Adds the records of one question."""
        group = self.goals.add(a.question)
        self.acc.add(group, a.model_is_correct, b.model_is_correct)
        self.acc_norm.add(group, a.correct_per_character(), b.correct_per_character())
        self.margins.add(a, b)
        self.changed.add(a, b)
        self.attributions.add(group, a.attributions, b.attributions)
        of_b = _by_place(b)
        for place, solution in _by_place(a).items():
            difference = abs(solution.score - of_b[place].score)
            self.difference += difference
            self.solutions += 1
            if difference > self.largest:
                self.largest, self.largest_example_id = difference, a.example_id
            recorded = [of if isinstance(of, SolutionDetails) else of.details for of in (solution, of_b[place])]
            both = [details.reading(self.reading) for details in recorded if details is not None]
            for layer in self.layers if len(both) == 2 else ():
                self.overlaps[layer].add(
                    group, *(lists.active_features_by_layer[layer][: self.top_k] for lists in both)
                )

    def result(self) -> Json:
        return {
            "acc": self.acc.result(),
            "acc_norm": self.acc_norm.result(),
            "same_choice": self.acc.both + self.acc.neither,
            "log_likelihood": {
                "mean_difference": self.difference / self.solutions,
                "largest_difference": self.largest,
                "example_id": self.largest_example_id,
            },
            "margins": self.margins.result(),
            "changed": self.changed.result(),
            "layers": {str(layer): overlap.result() for layer, overlap in self.overlaps.items()},
            "attributions": self.attributions.result(),
        }


def compare(a: Files, b: Files, reading: str = "final", dictionary: str = FIRST) -> Json:
    """Compares two output files, or those of the shards of two jobs, finished or growing.

    Features are compared where both runs had the same SAE: the same file by its hash, or the same Neuronpedia id.

    Args:
        reading: whose features are compared.
        dictionary: of which SAEs; a run that has no further ones is taken with its own, if the other has them.

    Raises:
        UsageError: there is no such file, one has no such reading or dictionary, several are not shards of one job,
            or the runs have no question in common.
        LayerscopeError: a line is not a record.
    """
    runs = [read_run(files) for files in (a, b)]
    whose = whose_lists(runs, dictionary)
    runs = [as_seen_by(run, name) for run, name in zip(runs, whose, strict=True)]
    for run in runs:
        run.check_reading(reading)
    manifests = [run.manifest for run in runs]
    known = not any(run.unnoted for run in runs)
    layers, left_out = same_saes(manifests[0], manifests[1], known)
    top_k = [manifest.identity.settings.top_k for manifest in manifests]
    comparison = Comparison(layers, reading, min((k for k in top_k if k != "all"), default=None))
    totals_a, lines, (totals_b, places) = Totals(), LinesByPlace(), _index(runs[1])
    for _, record in shown(runs[0].records(), runs[0]):
        totals_a.add_record(record)
        if isinstance(record, Record) and (found := places.get(key := _key(record))):
            comparison.add(record, seen_by(_record_at(found.pop(0), lines, key), whose[1]))
    common = comparison.acc.questions
    if not common:
        if why := next(filter(None, (without_batches(run.manifest) for run in runs)), ""):
            raise UsageError(
                f"One of {a} and {b} holds no question and never will: its {why}.\nCompare another shard's."
            )
        origins = (
            " ".join(manifest.identity.questions.values()) or "questions of unknown origin" for manifest in manifests
        )
        scored = (f"{totals.scored} of {origin}" for totals, origin in zip((totals_a, totals_b), origins, strict=True))
        raise UsageError(
            f"{runs[0].path} and {runs[1].path} have no question in common by its text and solutions: "
            f"they scored {' and '.join(scored)}.\n"
            "Compare runs over the same data set."
        )
    return {
        "a": _about(runs[0], totals_a),
        "b": _about(runs[1], totals_b),
        "questions": {
            "common": common,
            "scored_only_by_a": totals_a.scored - common,
            "scored_only_by_b": totals_b.scored - common,
        },
        "goals": {**comparison.goals.result(), "effective": comparison.goals.effective},
        **comparison.result(),
        "reading": reading,
        "dictionary": dictionary,
        "layers_left_out": left_out,
        "settings_that_differ": differing(*manifests) if known else ["not known without a manifest"],
    }


def as_json(comparison: Json) -> str:
    """A comparison for programs."""
    return orjson.dumps(comparison, option=orjson.OPT_INDENT_2).decode()


def as_text(comparison: Json) -> str:
    """A comparison for people."""
    a, b, questions, log_likelihood = (comparison[name] for name in ("a", "b", "questions", "log_likelihood"))
    common = questions["common"]
    rows = [["", "A", "B", "only A right", "only B right", "p (exact McNemar)"]]
    for name in ("acc", "acc_norm"):
        paired = comparison[name]
        accuracies = [Totals(questions=common, correct=paired[f"{run}_right"]).accuracy() for run in "ab"]
        p = told(paired["p"], ".3g", "not tested: no question that one run alone has right")
        rows.append([name, *accuracies, str(paired["only_a_right"]), str(paired["only_b_right"]), p])
    whose = "" if log_likelihood["example_id"] is None else f" (example_id {log_likelihood['example_id']} of A)"
    lines = [
        f"A  {_run_text(a)}",
        f"B  {_run_text(b)}",
        *(note for run in (a, b) for note in run.get("notes", ())),
        "",
        f"questions       {common} scored by both (all figures are over these), "
        f"{questions['scored_only_by_a']} only by A, {questions['scored_only_by_b']} only by B",
        *([f"goals           {goals}"] if (goals := told_goals(comparison["goals"])) else []),
        f"same choice     {comparison['same_choice'] / common:.2%} of the questions",
        f"log-likelihood  differs by {log_likelihood['mean_difference']:.3g} on average, by "
        f"{log_likelihood['largest_difference']:.3g} at most{whose}",
        *told_margins(comparison["margins"]),
        "",
        *aligned(rows),
    ]
    if comparison["layers"]:
        of = "" if comparison["reading"] == "final" else f" of reading {comparison['reading']}"
        of += "" if comparison["dictionary"] == FIRST else f" of dictionary {comparison['dictionary']}"
        rows = [["layer", f"same features{of} (mean Jaccard)", "largest difference of a shared feature's activation"]]
        for layer, overlap in comparison["layers"].items():
            jaccard = told(overlap["mean_jaccard"], ".4f", "neither run lists any")
            rows.append([layer, jaccard, told(overlap["largest_activation_difference"], ".3g", "none is shared")])
        lines += ["", *aligned(rows)]
    if rows := rows_of_text(comparison["attributions"]):
        title = "attributions: rank correlation of what both list [95 %, by goal], and how much that is (mean Jaccard)"
        lines += ["", title, *aligned(rows)]
    lines += [f"layer {layer}: not compared, {reason}" for layer, reason in comparison["layers_left_out"].items()]
    if differing := comparison["settings_that_differ"]:
        lines += ["", "settings (was: A, is: B)", *(f"  {text}" for text in differing)]
    return "\n".join(lines)


def _about(run: Run, totals: Totals) -> Json:
    said = {
        "file": utf8(f"{run.path}{run.others}"),
        "model": run.manifest.model,
        "scored": totals.scored,
        "errors": totals.errors,
    }
    return {**said, **({"notes": run.notes} if run.notes else {})}


def _index(run: Run) -> tuple[Totals, dict[bytes, list[_Place]]]:
    """The totals of a run, and where the lines of each scored question are: about 300 bytes a question."""
    totals, places = Totals(), defaultdict[bytes, list[_Place]](list)
    for place, record in _placed(run):
        totals.add_record(record)
        if isinstance(record, Record):
            places[_key(record)].append(place)
    return totals, places


def _placed(run: Run) -> Iterator[tuple[_Place, Record | Unscored]]:
    for part in run.parts:
        begins, number = -1, 0
        for _, record in shown(part.records(), part):
            begins, number = part.stretch_begins, number + 1 if part.stretch_begins == begins else 0
            yield (part.path, begins, number), record


def _by_place(record: Record) -> dict[int, SolutionDetails | OtherSolution]:
    """A question's solutions by their place in the question file; of two, the right one and the other."""
    return dict(enumerate(record.in_order if record.more else record.solutions))


def _key(record: Record) -> bytes:
    """The same for the same question, whether or not its solutions were stripped.

    Of two solutions in whichever order; of more in the order of the file, for which one is the strongest wrong one
    differs from run to run.
    """
    solutions = record.in_order if record.more else record.solutions
    texts = [record.question, *(solution.text.strip() for solution in solutions)]
    texts += [str(record.label)] if record.more else []
    return blake2b(orjson.dumps(texts), digest_size=16).digest()


def _record_at(place: _Place, lines: LinesByPlace, key: bytes) -> Record:
    try:
        record = parse_held(lines.line(*place))
    except NotARecordError:
        record = None
    if not isinstance(record, Record) or _key(record) != key:
        raise LayerscopeError(f"{place[0]} was replaced while it was read. Run the same command again.")
    return record


def _run_text(run: Json) -> str:
    return f"{run['file']}  (model: {run['model']}; {run['scored']} questions scored, {run['errors']} with an error)"
