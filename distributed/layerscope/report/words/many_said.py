"""What the page says of questions with more than two solutions, and of each contrast which it is."""

import numpy as np

from layerscope.analysis.result import AgainstMean
from layerscope.analysis.testing.proportion import ManySolutions
from layerscope.formatting import count_of
from layerscope.report.words.sentences import interval, number, percent


def many_solutions(questions: int, many: ManySolutions) -> str:
    """Which contrast the page is about, what chance is, and the other contrast, by likelihood alone."""
    whom = (
        "All questions" if many.questions == questions else f"{many.questions:,} of {count_of(questions, 'question')}"
    )
    return (
        f"{whom} have more than two solutions, up to {many.most}. “The wrong solution” is the strongest wrong one "
        f"everywhere on this page but in the section Mean of wrong; which one that is the model itself chose. Margins, "
        f"features, lengths and baselines are of right against that one. Accuracy counts all solutions, and guessing "
        f"would be right in {percent(many.chance)}. Another contrast, of which nothing is in these numbers: "
        f"against the mean of the wrong ones the right solution "
        f"has the higher log-likelihood in {percent(many.above_mean.share)} of the questions "
        f"(95 %: {interval(many.above_mean)}), by {many.median_margin_to_mean:.1f} nats in the median."
    )


def without_features() -> str:
    """What is missing where a run has not the features of all solutions."""
    return (
        "Features are not held against the mean of the wrong ones: this run recorded those of the right solution and "
        "of the strongest wrong one alone. A run with --all-solutions records all."
    )


def mean_title(mean: AgainstMean) -> str:
    """Whether features tell the right solution from the wrong ones on average."""
    confirmed, layers = mean.firing_by_layer.confirmed, len(mean.firing_by_layer.confirmed)
    total, tested = int(confirmed.sum()), int(mean.firing_by_layer.selectable.sum())
    stronger = int(mean.strength_by_layer.confirmed.sum())
    more = (
        f" {count_of(stronger, 'feature')} {'differs' if stronger == 1 else 'differ'} in strength." if stronger else ""
    )
    if not tested:
        return f"Against the mean of the wrong ones not known: no feature has enough questions that tell.{more}"
    if not total:
        return (
            f"Against the mean of the wrong ones: of {count_of(tested, 'feature')} tested in "
            f"{count_of(layers, 'layer')}, none is confirmed to fire more often for the right solution or for the "
            f"wrong ones.{more}"
        )
    for_right = int((mean.firing.confirmed & (mean.firing.validation.z > 0)).sum())
    auroc = mean.held_out.auroc
    best = f", best held-out AUROC {number(float(np.nanmax(auroc)))}" if not np.isnan(auroc).all() else ""
    return (
        f"{count_of(total, 'feature')} in {int((confirmed > 0).sum())} of {count_of(layers, 'layer')} "
        f"{'tells' if total == 1 else 'tell'} the right solution from the mean of the wrong ones: {for_right:,} "
        f"{'fires' if for_right == 1 else 'fire'} more often for the right one, {total - for_right:,} for the wrong "
        f"ones{best}.{more}"
    )
