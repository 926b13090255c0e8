"""What attributions and ablations come to, in words. Every sentence is computed; nothing is drawn here."""

import math

import numpy as np

from layerscope.analysis.causes.result import Causes, Chosen, Faces
from layerscope.analysis.result import Analysis
from layerscope.formatting import count_of
from layerscope.records.effects import AblationSummary, Beside
from layerscope.report.words.sentences import number

NOT_ASKED = (
    "Not asked: this run has no attributions. What separates the solutions need not matter to the model; a run with "
    "--attribution gradient says of every feature how far it moves the margin."
)
_PLACES = {
    "resid_post": "the residual stream after its layer",
    "mlp_out": "what its layer’s MLP adds",
    "attn_out": "what its layer’s attention projects",
    "transcoder": "the output that its transcoder stands for",
}
_UNTRIED = (
    "None of this was tried: an attribution is an estimate of the first order, and layerscope ablate takes features "
    "out."
)


def causes_verdict(analysis: Analysis, beside: Beside) -> str:
    """Whether what separates the solutions also moves the margin, in plain words, for the top of the section."""
    told, known = _attributed(analysis.causes, analysis.header.questions)
    if beside.ablations is not None:
        told = f"{told} {ablated(beside.ablations, separating(analysis))}"
    if beside.check is not None:
        told = f"{told} {_agreeing(beside.check)}"
    return f"{told} {_UNTRIED}" if known and beside == Beside() else told


def _attributed(causes: Causes | None, questions: int) -> tuple[str, bool]:
    """What attributions say, and whether they say anything of features."""
    if causes is None:
        return NOT_ASKED, False
    if not questions:
        return "Not known: no question is scored.", False
    if causes.why:
        return f"Not known, because {causes.why}.", False
    chosen = causes.chosen
    if chosen is None or not chosen.by_attribution.any():
        return "Nothing is attributed to any feature on the half of the questions that chooses.", False
    return f"{_of_the_largest(chosen)} {_of_those_that_separate(chosen, causes.separate)}", True


def _of_the_largest(chosen: Chosen) -> str:
    largest = int(chosen.by_attribution.sum())
    head = f"Of the {count_of(largest, 'feature')} to which one half of the questions attributes most of the margin"
    if np.isnan(chosen.q[chosen.by_attribution]).all():
        return f"{head}, none has enough questions on the other half to be tested."
    moving = int((chosen.by_attribution & chosen.confirmed).sum())
    if not moving:
        return f"{head}, none is shown to move it one way on the other half."
    return f"{head}, {moving:,} {'moves' if moving == 1 else 'move'} it the same way on the other half."


def _of_those_that_separate(chosen: Chosen, separate: int) -> str:
    if not separate:
        return "No feature is confirmed to separate right from wrong."
    moving = chosen.by_attribution & chosen.confirmed
    both = int((moving & chosen.separates).sum())
    if separate == 1:
        does = "" if both else "not "
        return f"The one feature that separates right from wrong is {does}shown to."
    told = "none is" if not both else "one is" if both == 1 else f"{both:,} are"
    which = f"among these {moving.sum():,}" if moving.sum() > 1 else "that one" if moving.any() else "shown to"
    return f"Of {separate:,} features that separate right from wrong, {told} {which}."


def separating(analysis: Analysis) -> set[tuple[int, int]]:
    """Layer and id of every feature that is confirmed to tell right from wrong."""
    contrast, features = analysis.right_wrong, analysis.features
    rows = np.flatnonzero(contrast.firing.confirmed | contrast.magnitude.confirmed)
    return set(zip(features.layer[rows].tolist(), features.feature_id[rows].tolist(), strict=True))


def ablated(ablations: AblationSummary, separate: set[tuple[int, int]]) -> str:
    """What exact ablation comes to, or adding instead."""
    effects = ablations.features
    if not effects:
        return "Nothing was taken out."
    beyond = [effect for effect in effects if effect.beyond_controls]
    what = "Taken out exactly" if ablations.steer is None else "Added"
    so_far = f" so far ({count_of(ablations.missing, 'line')} of the file are missing)" if ablations.missing else ""
    told = f"{what}{so_far}, {_moving(len(beyond), len(effects), 'feature')}"
    mine = [effect for effect in effects if (effect.layer, effect.feature_id) in separate]
    if not mine:
        return f"{told}; none of these is confirmed to separate right from wrong."
    both = sum(effect in beyond for effect in mine)
    return f"{told}; {_moving(both, len(mine), 'feature')[:1].lower()}{_moving(both, len(mine), 'that separates')[1:]}."


