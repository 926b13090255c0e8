"""What the numbers say, in words: titles, answers, warnings. Every sentence is computed; nothing is drawn here."""

import math
from collections.abc import Iterator

import numpy as np

from layerscope.analysis.header import Header
from layerscope.analysis.result import Analysis, Contrast, LengthBin
from layerscope.analysis.testing.proportion import Proportion
from layerscope.formatting import count_of, ranges
from layerscope.records.line.dictionaries import FIRST
from layerscope.report.words.depth_said import auroc_interval, with_depth
from layerscope.report.words.readings_said import control_verdict
from layerscope.report.words.untested import (
    confirmed_in,
    partly_untested,
    seen_without_halves,
    why_untested,
)


def none_scored(header: Header) -> str:
    """Why there is nothing to say, where no question is scored."""
    return "no question could be scored" if header.errors and header.finished else "no question is scored yet"


def percent(share: float, digits: int = 1) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign; a dash for what is not defined."""
    if math.isnan(value):
        return "–"
    rounded = f"{value:,.{digits}f}"
    return rounded.replace("-", "−") if float(rounded.replace(",", "")) else rounded.lstrip("-")


def odds(log_odds: float) -> str:
    """As people say it: 7.9:1, 1:2.0; a dash for what is not defined."""
    if math.isnan(log_odds):
        return "–"
    ratio = math.exp(min(abs(log_odds), 50))
    said = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
    return f"{said}:1" if log_odds >= 0 else f"1:{said}"


def interval(proportion: Proportion) -> str:
    return f"{percent(proportion.low)[:-2]} to {percent(proportion.high)}" if proportion.total else "no question scored"


def verdict(analysis: Analysis) -> str:
    """The answer to the page's question, in a line."""
    header = analysis.header
    if analysis.options.reading == "prompt":
        return control_verdict(header)
    if not header.questions:
        return f"Nothing to know: this {header.empty}." if header.empty else f"Not known: {none_scored(header)}."
    layers = len(analysis.layers.layer)
    found = [
        int((contrast.firing_by_layer.confirmed > 0).sum())
        for contrast in (analysis.right_wrong, analysis.chosen_rejected)
    ]
    untested = [why_untested(analysis, contrast) for contrast in (analysis.right_wrong, analysis.chosen_rejected)]
    so_far = "" if header.finished else "So far: "
    if header.standin:
        so_far = "For the stand-in, not for Gemma: "
    if all(untested):
        return f"{so_far}not known, because {untested[0]}.{seen_without_halves(analysis.right_wrong)}"
    if not any(found) and not any(untested):
        return f"{so_far}none found in {count_of(layers, 'layer')}.{_stronger(analysis.right_wrong)}"
    by_label, by_model = (
        f"{yes}in {count} of {count_of(layers, 'layer')}" if count else f"not known, because {why}" if why else none
        for yes, none, count, why in zip(
            ("yes, ", ""), (f"none found in {count_of(layers, 'layer')}", "none found"), found, untested, strict=True
        )
    )
    return f"{so_far}{by_label}. Between the solution that the model chooses and the one it rejects: {by_model}."


def answer(analysis: Analysis, contrast: Contrast) -> str:
    """Whether features tell the sides apart, and what depth does to that."""
    if not analysis.header.questions:
        return f"Nothing to compare: {none_scored(analysis.header)}."
    if analysis.options.reading == "prompt":
        return "The control: nothing can tell the solutions apart before they begin, and nothing does"
    tested, confirmed = contrast.firing_by_layer.selectable, contrast.firing_by_layer.confirmed
    total, with_any = int(confirmed.sum()), int((confirmed > 0).sum())
    layers = len(analysis.layers.layer)
    if why := why_untested(analysis, contrast):
        return f"Not known: {why}.{seen_without_halves(contrast)}"
    if not total:
        stronger = _stronger(contrast)
        return (
            f"No difference {'in what fires' if stronger else 'found'}: of {count_of(int(tested.sum()), 'feature')} "
            f"in {count_of(layers, 'layer')} with enough pairs on the half of the questions that selects, none is "
            f"confirmed on the other to fire more often for the {contrast.first} solution or for the "
            f"{contrast.second} one."
            f"{stronger}{partly_untested(contrast)}"
        )
    where = f"in {with_any} of {layers} layers" if layers > 1 else f"in layer {analysis.layers.layer[0]}"
    for_first = int((contrast.firing.confirmed & (contrast.firing.validation.z > 0)).sum())
    found = (
        f"{count_of(total, 'feature')} {where} {'tells' if total == 1 else 'tell'} {contrast.first} from "
        f"{contrast.second}: {for_first:,} {'fires' if for_first == 1 else 'fire'} more often for the {contrast.first} "
        f"solution, {total - for_first:,} for the {contrast.second} one"
    )
    return f"{found}{with_depth(analysis, contrast)}.{partly_untested(contrast)}"


