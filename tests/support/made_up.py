"""Runs that were never run: files as the actors and the driver make them, of scores and features that a test chose."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import serialise_block
from layerscope.records.line.lines import frame_record, join_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.identity import Identity, PackingName
from layerscope.records.manifest.manifest import About, manifest_path
from layerscope.records.writing.extent import Extent
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.packing import packing
from layerscope.saes.encoder import TopK

Features = Sequence[tuple[int, float]]
"""feature_id and activation, strongest first."""

Json = dict[str, Any]


class PlacedTopK(NamedTuple):
    """What an encoder finds over the tokens of solutions."""

    feature_ids: NDArray[np.int64]
    activations: NDArray[np.float32]
    starts: NDArray[np.int64]
    active_counts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    token_counts: NDArray[np.int64]
    by_token: NDArray[np.float32]
    by_token_starts: NDArray[np.int64]


def record_line(
    question: Question,
    scores: tuple[SolutionScore, SolutionScore],
    features: Mapping[int, tuple[Features, Features]],
    unlisted: int = 0,
    others: Mapping[str, Mapping[int, tuple[Features, Features]]] = {},
    by_token: int = 0,
) -> bytes:
    """The line of a scored question.

    Args:
        scores: of `sol1` and `sol2`.
        features: by layer, of `sol1` and `sol2`.
        unlisted: how many more features are active wherever any is.
        others: the same of other readings than `final`, by name, in the order of the record. Those of `max` are each
            strongest at the token that is its id modulo the solution's tokens, and active nowhere else.
        by_token: of how many of these the activation at every token is there.
    """
    layers, lengths = list(features), [score.token_count for score in scores]
    of_one_token = [features, *(others[name] for name in others if name != "max")]
    rows = [[row for reading in of_one_token for row in reading[layer]] for layer in layers]
    of_max = [others["max"][layer] for layer in layers if "max" in others]
    over_tokens = [_over_tokens(rows_of_max, unlisted, lengths, by_token) for rows_of_max in of_max]
    block = serialise_block(layers, [_top_k(of_layer, unlisted) for of_layer in rows], over_tokens)
    numbers = {name: 2 * number for number, name in enumerate((name for name in others if name != "max"), start=1)}
    numbers["max"] = 2 * len(of_one_token)
    first, second = ({name: numbers[name] + solution for name in others} for solution in (0, 1))
    return b"".join(join_record(frame_record(question, scores, (0, 1), (first, second)), [block]))


def _over_tokens(rows: Sequence[Features], unlisted: int, lengths: Sequence[int], by_token: int) -> PlacedTopK:
    found = _top_k(rows, unlisted)
    length = np.repeat(lengths, np.diff(found.starts))
    tokens = found.feature_ids % length
    kept = np.concatenate([np.arange(len(row)) < by_token for row in rows] or [np.zeros(0, bool)])
    starts = np.cumsum([0, *np.where(kept, length, 0)])
    values = np.zeros(starts[-1], dtype=np.float32)
    values[(starts[:-1] + tokens)[kept]] = found.activations[kept]
    return PlacedTopK(*found, tokens, np.ones_like(tokens), values, starts)


def _top_k(rows: Sequence[Features], unlisted: int) -> TopK:
    found = [feature for row in rows for feature in row]
    return TopK(
        np.array([feature_id for feature_id, _ in found], dtype=np.int64),
        np.array([activation for _, activation in found], dtype=np.float32),
        np.cumsum([0, *map(len, rows)]),
        np.array([len(row) + unlisted * bool(row) for row in rows], dtype=np.int64),
    )


def identity(layers: Sequence[int], top_k: int | str = 100, questions: int = 0, **settings: Any) -> Json:
    """What decided the bytes of a run, as the manifest has it."""
    saes = {
        str(layer): {"path": f"layer_{layer}/width_16k/average_l0_70", "sha256": f"{layer:064}"} for layer in layers
    }
    return {
        "settings": {
            "prompt": "Question: {goal}\nSolution: {solution}",
            "strip_solutions": False,
            "num_samples": questions,
            "shard": None,
            "seed": None,
            "layers": ",".join(saes),
            "sae_width": "16k",
            "sae_l0": "canonical",
            "site": "resid_post",
            "top_k": top_k,
            "dtype": "float32",
            "sae_dtype": "float32",
            "batch_tokens": 1024,
            "threads": 1,
            "attention": "soft-capped, softmax in float32",
            "readings": "final",
            "tokens": False,
            "residuals": None,
            "attribution": None,
            "attribution_means": None,
            "all_solutions": False,
            "token_activations": 0,
            "metadata": None,
            "shots": None,
            **settings,
        },
        "model": {"repository": "google/gemma-2-2b", "commit": "0" * 40, "files": {}},
        "saes": {"repository": "google/gemma-scope-2b-pt-res", "commit": "0" * 40, "layers": saes},
        "questions": {"dataset": "piqa", "split": "validation"},
        "plan": {"questions": questions, "batches": 1, "sha256": "0" * 64},
        "software": {"layerscope": "0.1.0"},
        "hardware": "none",
        "other_dictionaries": {},
    }


def about(layers: Sequence[int], order: Sequence[int], **more: Any) -> Json:
    """What else the manifest of a run says."""
    return {
        "command": "layerscope run",
        "folder": "/",
        "order": " ".join(map(str, order)),
        "standin": False,
        "neuronpedia": {str(layer): None for layer in layers},
        "average_l0": {str(layer): 70 for layer in layers},
        "d_model": 2304,
        "d_sae": 16384,
        "tokens": {"shared": 0, "unshared": 0},
        **more,
    }


def compressed(identity: Json, about: Json, method: PackingName, batches: Sequence[int]) -> tuple[Json, Json]:
    """Both, of a run that compresses its lines; so many in a batch."""
    how = msgspec.to_builtins(packing(method))
    of_plan = {**identity["plan"], "batches": len(batches)}
    return {**identity, "plan": of_plan, "packing": how}, {**about, "batches": " ".join(map(str, batches))}


def typed(identity: Json, about: Json) -> tuple[Identity, About]:
    """Both, as a run hands them to its journal."""
    return msgspec.convert(identity, Identity, str_keys=True), msgspec.convert(about, About, str_keys=True)


def write_run(path: Path, lines: Sequence[bytes], identity: Json, **more: Any) -> Path:
    """An output file and its manifest, which notes nothing of the lines and expects these, and those that are whole."""
    order = [orjson.loads(line)["example_id"] for line in lines if line.endswith(b"}\n")]
    identity = {**identity, "plan": {**identity["plan"], "questions": len(order)}}
    path.write_bytes(b"".join(lines))
    said = about(list(map(int, identity["saes"]["layers"])), order, **more)
    manifest_path(path).write_bytes(orjson.dumps({"format": 1, "identity": identity, "about": said}))
    return path


def gone_on_with(path: Path, parts: tuple[Identity, About], overwrite: bool = False) -> Journal:
    """An output file opened as a run does that goes on with it."""
    journal = open_journal(path, *parts, overwrite)
    try:
        journal.recover(lambda _: None)
    except LayerscopeError:
        journal.close()
        raise
    return journal


def note_lines(path: Path) -> Path:
    """Has the manifest note all lines, as that of a finished run does."""
    extent = Extent()
    for line in path.read_bytes().splitlines(keepends=True):
        extent.add(line)
    edit_manifest(path, lambda manifest: manifest.update(progress=msgspec.to_builtins(extent.note())))
    return path


def edit_manifest(path: Path, change: Callable[[Json], object]) -> None:
    """Changes the manifest of an output file as somebody with an editor would."""
    manifest = orjson.loads(manifest_path(path).read_bytes())
    change(manifest)
    manifest_path(path).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


def read_through(journal: Journal, order: Sequence[int]) -> Journal:
    """The journal as a run has it when it has read what is there, which are the first of these questions."""
    seen: list[int] = []
    try:
        journal.recover(lambda record: seen.append(record.example_id))
    except BaseException:
        journal.close()
        raise
    assert seen == list(order[: journal.lines])
    return journal
