"""What there is to say before any feature: the run, its accuracy, and accuracy by difference in length."""

import numpy as np

from layerscope.analysis.columns.reading import Columns
from layerscope.analysis.header import Header, Sae
from layerscope.analysis.result import LengthBin, Questions
from layerscope.analysis.testing.statistics import proportion
from layerscope.records.reading.shards import without_batches

_LENGTH_BINS = 5


def header(run: Columns, cut_share: float) -> Header:
    """What was run, and how far it is."""
    identity, about, totals = run.manifest.identity, run.manifest.about, run.totals
    top_k = identity.settings.top_k
    margin = run.questions.margin
    return Header(
        file=run.file,
        written=run.written,
        command=about.command,
        model=run.manifest.model,
        model_commit=identity.model.commit,
        sae_repository=run.manifest.saes,
        sae_commit=identity.saes.commit,
        site=identity.settings.site,
        saes=tuple(_sae(run, layer) for layer in run.layers),
        d_sae=about.d_sae,
        top_k=None if top_k == "all" else top_k,
        readings=run.manifest.readings,
        unnoted=run.unnoted,
        standin=about.standin,
        planned=identity.plan.questions,
        empty=without_batches(run.manifest),
        questions=totals.scored,
        errors=totals.errors,
        accuracy=proportion(run.questions.correct, run.questions.group),
        accuracy_per_character=proportion(run.questions.correct_per_character, run.questions.group),
        median_margin=float(np.median(margin)) if len(margin) else float("nan"),
        cut_share=cut_share,
        many=run.many,
    )


def _sae(run: Columns, layer: int) -> Sae:
    identity, about = run.manifest.identity, run.manifest.about
    return Sae(
        layer=layer,
        path=identity.saes.layers[layer].path,
        average_l0=about.average_l0[layer],
        neuronpedia_id=about.neuronpedia[layer],
        # Asked for by that name, or by a number that happens to be its average L0.
        canonical=bool(run.unnoted) or identity.settings.sae_l0 == "canonical" or about.neuronpedia[layer] is not None,
    )


def length_bins(questions: Questions) -> tuple[LengthBin, ...]:
    """Accuracy by quantiles of the difference in length, in tokens; bins that would be empty are left out."""
    difference = questions.positive_tokens - questions.negative_tokens
    if not len(difference):
        return ()
    edges = np.unique(np.quantile(difference, np.linspace(0, 1, _LENGTH_BINS + 1)[1:-1], method="lower"))
    bin_of = np.searchsorted(edges, difference)  # a bin ends with its edge
    return tuple(
        LengthBin(
            low=int(difference[bin_of == number].min()),
            high=int(difference[bin_of == number].max()),
            accuracy=proportion(questions.correct[bin_of == number], questions.group[bin_of == number]),
        )
        for number in np.unique(bin_of)
    )