def _stronger(contrast: Contrast) -> str:
    """What is confirmed of features that fire on both sides, for where nothing is of those that fire on one."""
    count = int(contrast.magnitude_by_layer.confirmed.sum())
    are = "is" if count == 1 else "are"
    return f" {count_of(count, 'feature')} that may fire on both {are} stronger on one." if count else ""


def said_of_layer(analysis: Analysis, contrast: Contrast, index: int) -> str:
    """One layer in a line."""
    firing, magnitude, held_out = contrast.firing_by_layer, contrast.magnitude_by_layer, contrast.held_out
    counts = [(confirmed_in(by_layer, index), by_layer.tested[index]) for by_layer in (firing, magnitude)]
    fires, differs = (
        f"{confirmed} confirmed, of {tested:,} tested" if confirmed != "–" else "not tested, for too few pairs"
        for confirmed, tested in counts
    )
    parts = [
        f"Layer {analysis.layers.layer[index]}: to fire for one solution more often {fires}; to differ in "
        f"strength {differs}"
    ]
    if not math.isnan(held_out.auroc[index]):
        bounds = auroc_interval(held_out, index)
        parts.append(f"held-out AUROC {held_out.auroc[index]:.2f}{f' (95 %: {bounds})' if bounds else ''}")
    return ", ".join([*parts, f"Jaccard {number(analysis.layers.jaccard[index])}"])


def map_title(contrast: Contrast) -> str:
    firing = contrast.firing
    selected, confirmed = int(firing.selected.sum()), int(firing.confirmed.sum())
    agree = np.sign(firing.validation.z) == np.sign(firing.discovery.z)
    if not firing.selectable.any():
        return "No feature has enough pairs on the discovery half to be tested"
    tested = firing.selectable & (firing.discovery.z != 0) & (firing.validation.z != 0)
    if not selected:
        told = "No feature passes on one half of the questions"
        if not tested.any():
            return f"{told}, and none of those tested has a pair on the other half that tells"
        same = int(agree[tested].sum())
        return (
            f"{told}; of {int(tested.sum()):,} tested on both halves {same:,} {'points' if same == 1 else 'point'} the "
            f"same way, where chance alone gives about half"
        )
    if not firing.confirmable.any():
        return (
            f"{count_of(selected, 'feature')} {'passes' if selected == 1 else 'pass'} on one half of the questions, "
            f"and the other half has too few pairs to test {'it' if selected == 1 else 'them'}"
        )
    same = int((firing.selected & agree).sum())
    return (
        f"{count_of(selected, 'feature')} {'passes' if selected == 1 else 'pass'} on one half of the questions; "
        f"on the other half {same:,} {'points' if same == 1 else 'point'} the same way and {confirmed:,} "
        f"{'is' if confirmed == 1 else 'are'} confirmed"
    )


