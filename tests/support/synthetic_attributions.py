"""A run's file with attributions: noise, but for what is planted, which need not separate anything."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from made_up import edit_manifest
from synthetic_readings import SIDES, write_lines
from synthetic_run import Spec, write_run

Json = dict[str, Any]
Effects = Mapping[tuple[int, int], float]
"""Mean attribution of features, by layer and id, over the own tokens of the right solution."""


def write_attributions(
    path: Path, spec: Spec, effects: Effects, rule: str = "gradient", tokens: bool = True, seed: int = 0
) -> None:
    """A synthetic run with attributions: of what is active at a solution's end, noise but for the planted effects."""
    write_run(path, spec)
    rng = np.random.default_rng(seed)
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        if record["error"]:
            record |= dict.fromkeys(_keys("common") + _keys("prompt"))
        else:
            _attribute(rng, record, spec.layers, effects, tokens)
        record["error"] = record.pop("error")  # the last
    write_lines(path, records)
    settings = {"attribution": rule, "tokens": tokens}
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(settings))


def _attribute(rng: np.random.Generator, record: Json, layers: Any, effects: Effects, tokens: bool) -> None:
    for side in SIDES:
        details = record[side]
        texts = re.findall(r"put |.+", details["text"])
        assert len(texts) == details["token_count"]
        if tokens:
            details["tokens"] = texts
        planted = effects if side == SIDES[0] else {}
        details |= _group(rng, details, layers, planted, range(len(texts)), "")
    common = record[SIDES[0]]
    record |= _group(rng, common, layers, {}, range(1), "common")
    record |= _group(rng, common, layers, {}, range(1, 5), "prompt")


def _group(rng: np.random.Generator, details: Json, layers: Any, effects: Effects, tokens: range, name: str) -> Json:
    lists, terms = {}, {}
    for layer in map(str, layers):
        features = []
        for feature in details["active_features_by_layer"][layer][:6]:
            mean = effects.get((int(layer), feature["feature_id"]), 0.0)
            size = float(np.float32(mean + (0.3 * abs(mean) + 0.01) * rng.standard_normal()))
            token = int(rng.choice(tokens))
            features.append({**feature, "attribution": size, "token": token})
        features.sort(key=lambda each: (-abs(each["attribution"]), each["feature_id"]))
        lists[layer] = [
            {key: each[key] for key in ("feature_id", "attribution", "activation", "token", "layer")}
            for each in features
            if each["attribution"]
        ]
        parts = [sum(each["attribution"] for each in features), *(0.2 * rng.standard_normal(2) + (1, -0.5)).tolist()]
        terms[layer] = dict(zip(("features", "bias", "error", "total"), [*parts, sum(parts)], strict=True))
    return dict(zip(_keys(name), (lists, terms), strict=True))


def _keys(group: str) -> list[str]:
    return [f"{group}_{rest}_by_layer".removeprefix("_") for rest in ("attributions", "attribution_terms")]
