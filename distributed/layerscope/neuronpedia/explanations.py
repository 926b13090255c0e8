"""What Neuronpedia's explainers say of a run's features: fetched into a cache, looked up, written into the records.

Knows an SAE by the Neuronpedia id in the manifest; one without an id has no pages there, and its layer is left out.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import constants

from layerscope.errors import LayerscopeError, first_line
from layerscope.files import remove_leftovers, replacing
from layerscope.formatting import ranges, say
from layerscope.hub.cache import alone_with, cache_folder, make_room, touch
from layerscope.neuronpedia.annotating import annotate
from layerscope.neuronpedia.bulk_export import Export, Written
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.manifest.manifest import Manifest
from layerscope.records.reading.shards import as_seen_by, open_run
from layerscope.records.writing.targets import check_target

_Kind = Literal["explanations", "densities"]

_SCHEMAS: dict[_Kind, pa.Schema] = {
    "explanations": pa.schema([("feature_id", pa.int32()), ("description", pa.string()), ("explainer", pa.string())]),
    "densities": pa.schema([("feature_id", pa.int32()), ("density", pa.float64())]),
}


class Explanation(NamedTuple):
    """What is known of a feature."""

    description: str
    explainer: str
    """The model that wrote the description and, in brackets, the method."""
    density: float | None
    """Share of the tokens of Neuronpedia's texts on which the feature fires; None where that was not loaded."""


@dataclass(frozen=True)
class Explanations:
    """The explanations of a run's features, as far as the cache holds them."""

    by_layer: Mapping[int, Mapping[int, Explanation]]
    """By layer and feature id; a layer that the cache lacks has no key."""
    without_id: tuple[int, ...]
    """Layers whose SAE has no Neuronpedia id."""


def explain(
    file: Path, density: bool = False, to: Path | None = None, overwrite: bool = False, dictionary: str = FIRST
) -> str:
    """Fetches what the cache lacks, writes the annotated records to `to`, and says what there is; warns of the rest.

    Args:
        dictionary: whose features are explained, of a run with several.

    Raises:
        LayerscopeError: there are no explanations for any layer, or `to` cannot be written.
        UsageError: `file` is not the output file of a run, has no such dictionary, or `to` may not be written.
    """
    run = open_run(file)
    manifest = as_seen_by(run, dictionary).manifest
    if to is not None:
        to = check_target("--to", to, (run.path,), overwrite=overwrite)
        remove_leftovers(to)
    ids = _neuronpedia_ids(manifest)
    if not ids:
        of = "" if dictionary == FIRST else f" of dictionary {dictionary}"
        raise LayerscopeError(
            f"None of the SAEs{of} of {run.path} has pages on Neuronpedia, so nobody has explained its features.\n"
            "Canonical SAEs of Gemma Scope have them (--sae-l0 canonical, as is the default)."
        )
    for reason, layers in _fetch_missing(ids, ("explanations", "densities") if density else ("explanations",)).items():
        say(f"Warning: layers {ranges(layers)}: {reason}", sys.stderr)
    explanations = load_explanations(manifest)
    if not explanations.by_layer:
        raise LayerscopeError(f"No explanations for any layer of {run.path}, for the reasons above.")
    told = _describe(ids, explanations)
    return f"{told}\n{annotate(run, explanations.by_layer, to, dictionary)}" if to is not None else told


def load_explanations(manifest: Manifest) -> Explanations:
    """The explanations of a run's features that the cache holds; makes no request."""
    by_layer = {}
    for layer, neuronpedia_id in _neuronpedia_ids(manifest).items():
        written = _read_cached(neuronpedia_id, "explanations")
        if written is not None:
            density = dict(_read_cached(neuronpedia_id, "densities") or ())
            by_layer[layer] = {
                feature: Explanation(description, sys.intern(explainer), density.get(feature))
                for feature, description, explainer in written
            }
    layers = manifest.about.neuronpedia.items()
    return Explanations(by_layer, tuple(layer for layer, neuronpedia_id in layers if neuronpedia_id is None))


