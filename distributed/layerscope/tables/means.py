"""What each feature is on average over the tokens of a run's solutions: from its records to a file of means."""

from os import PathLike
from pathlib import Path

import numpy as np
from msgspec import UNSET

from layerscope.errors import UsageError
from layerscope.files import user_path
from layerscope.records.line.readings import PlacedFeature
from layerscope.records.line.record import Record
from layerscope.records.means import save_means
from layerscope.records.reading.shards import open_run
from layerscope.records.writing.targets import check_target
from layerscope.tables.reading import read_records


def write_means(path: str | PathLike[str], to: str | PathLike[str], overwrite: bool = False) -> Path:
    """Writes what every feature is on average, for `--attribution-baseline mean:FILE`; gives the file.

    The mean is over all tokens of both solutions of every question, as often as they are read, and counts 0 where a
    feature does not fire.

    Args:
        path: of the output file of a run with every activation at every token: `--readings final,max --top-k all
            --token-activations 1000000`. A sample of the questions is enough.
        to: an `.npz` file.

    Raises:
        UsageError: there is no such file, it has not every activation, holds no scored question, or `to` is there.
        LayerscopeError: a line is not a record.
    """
    run = open_run(user_path(path))
    target = check_target("to", user_path(to), inputs=[run.path], overwrite=overwrite)
    settings, layers, d_sae = run.manifest.identity.settings, run.manifest.about.layers, run.manifest.about.d_sae
    if "max" not in run.readings or settings.top_k != "all":
        raise UsageError(
            f"{run.path} has not every activation at every token, of which a mean is made.\n"
            "Run with --readings final,max --top-k all --token-activations 1000000, over a sample of the questions."
        )
    sums, tokens = {layer: np.zeros(d_sae) for layer in layers}, 0
    for _, record in read_records(run):
        for details in record.solutions if isinstance(record, Record) else ():
            tokens += details.token_count
            for layer, features in details.reading("max").active_features_by_layer.items():
                for feature in features:
                    sums[layer][feature.feature_id] += _sum_over_tokens(run.path, feature)
    if not tokens:
        raise UsageError(f"{run.path} holds no scored question yet, so there is nothing to take a mean of.")
    save_means(target, {layer: (of / tokens).astype(np.float32) for layer, of in sums.items()})
    return target


def _sum_over_tokens(path: Path, feature: object) -> float:
    if isinstance(feature, PlacedFeature) and feature.token_activations is not UNSET:
        return sum(feature.token_activations)
    raise UsageError(
        f"{path} has not every feature's activations at every token, of which a mean is made.\n"
        "Run with --token-activations 1000000, over a sample of the questions."
    )