def _agreeing(check: AblationSummary) -> str:
    """How far attributions are to be trusted."""
    known = [each.rank_correlation for each in check.agreement or () if each.rank_correlation is not None]
    if not known and check.missing:
        return "How far attributions agree with exact ablation is not known yet: the file of the check is not finished."
    if not known:
        return "How far attributions agree with exact ablation is not known: too few features were tried."
    low, high = number(min(known)), number(max(known))
    between = f"of {low}" if low == high else f"between {low} and {high}, by layer"
    return (
        f"Attributions{' so far' if check.missing else ''} agree with exact ablation by a rank correlation {between}."
    )


def check_said(check: AblationSummary) -> str:
    """What the agreement of attributions with ablations is of."""
    rule = "by RelP’s rules" if check.rule == "relp" else "by the gradient"
    means = (
        " These attributions are against what features are on average, and what is taken out is all that they say: "
        "they are no estimates of it."
    )
    return (
        "Features of every layer were drawn by chance and taken out, one at a time, in every question. Of each "
        f"question and feature, what the margin loses beside its attribution ({rule}) over the solutions’ tokens: how "
        f"far both put them in the same order, as Spearman’s rank correlation.{means if check.against_means else ''}"
    )


def _moving(moving: int, of: int, what: str) -> str:
    """So many of so many change the margin more than their controls do."""
    named = {"feature": count_of(of, "feature"), "that separates": f"{of:,} that separate right from wrong"}[what]
    if of == 1:
        one = {"feature": "the one feature", "that separates": "the one that separates right from wrong"}[what]
        return f"{one} {'changes' if moving else 'is not shown to change'} the margin more than its controls do"
    said = "none is shown to change" if not moving else "one changes" if moving == 1 else f"{moving:,} change"
    return f"of {named}, {said} the margin more than {'its' if moving == 1 else 'their'} controls do"


def place(site: str) -> str:
    """What a feature is a part of: there the gradient is taken, and the feature taken out."""
    return _PLACES[site]


def depth_title(analysis: Analysis) -> str:
    """At which depth features have most of the margin."""
    assert analysis.causes is not None, "asked of a run with attributions"
    mass = analysis.causes.depth.mass[:, :3].sum(axis=1)
    if not mass.any():
        return "Nothing is attributed to any feature, in any layer"
    most = f"{number(float(mass.max()), 2)} nats of a question, without their signs"
    return f"Features have most of the margin in layer {analysis.layers.layer[np.argmax(mass)]}: {most}"


def faces_title(faces: Faces) -> str:
    """In how far what separates is what matters."""
    if math.isnan(faces.correlation):
        return "Too few features were tested to tell whether what separates more matters more"
    known = f"rank correlation {number(faces.correlation)} over {count_of(len(faces.mean), 'feature')}"
    if faces.correlation >= 0.5:
        return f"What separates more tends to matter more: {known}"
    if faces.correlation <= -0.2:
        return f"What separates more tends to matter less: {known}"
    return f"How well a feature separates says little of how much it matters: {known}"


def said_of_layer_of_causes(analysis: Analysis, index: int) -> str:
    """One layer in a line."""
    assert analysis.causes is not None, "asked of a run with attributions"
    depth = analysis.causes.depth
    features, bias, error, total, skip = depth.terms[index, :3].sum(axis=0)
    beside = f"beside the features {number(float(skip), 3)}, " if "skip" in depth.term_names else ""
    return (
        f"Layer {analysis.layers.layer[index]}, nats a question: features {number(float(features), 3)}, decoder’s bias "
        f"{number(float(bias), 3)}, SAE’s error {number(float(error), 3)}, {beside}together {number(float(total), 3)}; "
        f"without signs the listed features have {number(float(depth.mass[index, :3].sum()), 3)}"
    )
