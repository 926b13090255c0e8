"""What a page of two runs says, in words."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from layerscope.analysis.testing.proportion import Proportion
from layerscope.analysis.testing.statistics import wilson
from layerscope.formatting import count_of, ranges
from layerscope.records.goals import told_goals
from layerscope.records.line.dictionaries import FIRST
from layerscope.report.sides import Side, Sides
from layerscope.report.words.sentences import number, percent
from layerscope.report.words.untested import is_untested

Json = dict[str, Any]
_LEVEL = 0.05


def accuracy(found: Json, measure: str, run: str) -> Proportion:
    """Of the questions that both scored, with an interval by goal group."""
    return wilson(found[measure][f"{run}_right"], found["questions"]["common"], found["goals"]["effective"])


def p_text(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.1e}".replace("e-0", "e-") if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def verdict(found: Json) -> str:
    """Which run is right more often, if that is shown."""
    acc, common = found["acc"], count_of(found["questions"]["common"], "question")
    shares = {run: percent(accuracy(found, "acc", run).share) for run in "ab"}
    alone = acc["only_a_right"] + acc["only_b_right"]
    if not alone:
        which = f"the same questions: {acc['a_right']:,}" if acc["a_right"] else "none"
        return f"Both are right in {which} of the {found['questions']['common']:,} that both scored, {shares['a']}."
    told = f"McNemar’s exact test: p = {p_text(acc['p'])}" if acc["p"] is not None else "not tested"
    ahead = acc["a_right"] - acc["b_right"]
    if not ahead:
        are = "question is" if alone == 1 else "questions are"
        return (
            f"Both are right in {shares['a']} of the {common} that both scored, but {alone:,} {are} right in one alone."
        )
    better, worse = ("A", "B") if ahead > 0 else ("B", "A")
    votes = (acc["goals_ahead"]["a"] - acc["goals_ahead"]["b"]) * ahead
    if acc["p"] is not None and acc["p"] <= _LEVEL and votes > 0:
        return (
            f"{better} is right more often: in {shares[better.lower()]} of the {common} that both scored, {worse} in "
            f"{shares[worse.lower()]} ({told})."
        )
    return (
        f"Neither is shown to be right more often: A in {shares['a']}, B in {shares['b']} of the {common} that both "
        f"scored ({told})."
    )


def warnings(found: Json, sides: Sides) -> Iterator[str]:
    """What to know before believing a number."""
    for side in sides.both:
        about, manifest = found[side.letter.lower()], side.run.manifest
        yield from (f"{side.letter}: {note}" for note in about.get("notes", ()))
        planned, done = manifest.identity.plan.questions, about["scored"] + about["errors"]
        if manifest.about.standin:
            yield f"{side.letter} is of stand-in weights, small ones: it says nothing about Gemma."
        if not side.run.unnoted and done < planned:
            yield f"{side.letter} is unfinished: {done:,} of {count_of(planned, 'question')}, the longest ones first."
        if about["errors"]:
            yield f"{side.letter}: {count_of(about['errors'], 'question')} could not be scored."
    only = [f"{found['questions'][f'scored_only_by_{run}']:,} by {run.upper()} alone" for run in "ab"]
    if any(found["questions"][f"scored_only_by_{run}"] for run in "ab"):
        yield (
            f"Questions are compared that both scored, by their texts: "
            f"{count_of(found['questions']['common'], 'question')}; {' and '.join(only)}."
        )
    if told := told_goals(found["goals"]):
        yield f"{told[:1].upper()}{told[1:]}, in the test and in the intervals."


def changed_title(found: Json) -> str:
    """How many answers are others."""
    a, b = (found["acc"][f"only_{run}_right"] for run in "ab")
    if not a + b:
        return "No question is answered rightly by one run alone"
    return f"{count_of(a + b, 'question')} changed: {a:,} right in A alone, {b:,} in B alone"


def likelihoods(found: Json) -> str:
    """How far the runs' numbers are apart."""
    of, whose = found["log_likelihood"], ""
    if of["example_id"] is not None:
        whose = f", in question {of['example_id']} of A"
    same = percent(found["same_choice"] / found["questions"]["common"], 1)
    margins = "; ".join(
        f"right − {name.replace('_', ' ')} {number(each['a'])} in A and {number(each['b'])} in B"
        for name, each in found["margins"].items()
    )
    return (
        f"Both choose alike, rightly or wrongly, in {same}. A solution’s log-likelihood differs by "
        f"{of['mean_difference']:.3g} nats on average, by {of['largest_difference']:.3g} at most{whose}. "
        f"Mean margin, nats: {margins}."
    )


def features_title(sides: Sides) -> str:
    """What the features of each find, and how much of it is the same."""
    told = " ".join(f"{_found(side)}." for side in sides.both)
    shared = [sides.shared(layer) for layer in sides.layers]
    if all(each is None for each in shared) or any(is_untested(side.found.contrast) for side in sides.both):
        return told
    same = sum(each or 0 for each in shared)
    if not any(side.confirmed for side in sides.both):
        return "Neither in A nor in B is a feature confirmed to tell right from wrong."
    are = "is" if same == 1 else "are"
    return f"{told} {same:,} {are} the same, {'of the layers' if None in shared else 'of layers'} with the same SAEs."


def _found(side: Side) -> str:
    by_layer = side.found.contrast.firing_by_layer
    if is_untested(side.found.contrast):
        return f"{side.letter} has too few pairs to tell"
    if not side.confirmed:
        return f"In {side.letter} no feature is confirmed to tell right from wrong"
    layers, of = int((by_layer.confirmed > 0).sum()), count_of(len(by_layer.confirmed), "layer")
    tell = "tells" if side.confirmed == 1 else "tell"
    return f"In {side.letter} {count_of(side.confirmed, 'feature')} in {layers:,} of {of} {tell} right from wrong"


def of_which_dictionaries(sides: Sides) -> str:
    """Those of the two runs, where either is a further one."""
    names = [side.dictionary for side in sides.both]
    if names == [FIRST, FIRST]:
        return ""
    if names[0] == names[1]:
        return f", of dictionary {names[0]}"
    return f", of dictionary {names[0]} in A and {names[1]} in B"


def of_which_questions(sides: Sides) -> str:
    """That a run with more questions finds more; empty where both have as many."""
    counts = [len(side.found.questions.margin) for side in sides.both]
    if counts[0] == counts[1]:
        return ""
    return (
        f"Each run’s features are tested over all questions that it scored, A’s over {counts[0]:,} and B’s over "
        f"{counts[1]:,}: whoever has more finds more."
    )


def left_out(found: Json) -> list[str]:
    """The layers whose features are not held side by side one by one, and why."""
    layers = defaultdict[str, list[int]](list)
    for layer, why in found["layers_left_out"].items():
        layers[why].append(int(layer))
    return [
        f"Layer{'' if len(of) == 1 else 's'} {ranges(of)}: features are not compared one by one, {why}."
        for why, of in layers.items()
    ]
