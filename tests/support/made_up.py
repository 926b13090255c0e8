"""Runs that were never run: files as the actors and the driver make them, of scores and features that a test chose."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from layerscope.questions.sources import Question
from layerscope.records.lines import SolutionScore, frame_record, join_record, serialise_block
from layerscope.records.manifest import FORMAT, manifest_path
from layerscope.saes.encoder import TopK

Features = Sequence[tuple[int, float]]
"""feature_id and activation, strongest first."""


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


def identity(layers: Sequence[int], top_k: int | str = 100) -> dict[str, Any]:
    """What decided the bytes of a run, as far as its readers ask."""
    saes = {
        str(layer): {"path": f"layer_{layer}/width_16k/average_l0_70", "sha256": f"{layer:064}"} for layer in layers
    }
    return {
        "settings": {"top_k": top_k, "dtype": "float32"},
        "model": {"repository": "google/gemma-2-2b", "commit": "0" * 40},
        "saes": {"repository": "google/gemma-scope-2b-pt-res", "commit": "0" * 40, "layers": saes},
        "questions": {"dataset": "piqa", "split": "validation"},
    }


def write_run(path: Path, lines: Sequence[bytes], identity: Mapping[str, Any], **about: Any) -> Path:
    """An output file and its manifest."""
    about = {"neuronpedia": dict.fromkeys(identity["saes"]["layers"])} | about
    path.write_bytes(b"".join(lines))
    manifest_path(path).write_bytes(orjson.dumps({"format": FORMAT, "identity": identity, "about": about}))
    return path
