"""Method and limits of the analysis: the text that a report prints, a point a line."""

READ_AT = {
    "final": "at the solution’s final token",
    "last-word": "at the solution’s last token with a letter or a digit in it",
    "max": "at any of the solution’s tokens",
    "prompt": "at the last token before the solution",
}
"""Where a feature is looked for, by reading."""

_READINGS = {
    "final": "Final token only: features are read where a solution ends. Many pairs end in the same token, often a "
    "full stop, which may say little about what came before; what happens at the other tokens is not seen.",
    "last-word": "Last word only: features are read at the solution's last token with a letter or a digit in it (the "
    "final one where none has any); what happens at the other tokens is not seen.",
    "max": "Strongest of all tokens: of each feature the largest activation over the solution's tokens. The longer a "
    "solution, the more tokens a feature has to fire at: see accuracy by length, and read effects beside it.",
    "prompt": "Prompt only, a control: features are read at the last token before the solution, which is the same for "
    "both solutions, so there must be no difference at all.",
}


def method(reading: str, attributed: bool = False, against_mean: bool = False) -> tuple[str, ...]:
    """Method and limits for one of the readings.

    Args:
        attributed: whether the run has attributions.
        against_mean: whether the right solution is held against the mean of the wrong ones, too.
    """
    more = (*(_AGAINST_MEAN if against_mean else ()), *(_CAUSES if attributed else ()))
    return (_READINGS[reading], *_METHOD, *more, _CORRELATION)


_METHOD: tuple[str, ...] = (
    "Two contrasts, never mixed: right against wrong (by label), and chosen against rejected (by the sum of "
    "log-likelihoods; a tie goes to sol1). They differ only in the questions that the model gets wrong, so the "
    "more accurate the model, the more alike they are.",
    "Lists cut at k: what a cut list does not show is unknown, not zero. So both solutions of a question are "
    "compared above one limit, the larger of the smallest activations in their cut lists (0 if neither is cut): "
    "above it nothing is hidden on either side. To fire means, here, to be above that limit. Nothing is imputed.",
    "Firing: McNemar's exact test on the discordant pairs, in which a feature fires for one solution alone. The "
    "effect is log((b + 1/2) / (c + 1/2)).",
    "Magnitude: Wilcoxon's signed-rank test on the pairs in which a feature fires for both solutions, so that "
    "both activations are known. Equal activations are left out, ties share their mean rank, p is the normal "
    "approximation; the effect is d_z. Pairs in which one side is silent belong to the firing test alone. "
    "Magnitudes of different layers do not compare.",
    "Goal groups: questions whose goals are equal but for case, digits, punctuation and white space repeat each "
    "other, so a group counts once. Its pairs' signs are added up and give one vote (firing), their differences are "
    "averaged (magnitude), label flips turn it whole, and held-out scores weigh it as one. The interval of an "
    "accuracy is that of so many questions as there would be if a group were always right or wrong as a whole.",
    "Many tests: Benjamini-Hochberg's q is over every layer x feature with enough pairs, per contrast and per "
    "test. A finding is selected on one half of the questions and confirmed on the other (q among the selected, "
    "and the same sign). The halves are split by a hash of the goal, and a goal group stays together. "
    "Read effects from the validation half, which the selection did not see.",
    "Neighbouring layers repeat each other: findings are not independent, and their number is no number of "
    "causes. The check that respects this flips labels, a goal group in all layers at once, and compares with "
    "the largest |z| of every flip.",
    "Baselines are learnt and chosen on the discovery half, by folds of goal groups, and measured on the other, with "
    "95 % intervals from 1,000 draws of goal groups that all of them share. Their AUROC is that of differences within "
    "a question. A probe that does well shows that a layer can be read so, not that the model reads it so.",
    "Random dictionary, where there is one: of every feature there is one in a random direction instead, with the "
    "threshold at which it fires at as many solutions (of those at hand, or of a sample before the run). Random "
    "features are selected and scored on the same halves; what they reach as well is no merit of the SAEs.",
    "Strata run the same procedure on fewer pairs, with less power: a feature that is not confirmed there need "
    "not be an artefact. Density counts the lists that name a feature, a lower bound where lists are cut.",
)
_CORRELATION = (
    "Firing and strength are correlation only: a feature that fires with the right solution need not make the model "
    "prefer it, and the two solutions differ in length, wording and final token too. Whether it matters to the model "
    "is another question: see Causes."
)
_AGAINST_MEAN: tuple[str, ...] = (
    "Against the mean of the wrong ones: a contrast of its own, which no other number here has anything of. All "
    "solutions of a question are compared above one limit. If a feature that fires for m of k solutions had nothing to "
    "do with which is right, the right one would be among them in m of k cases (firing: the exact distribution; "
    "effect: Mantel and Haenszel’s log-odds, with 1/2 added to either side). Strength is the rank of the right one "
    "among the solutions that it fires for, weighted by the rank of their range (Quade); its effect is d_z of the "
    "right one less the mean of the wrong ones. Of a goal group the first question that tells counts. Labels are not "
    "flipped, and there are no strata.",
)
_CAUSES: tuple[str, ...] = (
    "Causes: a feature’s effect on a question is the sum of its attributions over the solutions’ tokens, of the "
    "first order: soft-caps and softmaxes saturate, and what makes up for a feature is not seen. The discovery half "
    "chooses the features with the largest effects, without their signs, and the surest of those that separate; on the "
    "other half their means are tested by Wilcoxon’s signed-rank test over goal groups, with q over all that were "
    "chosen, and 95 % intervals from 1,000 draws of goal groups. What a cut list leaves out counts as 0.",
)
