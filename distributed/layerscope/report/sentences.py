"""What the numbers say, in words: titles, answers, warnings. Every sentence is computed; nothing is drawn here."""

import math
from collections.abc import Iterator

import numpy as np

from layerscope.analysis.header import Header
from layerscope.analysis.proportion import Proportion
from layerscope.analysis.result import Analysis, Contrast, LengthBin
from layerscope.analysis.stratum import Stratum
from layerscope.formatting import count_of, ranges
from layerscope.report.depth_said import auroc_interval, with_depth
from layerscope.report.readings_said import control_verdict
from layerscope.report.untested import (
    confirmed_in,
    is_untested,
    partly_untested,
    seen_without_halves,
    why_untested,
)


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
        return f"Nothing to know: this {header.empty}." if header.empty else "Not known yet: no question is scored."
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
        return "No question is scored yet, so there is nothing to compare."
    if analysis.options.reading == "prompt":
        return "The control: nothing can tell the solutions apart before they begin, and nothing does"
    tested, confirmed = contrast.firing_by_layer.selectable, contrast.firing_by_layer.confirmed
    total, with_any = int(confirmed.sum()), int((confirmed > 0).sum())
    layers = len(analysis.layers.layer)
    if why := why_untested(analysis, contrast):
        return f"Too few questions to tell: {why}.{seen_without_halves(contrast)}"
    if not total:
        stronger = _stronger(contrast)
        return (
            f"No difference {'in what fires' if stronger else 'found'}: of {count_of(int(tested.sum()), 'feature')} "
            f"tested in {count_of(layers, 'layer')}, none is confirmed to fire more often for the {contrast.first} "
            f"solution or for the {contrast.second} one."
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
        return (
            f"{told}; {percent(agree[tested].mean(), 0)} of those tested point the same way on the other half, and "
            f"chance alone gives about 50 %"
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


def accuracy_title(header: Header) -> str:
    if not header.questions:
        return "No question is scored yet"
    above, below = header.accuracy.low > header.chance, header.accuracy.high < header.chance
    versus = "better than chance" if above else "worse than chance" if below else ""
    # Chance is inside the interval, which says that there are too few questions, and not that there is no difference.
    versus = versus or f"too few questions ({header.questions:,}) to tell that from chance"
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
        return "No margins yet"
    low, high = np.quantile(margin, [0.25, 0.75])
    wrong = int((~analysis.questions.correct).sum())
    return (
        f"Half of the margins lie between {number(low, 1)} and {number(high, 1)} nats; "
        f"for {count_of(wrong, 'question')} the wrong solution is preferred"
    )


def length_title(bins: tuple[LengthBin, ...]) -> str:
    if not bins:
        return "No question is scored yet, so length is not known to matter or not"
    if len(bins) < 2:
        return "All questions have about the same difference in length, so whether it matters cannot be told"
    first, last = bins[0].accuracy, bins[-1].accuracy
    shares = (
        f"accuracy is {percent(first.share, 0)} where the right solution is shortest against the wrong one, "
        f"{percent(last.share, 0)} where it is longest"
    )
    apart = first.low > last.high or last.low > first.high
    return f"Length {'sways the model' if apart else 'is not shown to sway the model'}: {shares}"


def strata_title(contrast: Contrast) -> str:
    confirmed = int(contrast.firing.confirmed.sum())
    if is_untested(contrast):
        return f"{contrast.name.capitalize()}: nothing could be confirmed for want of pairs, so nothing is tried again"
    if not confirmed:
        return f"{contrast.name.capitalize()}: nothing is confirmed, so there is nothing to try again"
    survive = {stratum.name: _survive(stratum, confirmed) for stratum in contrast.strata}
    return (
        f"{contrast.name.capitalize()}: of {count_of(confirmed, 'feature')} confirmed to fire more often, "
        f"{survive['same final token']} where both solutions end in the same token, "
        f"{survive['full stop']} where both end in a full stop, "
        f"{survive['without dense features']} without dense features"
    )


def _survive(stratum: Stratum, confirmed: int) -> str:
    tested = confirmed - stratum.firing.untested
    if not tested:
        return "none could be tested"
    kept = stratum.firing.kept
    return f"{kept:,}{'' if tested == confirmed else f' of {tested:,} tested'} {'survives' if kept == 1 else 'survive'}"


STRATA = {
    "same final token": "both solutions end in the same token",
    "full stop": "both solutions end in a full stop",
    "lists not cut": "neither list is cut at k",
    "without dense features": "features in more than 10 % of lists left out",
}
"""What a stratum is, by its name."""
