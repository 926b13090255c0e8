"""What the page says of questions with more than two solutions."""

from layerscope.analysis.proportion import ManySolutions
from layerscope.formatting import count_of
from layerscope.report.sentences import interval, percent


def many_solutions(questions: int, many: ManySolutions) -> str:
    """Which contrast the page is about, what chance is, and the other contrast, by likelihood alone."""
    whom = (
        "All questions" if many.questions == questions else f"{many.questions:,} of {count_of(questions, 'question')}"
    )
    return (
        f"{whom} have more than two solutions, up to {many.most}. “The wrong solution” is the strongest wrong one "
        f"everywhere on this page, which the model itself chose: margins, features, lengths and baselines are of right "
        f"against that one. Accuracy counts all solutions, and guessing would be right in {percent(many.chance)}. "
        f"Another contrast, which is in no other number here: against the mean of the wrong ones the right solution "
        f"has the higher log-likelihood in {percent(many.above_mean.share)} of the questions "
        f"(95 %: {interval(many.above_mean)}), by {many.median_margin_to_mean:.1f} nats in the median."
    )