def warnings(analysis: Analysis) -> Iterator[str]:
    """What a reader has to know before believing a number."""
    header = analysis.header
    if header.unnoted:
        yield header.unnoted
    if header.standin:
        yield "These are stand-in weights, small and trained on generated text. Nothing here says anything about Gemma."
    if not header.finished:
        done = header.questions + header.errors
        yield (
            f"Unfinished run: {done:,} of {count_of(header.planned, 'question')}. Every number is of these alone; they "
            f"are no random sample, because a run goes from long questions to short ones."
        )
    if header.errors:
        left_out = "is" if header.errors == 1 else "are"
        yield f"{count_of(header.errors, 'question')} could not be scored and {left_out} left out."
    if tied := int((analysis.questions.margin == 0).sum()):
        yield (
            f"In {count_of(tied, 'question')} both solutions have the same log-likelihood; the first of them counts as "
            f"the one that is chosen, which says nothing of the model."
        )
    if header.not_canonical:
        yield (
            f"Layers {ranges(header.not_canonical)}: not the canonical SAE. Its features have other numbers than those "
            f"on Neuronpedia's pages, so they are not linked."
        )
    if grouped := goal_groups(analysis):
        yield grouped
    if header.cut_share > 0:
        at, share = f" at {header.top_k}" if header.top_k else "", percent(header.cut_share)
        yield (
            f"Lists cut{at}: in {share} of solution × layer cells more features are active than are listed. "
            f"What is not listed there is unknown, and is not counted as silent."
        )


def run_name(analysis: Analysis) -> str:
    """Its file, and of a further dictionary which that is."""
    name = analysis.options.dictionary
    return analysis.header.file + ("" if name == FIRST else f", dictionary {name}")


def goal_groups(analysis: Analysis) -> str:
    """Which questions are no independent ones; empty where all are."""
    sizes = analysis.questions.group_sizes
    shared = sizes[sizes > 1]
    if not len(shared):
        return ""
    return (
        f"{int(shared.sum()):,} of {count_of(int(sizes.sum()), 'question')} share a goal with another, but for case, "
        f"digits, punctuation and spaces: {count_of(len(shared), 'group')}, the largest of {int(shared.max()):,}. They "
        f"repeat each other, so each group counts once in tests and intervals and stays in one half, as if there were "
        f"{count_of(len(sizes), 'question')}."
    )


def accuracy_title(header: Header, goals: int | None = None) -> str:
    """
    Args:
        goals: how many goal groups there are; as many as questions if None.
    """
    if not header.questions:
        return f"{none_scored(header).capitalize()}"
    above, below = header.accuracy.low > header.chance, header.accuracy.high < header.chance
    versus = "better than chance" if above else "worse than chance" if below else ""
    # Chance is inside the interval, which says that there are too few questions, and not that there is no difference.
    few = f"{header.questions:,}" if goals in (None, header.questions) else f"{header.questions:,}, of {goals:,} goals"
    versus = versus or f"too few questions ({few}) to tell that from chance"
    return f"The model prefers the right solution in {percent(header.accuracy.share)} of questions: {versus}"


def accuracy_explained(header: Header) -> str:
    """What the first numbers of the page are shares of."""
    against = "every wrong one" if header.many else "the wrong one"
    return (
        f"Accuracy: the share of questions whose right solution has a higher log-likelihood than {against}, summed "
        f"over its tokens, or divided by its characters; whoever guesses has {percent(header.chance, 0)}."
    )


def margin_title(analysis: Analysis) -> str:
    margin = analysis.questions.margin
    if not len(margin):
        return f"No margins: {none_scored(analysis.header)}"
    low, high = np.quantile(margin, [0.25, 0.75])
    where = (
        f"All margins are {number(low, 1)} nats"
        if np.ptp(margin) == 0
        else f"Half of the margins lie between {number(low, 1)} and {number(high, 1)} nats"
    )
    wrong = f"; for {count_of(int((margin < 0).sum()), 'question')} the wrong solution is preferred"
    tied = count_of(int((margin == 0).sum()), "question")
    return f"{where}{wrong}{'' if (margin != 0).all() else f', for {tied} neither is'}"


def length_title(bins: tuple[LengthBin, ...]) -> str:
    if not bins:
        return "No question is scored, so length is not known to matter or not"
    if len(bins) < 2:
        return "All questions have about the same difference in length, so whether it matters cannot be told"
    first, last = bins[0].accuracy, bins[-1].accuracy
    shares = (
        f"accuracy is {percent(first.share, 0)} where the right solution is shortest against the wrong one, "
        f"{percent(last.share, 0)} where it is longest"
    )
    apart = first.low > last.high or last.low > first.high
    return f"Length {'sways the model' if apart else 'is not shown to sway the model'}: {shares}"