def choose_explanations(written: Sequence[Written]) -> list[tuple[int, str, str]]:
    """One explanation of each feature, as rows of feature id, description and explainer, by feature id.

    The explainer that describes most features of the SAE goes before the others, so that a layer speaks with one voice
    where it can; of several by the same one, the lowest id is taken. The order of the arguments decides nothing.
    """
    features = Counter(explainer for _, explainer in {(row.feature_id, row.explainer) for row in written})
    ranked = sorted(written, key=lambda row: (-features[row.explainer], *row[1:]), reverse=True)
    chosen = {row.feature_id: row for row in ranked}  # the last of a feature is the one that stays
    return [(feature, row.description, row.explainer) for feature, row in sorted(chosen.items())]


def _neuronpedia_ids(manifest: Manifest) -> dict[int, str]:
    """The Neuronpedia ids of the layers' SAEs that have one, by layer."""
    return {layer: name for layer, name in manifest.about.neuronpedia.items() if name is not None}


def _fetch_missing(ids: Mapping[int, str], kinds: Iterable[_Kind]) -> dict[str, list[int]]:
    """Fetches into the cache what it lacks; gives what went wrong, with the layers that are concerned."""
    problems: dict[str, list[int]] = {}
    with Export() as export:
        for kind in kinds:
            for layer, neuronpedia_id in ids.items():
                try:
                    _fetch(export, neuronpedia_id, kind)
                except (LayerscopeError, OSError) as error:
                    problems.setdefault(f"no {kind}: {first_line(error)}", []).append(layer)
    return problems


def _fetch(export: Export, neuronpedia_id: str, kind: _Kind) -> None:
    if _read_cached(neuronpedia_id, kind) is not None:
        return
    if constants.HF_HUB_OFFLINE:
        raise LayerscopeError("HF_HUB_OFFLINE is set, and the cache lacks them")
    path = _cache_path(neuronpedia_id, kind)
    with alone_with(path) as writable:
        if _read_cached(neuronpedia_id, kind) is not None:  # of several commands, one fetches
            return
        if not writable:
            raise LayerscopeError(f"{path.parent} cannot be written; set HF_HOME to a folder of your own")
        rows: list[Any]
        if kind == "explanations":
            rows = choose_explanations(export.explanations(neuronpedia_id))
        else:
            rows = sorted(set(export.densities(neuronpedia_id)))
        columns = list(zip(*rows, strict=True))
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns, schema=_SCHEMAS[kind]), temporary)
        make_room("neuronpedia")


def _cache_path(neuronpedia_id: str, kind: _Kind) -> Path:
    return cache_folder() / "neuronpedia" / neuronpedia_id / f"{kind}.parquet"


def _read_cached(neuronpedia_id: str, kind: _Kind) -> list[tuple[Any, ...]] | None:
    """The rows of a table in the cache; None where there is none, or none that can be read."""
    try:
        table = pq.read_table(_cache_path(neuronpedia_id, kind))
        touch(_cache_path(neuronpedia_id, kind))
    except (OSError, pa.ArrowException):
        return None
    if not table.schema.equals(_SCHEMAS[kind]):
        return None
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _describe(ids: Mapping[int, str], explanations: Explanations) -> str:
    lines, total = [], Counter[str]()
    for layer, neuronpedia_id in ids.items():
        features = explanations.by_layer.get(layer, {})
        explainers = Counter(found.explainer for found in features.values())
        dense = sum(found.density is not None for found in features.values())
        lines.append(
            f"layer {layer:>4}  {neuronpedia_id}: {_counts(explainers)}" + (f"; density of {dense:,}" if dense else "")
        )
        total += explainers
    if explanations.without_id:
        lines.append(f"left out    layers {ranges(explanations.without_id)}: their SAEs have no pages on Neuronpedia")
    return "\n".join([*lines, f"explainers  {_counts(total)}", f"cache       {cache_folder() / 'neuronpedia'}"])


def _counts(explainers: Counter[str]) -> str:
    """How many features each explainer describes, most first."""
    told = sorted(explainers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} by {explainer}" for explainer, count in told) or "nothing"
