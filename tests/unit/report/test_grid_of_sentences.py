# ruff: noqa: E501 - a pattern is as long as its sentence
"""Every sentence that a page or a summary says, over a grid of runs: its numbers are the result's, and no two disagree.

A sentence is known by its pattern here, which takes its numbers apart; one that fits none fails, so that whoever writes
a new one says what its numbers have to be.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import layerscope
from grid_of_runs import GRID
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Analysis, Contrast, Options
from layerscope.records.effects import Beside
from layerscope.report.words import (
    baselines_said,
    causes_said,
    depth_said,
    many_said,
    readings_said,
    sentences,
    strata_said,
)

Said = tuple[str, Contrast | None]
"""A sentence, and the contrast that it is of, if it is of one."""
Found = Callable[[Analysis, Any], object]
_N = r"([\d,]+)"
_P = r"(\d+(?:\.\d+)?) %"
_Z = r"(−?[\d,]+(?:\.\d+)?)"


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def signed(value: float, digits: int) -> str:
    told = f"{value:,.{digits}f}"
    return told.replace("-", "−") if float(told.replace(",", "")) else told.lstrip("-")


def layers_with(contrast: Contrast) -> int:
    return int((contrast.firing_by_layer.confirmed > 0).sum())


def tied(analysis: Analysis) -> int:
    return int((analysis.questions.margin == 0).sum())


def agreeing(contrast: Contrast) -> tuple[int, int]:
    firing = contrast.firing
    z, other = firing.discovery.z, firing.validation.z
    tested = firing.selectable & (z != 0) & (other != 0)
    return int(tested.sum()), int((np.sign(z) == np.sign(other))[tested].sum())


def same_way(contrast: Contrast) -> int:
    firing = contrast.firing
    return int((firing.selected & (np.sign(firing.validation.z) == np.sign(firing.discovery.z))).sum())


def best(contrast: Contrast) -> int:
    return int(np.nanargmax(np.round(contrast.held_out.auroc, 2)))


def quartiles(analysis: Analysis) -> list[str]:
    return [signed(value, 1) for value in np.quantile(analysis.questions.margin, [0.25, 0.75])]


def of_confirmed(contrast: Contrast) -> list[int]:
    up = int((contrast.firing.confirmed & (contrast.firing.validation.z > 0)).sum())
    total = int(contrast.firing.confirmed.sum())
    return [up, total - up]


def survivors(contrast: Contrast, name: str) -> int:
    """Of the features that fire more often; of those that are stronger, where none does."""
    stratum = next(stratum for stratum in contrast.strata if stratum.name == name)
    return (stratum.firing if contrast.firing.confirmed.any() else stratum.magnitude).kept


def _answer(analysis: Analysis, contrast: Contrast) -> list[object]:
    layers = [layers_with(contrast), len(analysis.layers.layer)] if len(analysis.layers.layer) > 1 else []
    return [int(contrast.firing.confirmed.sum()), *layers, *of_confirmed(contrast)]


_TELL = r"tells? (?:right|chosen) from (?:wrong|rejected): "
_ONE_LAYER = r"in layer \d+"
OF_CONTRAST: dict[str, Found] = {
    rf"{_N} features? in {_N} of {_N} layers {_TELL}{_N} fires? more often for the \w+ solution, {_N} for the \w+ one\b": (
        _answer
    ),
    rf"{_N} features? {_ONE_LAYER} {_TELL}{_N} fires? more often for the \w+ solution, {_N} for the \w+ one\b": _answer,
    rf"their held-out AUROC in layer {_N} is {_Z}": lambda a, c: [
        a.layers.layer[best(c)],
        f"{c.held_out.auroc[best(c)]:.2f}",
    ],
    rf"best in layers? [\d, ]+ with a held-out AUROC of {_Z}": lambda _, c: [f"{np.nanmax(c.held_out.auroc):.2f}"],
    r"the deeper the layer, the (?:better|less) they do so, ": lambda *_: [],
    r"they do so (?=best)": lambda *_: [],
    rf"AUROC {_Z} \(95 %: {_Z} to {_Z}, from 1,000 draws of the goals\) means: layer {_N} selected {_N} features? on one "
    rf"half of the questions\. Shown any \w+ solution and any \w+ one of the other {_N} questions?, (?:it|they) "
    rf"speaks? for the \w+ one in {_N} % of cases, a tie counting half; chance gives 50 %\.": lambda a, c: [
        f"{c.held_out.auroc[best(c)]:.2f}",
        f"{c.held_out.auroc_low[best(c)]:.2f}",
        f"{c.held_out.auroc_high[best(c)]:.2f}",
        a.layers.layer[best(c)],
        c.held_out.features[best(c)],
        a.header.questions - int(a.questions.discovery.sum()),
        f"{100 * c.held_out.auroc[best(c)]:.0f}",
    ],
    rf"No difference (?:found|in what fires): of {_N} features? in {_N} layers? with enough pairs on the half of the "
    rf"questions that selects, none is confirmed on the other to fire more often for the \w+ solution or for the \w+ one\.": lambda a, c: [
        int(c.firing_by_layer.selectable.sum()),
        len(a.layers.layer),
    ],
    rf"{_N} features? that may fire on both (?:is|are) stronger on one\.": lambda _, c: [
        int(c.magnitude.confirmed.sum())
    ],
    rf"Not tested: {_N} layers? without a feature that has enough pairs": lambda _, c: [
        int((c.firing_by_layer.selectable == 0).sum())
    ],
    rf"(?:Not tested: | and ){_N} selected features? with too few pairs to be confirmed": lambda _, c: [
        int((c.firing.selected & ~c.firing.confirmable).sum())
    ],
    rf"no feature has {_N} pairs of solutions in which it fires for one alone\b": lambda a, _: [a.options.min_pairs],
    rf"no (?:selected )?feature has {_N} pairs in which it fires for one solution alone on the half of the questions that "
    rf"selects, which has (none|{_N} questions?)": lambda a, _: [
        a.options.min_pairs,
        None,
        int(a.questions.discovery.sum()),
    ],
    rf"no selected feature has {_N} pairs in which it fires for one solution alone on the half of the questions that "
    rf"confirms, which has {_N} questions?": lambda a, _: [a.options.min_pairs, int((~a.questions.discovery).sum())],
    rf"Over all questions together {_N} features? (?:is|are) significant, which no other half confirms\.": lambda _, c: [
        int(c.firing_by_layer.significant.sum())
    ],
    rf"{_N} features? pass(?:es)? on one half of the questions; on the other half {_N} points? the same way and {_N} "
    rf"(?:is|are) confirmed": lambda _, c: [int(c.firing.selected.sum()), same_way(c), int(c.firing.confirmed.sum())],
    rf"{_N} features? pass(?:es)? on one half of the questions, and the other half has too few pairs to test (?:it|them)": (
        lambda _, c: [int(c.firing.selected.sum())]
    ),
    rf"No feature passes on one half of the questions; of {_N} tested on both halves {_N} points? the same way, where "
    r"chance alone gives about half": lambda _, c: list(agreeing(c)),
    r"No feature has enough pairs on the discovery half to be tested": lambda *_: [],
    rf"\w+ vs \w+: of {_N} features? confirmed to fire more often, ": lambda _, c: [int(c.firing.confirmed.sum())],
    rf"\w+ vs \w+: of {_N} features? confirmed to be stronger on one side, ": lambda _, c: [
        int(c.magnitude.confirmed.sum())
    ],
    rf"{_N} survives? where both solutions end in the same token": lambda _, c: [survivors(c, "same final token")],
    rf", {_N} survives? where both end in a full stop": lambda _, c: [survivors(c, "full stop")],
    rf"{_N} of {_N} tested survives? where both (?:solutions )?end in (?:the same token|a full stop)": lambda *_: [
        None,
        None,
    ],
    r",? ?none could be tested where both (?:solutions )?end in (?:the same token|a full stop)": lambda *_: [],
    r", none could be tested without dense features": lambda *_: [],
    r"\w+ vs \w+: nothing could be confirmed for want of pairs, so nothing is tried again": lambda *_: [],
    r"\w+ vs \w+: nothing is confirmed, so there is nothing to try again": lambda *_: [],
    r"(?:Not known: |So far: )": lambda *_: [],
    r"no question (?:could be scored|is scored yet)\.?": lambda *_: [],
    r"Nothing to compare: ": lambda *_: [],
}
OF_RUN: dict[str, Found] = {
    r"(?:So far: )?(?:yes, )?": lambda *_: [],
    rf"in {_N} of {_N} layers?\. Between the solution that the model chooses and the one it rejects: ": lambda a, _: [
        layers_with(a.right_wrong),
        len(a.layers.layer),
    ],
    rf"in {_N} of {_N} layers?\.": lambda a, _: [layers_with(a.chosen_rejected), len(a.layers.layer)],
    rf"none found in {_N} layers?\. Between the solution that the model chooses and the one it rejects: ": lambda a, _: [
        len(a.layers.layer)
    ],
    rf"none found in {_N} layers?\.(?! Between)": lambda a, _: [len(a.layers.layer)],
    r"none found\.": lambda *_: [],
    rf"{_N} features? that may fire on both (?:is|are) stronger on one\.": lambda a, _: [
        int(a.right_wrong.magnitude.confirmed.sum())
    ],
    r"(?:N|n)ot known(?::|, because) ": lambda *_: [],
    rf"no (?:selected )?feature has {_N} pairs (?:of solutions )?in which it fires for one (?:solution )?alone\b": lambda a, _: [
        a.options.min_pairs
    ],
    rf" on the half of the questions that selects, which has {_N} questions?": lambda a, _: [
        int(a.questions.discovery.sum())
    ],
    rf" on the half of the questions that confirms, which has {_N} questions?": lambda a, _: [
        int((~a.questions.discovery).sum())
    ],
    rf"Over all questions together {_N} features? (?:is|are) significant, which no other half confirms\.": lambda a, _: [
        int(a.right_wrong.firing_by_layer.significant.sum())
    ],
    r"\. Between the solution that the model chooses and the one it rejects: ": lambda *_: [],
    r"(?:N|n)o question (?:could be scored|is scored yet)\.?": lambda *_: [],
    rf"Unfinished run: {_N} of {_N} questions\. Every number is of these alone; .*": lambda a, _: [
        a.header.questions + a.header.errors,
        a.header.planned,
    ],
    rf"{_N} questions? could not be scored and (?:is|are) left out\.": lambda a, _: [a.header.errors],
    rf"{_N} of {_N} questions? share a goal with another, .*: {_N} groups?, the largest of {_N}\. They .* as if there were "
    rf"{_N} questions?\.": lambda a, _: [
        int(a.questions.group_sizes[a.questions.group_sizes > 1].sum()),
        a.header.questions,
        int((a.questions.group_sizes > 1).sum()),
        int(a.questions.group_sizes.max()),
        len(a.questions.group_sizes),
    ],
    rf"Lists cut at {_N}: in {_P} of solution × layer cells .*": lambda a, _: [
        a.header.top_k,
        percent(a.header.cut_share),
    ],
    rf"In {_N} questions? both solutions have the same log-likelihood; .*": lambda a, _: [tied(a)],
    r"No manifest lies beside the file, so its records alone were read\. .*": lambda *_: [],
    rf"The model prefers the right solution in {_P} of questions: (?:better|worse) than chance": lambda a, _: [
        percent(a.header.accuracy.share)
    ],
    rf"The model prefers the right solution in {_P} of questions: too few questions \({_N}(?:, of {_N} goals)?\) to tell "
    r"that from chance": lambda a, found: [
        percent(a.header.accuracy.share),
        a.header.questions,
        found[2] and len(a.questions.group_sizes),
    ],
    rf"Accuracy: the share of questions .*; whoever guesses has {_N} %\.": lambda a, _: [percent(a.header.chance, 0)],
    rf"Half of the margins lie between {_Z} and {_Z} nats": lambda a, _: quartiles(a),
    rf"All margins are {_Z} nats": lambda a, _: [quartiles(a)[0]],
    rf"; for {_N} questions? the wrong solution is preferred": lambda a, _: [int((a.questions.margin < 0).sum())],
    rf", for {_N} questions? neither is": lambda a, _: [tied(a)],
    r"No margins: ": lambda *_: [],
    rf"Length (?:sways|is not shown to sway) the model: accuracy is {_N} % where .*, {_N} % where it is longest": lambda a, _: [
        percent(a.length_bins[0].accuracy.share, 0),
        percent(a.length_bins[-1].accuracy.share, 0),
    ],
    r"All questions have about the same difference in length, so whether it matters cannot be told": lambda *_: [],
    r"No question is scored, so length is not known to matter or not": lambda *_: [],
    r"Beside baselines: ": lambda *_: [],
    rf"either half of the questions needs {_N} goals that differ\.": lambda *_: [10],
    rf"probes on features (?:are not shown to )?tell right from wrong on the half that chose nothing \(AUROC {_Z}, 95 %: "
    rf"{_Z} to {_Z}; a probe on {_N} features? in layer {_N}\)": lambda a, _: _best_probe(a),
    r", (?:better than|and neither is anything else:) .*?(?=\. |\.$)": lambda *_: [],
    r", (?:so|but) they beat nothing that they are compared with": lambda *_: [],
    r"(?:\. W|, but w)hether they are better than .*? cannot be told": lambda *_: [],
    r"\.? [\w -]+ \([\d.]+\).*? alone (?:does|do) (?:better|as well)[^.]*": lambda *_: [],
    r"\. Not compared: .*": lambda *_: [],
    r"Not asked: this run has no attributions\. .*": lambda *_: [],
    rf"Of the {_N} features? to which one half of the questions attributes most of the margin, ": lambda a, _: [
        int(a.causes.chosen.by_attribution.sum())  # type: ignore[union-attr]
    ],
    rf"{_N} moves? it the same way on the other half\.": lambda a, _: [_moving(a)],
    r"none is shown to move it one way on the other half\.": lambda *_: [],
    r" (?:The one feature|Of [\d,]+ features) that separates? right from wrong.*": lambda *_: [],
    rf"(?:All|{_N} of {_N}) questions have more than two solutions, up to {_N}\. .* in {_P}\. .* in {_P} of the questions "
    rf"\(95 %: {_Z} to {_P}\), by {_Z} nats in the median\.": lambda a, found: [
        *(found[:2] if found[0] is None else (a.header.many.questions, a.header.questions)),  # type: ignore[union-attr]
        *_of_many(a),
    ],
    rf"{_N} features? in {_N} of {_N} layers? tells? the right solution from the mean of the wrong ones: {_N} fires? more "
    rf"often for the right one, {_N} for the wrong ones, best held-out AUROC {_Z}\.": lambda a, _: _against_mean(a),
    r"Features that tell right from wrong: .*": lambda *_: [],
    r"\. ?$": lambda *_: [],
}


def _best_probe(analysis: Analysis) -> list[object]:
    baseline = analysis.comparison.of(analysis.comparison.best)
    assert baseline is not None
    measured, chosen = baseline.measured, baseline.chosen
    numbers = (measured.auroc, measured.auroc_low, measured.auroc_high)
    return [
        *(f"{values[chosen]:.2f}" for values in numbers),
        int(analysis.comparison.best.split("-")[1]),
        analysis.layers.layer[chosen],
    ]


def _moving(analysis: Analysis) -> int:
    assert analysis.causes is not None
    chosen = analysis.causes.chosen
    assert chosen is not None
    return int((chosen.by_attribution & chosen.confirmed).sum())


def _of_many(analysis: Analysis) -> list[object]:
    many = analysis.header.many
    assert many is not None
    above = many.above_mean
    return [
        many.most,
        *(percent(value) for value in (many.chance, above.share, above.low, above.high)),
        f"{many.median_margin_to_mean:.1f}",
    ]


def _against_mean(analysis: Analysis) -> list[object]:
    mean = analysis.against_mean
    assert mean is not None
    up = int((mean.firing.confirmed & (mean.firing.validation.z > 0)).sum())
    total = int(mean.firing.confirmed.sum())
    with_any = int((mean.firing_by_layer.confirmed > 0).sum())
    return [total, with_any, len(analysis.layers.layer), up, total - up, f"{np.nanmax(mean.held_out.auroc):.2f}"]


@lru_cache
def grid(folder: Path, name: str) -> tuple[Path, Analysis]:
    path = folder / f"{list(GRID).index(name)}.jsonl"
    GRID[name](path)
    return path, analyse(path, Options(permutations=20))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grid")


def said(analysis: Analysis) -> Iterator[Said]:
    yield sentences.verdict(analysis), None
    yield from ((warning, None) for warning in sentences.warnings(analysis))
    yield baselines_said.compared(analysis), None
    yield sentences.accuracy_title(analysis.header, len(analysis.questions.group_sizes)), None
    yield sentences.accuracy_explained(analysis.header), None
    yield sentences.margin_title(analysis), None
    yield sentences.length_title(analysis.length_bins), None
    yield causes_said.causes_verdict(analysis, Beside()), None
    yield readings_said.beside_verdict([(analysis, analysis.right_wrong)], "final"), None
    if analysis.header.many is not None:
        yield many_said.many_solutions(analysis.header.questions, analysis.header.many), None
    if analysis.against_mean is not None:
        yield many_said.mean_title(analysis.against_mean), None
    for contrast in (analysis.right_wrong, analysis.chosen_rejected):
        yield sentences.answer(analysis, contrast), contrast
        yield depth_said.explained(analysis, contrast), contrast
        yield sentences.map_title(contrast), contrast
        yield strata_said.strata_title(contrast), contrast


def check_numbers(sentence: str, analysis: Analysis, contrast: Contrast | None) -> None:
    """Takes a sentence apart, pattern by pattern; whatever has a digit and fits none fails."""
    rest = sentence
    for pattern, expected in (OF_RUN if contrast is None else OF_CONTRAST).items():
        for match in list(re.finditer(pattern, rest)):
            if match[0] == "":
                continue
            wanted = expected(analysis, match.groups() if contrast is None else contrast)
            assert isinstance(wanted, list)
            for told, number in zip(match.groups(), wanted, strict=False):
                if told is not None and number is not None:
                    plain = told.replace(",", "") if isinstance(number, int | np.integer) else told
                    assert plain == str(number), (sentence, match[0], number)
            rest = rest.replace(match[0], " ", 1)
    assert not re.search(r"\d", rest), f"whose numbers nobody checked: {rest!r} of {sentence!r}"


OPPOSITES = [  # in one contrast, or of the run: at most one of each
    [r"\btells? (?:right|chosen) from", r"No difference", r"Not known: ", r"Nothing to compare"],
    [
        r"\d (?:is|are) confirmed",
        r"too few pairs to test",
        r"No feature passes",
        r"No feature has enough pairs",
    ],
    [
        r"confirmed to fire more often, ",
        r"confirmed to be stronger on one side, ",
        r"nothing is confirmed",
        r"nothing could be confirmed",
    ],
    [r"stronger on one\.", r"nothing is confirmed"],
    [r"the better they do so", r"the less they do so", r"no steady course", r"they do so alike"],
    [r"better than chance", r"worse than chance", r"too few questions"],
    [r"Length sways", r"not shown to sway", r"cannot be told", r"not known to matter"],
    [r"probes on features tell", r"probes on features are not shown", r"Beside baselines: not known"],
    [r"they beat nothing", r"[Ww]hether they are better than"],
    [r"is scored yet", r"could be scored", r"Half of the margins|All margins"],
]
"""Statements of which a page has one at most."""
FOLLOW = [
    (r"means: layer", r"AUROC (?:of|in layer \d+ is) \d"),
    (r"nothing is confirmed, so", r"No difference"),
    (r"nothing could be confirmed", r"Not known|Nothing to compare"),
    (r"confirmed to fire more often, ", r"\btells? (?:right|chosen) from"),
    (r"confirmed to be stronger on one side, ", r"stronger on one\."),
]
"""Where the one stands, the other does."""


@pytest.mark.parametrize("name", GRID)
def test_the_numbers_of_sentences_are_the_results(name: str, folder: Path) -> None:
    path, analysis = grid(folder, name)
    for sentence, contrast in said(analysis):
        check_numbers(sentence, analysis, contrast)
    summary = layerscope.load(path).summary
    header = analysis.header
    assert summary.lines()["accuracy by sum"] == sentences.percent(header.accuracy.share) + (
        f" (95 %: {sentences.interval(header.accuracy)})"
    )
    assert summary.lines()["questions"].startswith(f"{header.questions:,}")
    assert (summary.errors, summary.unnoted) == (header.errors, header.unnoted)
    assert f"{summary.median_margin:.3f}" == f"{header.median_margin:.3f}"


@pytest.mark.parametrize("name", GRID)
def test_opposite_statements_never_stand_together(name: str, folder: Path) -> None:
    _, analysis = grid(folder, name)
    pages: dict[str, str] = {}
    for sentence, contrast in said(analysis):
        of = "" if contrast is None else contrast.first
        pages[of] = f"{pages.get(of, '')} | {sentence}"
    for text in pages.values():
        for alternatives in OPPOSITES:
            found = [each for each in alternatives if re.search(each, text)]
            assert len(found) <= 1, (found, text)
        for one, other in FOLLOW:
            assert not re.search(one, text) or re.search(other, text), (one, text)
    verdict, answer = pages[""], pages["right"]
    assert ("yes, in" in verdict) == bool(re.search(r"tells? right from", answer))
    assert ("not known, because no" in verdict.split(" Between")[0]) == (
        "Not known: no" in answer and "scored" not in answer
    )


def test_a_number_that_is_another_is_seen(folder: Path) -> None:
    """The check itself can fail: every number of a sentence, made another, is found out."""
    _, analysis = grid(folder, "all layers")
    for sentence, contrast in said(analysis):
        if "Beside baselines" in sentence or "Not asked" in sentence:
            continue
        for match in re.finditer(r"(?<![\d.,])\d+(?:\.\d+)?(?![\d.]*\d)", sentence):
            other = f"{float(match[0]) + 1:.{len(match[0].partition('.')[2])}f}"
            if re.search(r"(?:95 %|1,000|50 %)", sentence[max(0, match.start() - 2) : match.end() + 4]):
                continue  # of the method, and no result
            if re.search(r"layers? [\d, ]*$", sentence[: match.start()]) and "best in" in sentence:
                continue  # a list of layers, which its own table of cases holds
            forged = sentence[: match.start()] + other + sentence[match.end() :]
            with pytest.raises(AssertionError):
                check_numbers(forged, analysis, contrast)


def test_of_several_readings_each_is_counted(folder: Path) -> None:
    path, final = grid(folder, "several readings")
    strongest = analyse(path, Options(permutations=20, reading="max"))
    reads = [(each, each.right_wrong) for each in (final, strongest)]
    count = int(strongest.right_wrong.firing.confirmed.sum())
    assert count > 0
    assert readings_said.readings_title(reads).endswith(f": {count:,} by max, not known by final")
    assert f"{count:,} by max" in readings_said.beside_verdict(reads, "final")
    stub: Any = SimpleNamespace(questions=final.header.questions, readings=("final", "max", "prompt"))
    assert f"in all of {final.header.questions:,} questions" in readings_said.control_passed(stub)
