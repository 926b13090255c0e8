"""Runs that were never run: files as the actors and the driver make them, of scores and features that a test chose."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from layerscope.questions.sources import Question
from layerscope.records.lines import SolutionScore, frame_record, join_record, serialise_block
from layerscope.records.manifest import About, Identity, manifest_path
from layerscope.saes.encoder import TopK

Features = Sequence[tuple[int, float]]
"""feature_id and activation, strongest first."""

Json = dict[str, Any]


def record_line(
    question: Question,
    scores: tuple[SolutionScore, SolutionScore],
    features: Mapping[int, tuple[Features, Features]],
    unlisted: int = 0,
) -> bytes:
    """The line of a scored question.

    Args:
        scores: of `sol1` and `sol2`.
        features: by layer, of `sol1` and `sol2`.
        unlisted: how many more features are active wherever any is.
    """
    block = serialise_block(list(features), [_top_k(rows, unlisted) for rows in features.values()])
    return b"".join(join_record(frame_record(question, scores, (0, 1)), [block]))


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
            "top_k": top_k,
            "dtype": "float32",
            "sae_dtype": "float32",
            "batch_tokens": 1024,
            "threads": 1,
            "attention": "soft-capped, softmax in float32",
            **settings,
        },
        "model": {"repository": "google/gemma-2-2b", "commit": "0" * 40, "files": {}},
        "saes": {"repository": "google/gemma-scope-2b-pt-res", "commit": "0" * 40, "layers": saes},
        "questions": {"dataset": "piqa", "split": "validation"},
        "plan": {"questions": questions, "batches": 1, "sha256": "0" * 64},
        "software": {"layerscope": "0.1.0"},
        "hardware": "none",
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


def edit_manifest(path: Path, change: Callable[[Json], object]) -> None:
    """Changes the manifest of an output file as somebody with an editor would."""
    manifest = orjson.loads(manifest_path(path).read_bytes())
    change(manifest)
    manifest_path(path).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
