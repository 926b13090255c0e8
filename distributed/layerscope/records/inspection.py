"""Looking at a run's file from outside, without touching it: how far it is, and whether it is sound."""

import math
import shlex
from pathlib import Path
from typing import Any

import orjson

from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import size_text
from layerscope.records import journal
from layerscope.records.journal import read_lines
from layerscope.records.manifest import Extent, read_manifest
from layerscope.records.totals import Totals

_DETAILS = ("positive_solution_details", "negative_solution_details")


def status(path: Path) -> str:
    """What a person wants to know of a run: done, errors, accuracy so far, alive or not, how to go on.

    Raises:
        UsageError: there is no such file, or it has no manifest.
    """
    manifest = _manifest(path)
    totals, errors = Totals(), []
    for line in read_lines(path):
        try:
            record = orjson.loads(line)
            if "error" in record:
                errors.append(record["example_id"])
            totals.add_record(record)
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            number = totals.questions + 1
            raise LayerscopeError(f"{path}, line {number} is not a record. `layerscope verify` says more.") from error
    total = manifest["identity"]["plan"]["questions"]
    alive = journal.is_locked(path)
    state = "a run is writing it" if alive else "complete" if totals.questions == total else "stopped"
    about = manifest["about"]
    lines = [
        f"file      {path} ({size_text(path.stat().st_size)})",
        f"state     {state}",
        f"done      {totals.questions} of {total} questions",
        f"errors    {totals.errors}" + (f" (example_id {', '.join(map(str, errors[:10]))})" if errors else ""),
        f"accuracy  {totals.accuracy()} (acc), {totals.accuracy_per_character()} (acc_norm)",
    ]
    if not alive and totals.questions < total:
        there = f"cd {shlex.quote(about['folder'])} && " if Path(about["folder"]).is_dir() else ""
        lines.append(f"to go on  {there}{about['command']}")
    return "\n".join(lines)


def verify(path: Path) -> str:
    """Reads every line of a file and checks schema, order, ids and digest.

    Raises:
        LayerscopeError: the first line that is off, and what is.
        UsageError: there is no such file, or it has no manifest.
    """
    manifest = _manifest(path)
    order = manifest["about"]["order"].split(" ")
    settings, noted = manifest["identity"]["settings"], manifest.get("progress", {})
    extent = Extent(noted)
    for line in read_lines(path):
        extent.add(line)
        try:
            if extent.lines > len(order):
                raise ValueError(f"the plan ends after {len(order)} lines")
            record = orjson.loads(line)
            if record["example_id"] != int(order[extent.lines - 1]):
                raise ValueError(f"example_id is {record['example_id']}; the plan has {order[extent.lines - 1]} there")
            check_record(record, manifest["about"]["average_l0"], settings["top_k"])
            if not extent.agrees(noted):
                raise ValueError("it is not the line that was written there")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise LayerscopeError(f"{path}, line {extent.lines}: {what[:300]}.") from error
    if extent.lines < noted.get("lines", 0):
        raise LayerscopeError(f"{path}, line {extent.lines + 1}: missing; {noted['lines']} lines were written.")
    torn = path.stat().st_size - extent.size
    tail = f"; behind them a torn line of {torn} bytes, which the next run removes" if torn else ""
    return f"{path}: {extent.lines} of {len(order)} lines, all whole, in order and as they were written{tail}."


def check_record(record: dict[str, Any], layers: dict[str, Any], top_k: int | str) -> None:
    """Checks one record against the schema and against itself.

    Raises:
        ValueError, KeyError, TypeError: what is off.
    """
    if "error" in record:
        if set(record) != {"example_id", "error"} or not isinstance(record["error"], str):
            raise ValueError("an error line has example_id and error, and nothing else")
        return
    if not isinstance(record["question"], str) or not isinstance(record["model_is_correct"], bool):
        raise TypeError("question must be a string and model_is_correct a boolean")
    if record["label"] not in (0, 1):
        raise ValueError(f"label is {record['label']}")
    positive, negative = (record[name] for name in _DETAILS)
    for details in (positive, negative):
        if not (isinstance(details["text"], str) and math.isfinite(details["log_likelihood"])):
            raise ValueError("text must be a string and log_likelihood finite")
        if not (isinstance(details["token_count"], int) and isinstance(details["final_token"], str)):
            raise TypeError("token_count must be a whole number and final_token a string")
        by_layer, counts = details["active_features_by_layer"], details["active_feature_count_by_layer"]
        if list(by_layer) != list(layers) or list(counts) != list(layers):
            raise ValueError(f"the layers are {', '.join(by_layer)}, the run's are {', '.join(layers)}")
        for layer, features in by_layer.items():
            _check_features(features, int(layer), counts[layer], top_k)
    margin = positive["log_likelihood"] - negative["log_likelihood"]
    if record["model_is_correct"] != (margin > 0 or (margin == 0 and record["label"] == 0)):
        raise ValueError("model_is_correct does not follow from the log-likelihoods")


def _check_features(features: list[dict[str, Any]], layer: int, count: int, top_k: int | str) -> None:
    if len(features) != (count if top_k == "all" else min(count, int(top_k))):
        raise ValueError(f"layer {layer} lists {len(features)} features of {count} active ones")
    if not all(isinstance(feature["feature_id"], int) and feature["feature_id"] >= 0 for feature in features):
        raise ValueError(f"a feature_id of layer {layer} is no whole number from 0")
    order = [(-feature["activation"], feature["feature_id"]) for feature in features]
    if order != sorted(set(order)) or any(f["layer"] != layer or not f["activation"] > 0 for f in features):
        raise ValueError(f"the features of layer {layer} are not active ones of it, strongest first")


def _manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"There is no file {path}. Name the .jsonl file of a run.")
    return read_manifest(path)
