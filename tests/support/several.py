"""Files of a run with several dictionaries, made of synthetic runs, and of each dictionary alone as it would be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from layerscope.config import FIRST
from layerscope.records.line.record import SOLUTIONS
from layerscope.records.manifest.manifest import manifest_path
from synthetic_run import Effect, Spec, write_run

LISTS = ("active_features_by_layer", "active_feature_count_by_layer")
KEYS = [f"{solution}_solution_details" for solution in SOLUTIONS]
Json = dict[str, Any]


def write_several(folder: Path, further: Mapping[str, Effect], questions: int = 160) -> dict[str, Path]:
    """`whole`, `part1` and `part2` (its shards), and each dictionary alone, the first with a feature 500 planted."""
    first, lines, manifest = _read(folder, FIRST, Effect(1, 500, 0.6, 0.2), questions, 0)
    whole, about = [orjson.loads(line) for line in lines], manifest["about"]
    for seed, (name, effect) in enumerate(further.items(), start=1):
        _, own, _ = _read(folder, f"{name}-lists", effect, questions, seed)
        lists = [orjson.loads(line) for line in own]
        alone = [orjson.loads(line) for line in lines]
        for of_whole, of_alone, of_lists in zip(whole, alone, lists, strict=True):
            for key in KEYS:
                seen = {part: of_lists[key][part] for part in LISTS}
                of_alone[key] |= seen
                of_whole[key].setdefault("other_dictionaries", {})[name] = seen
        layers = {layer: {"path": f"{name}/{layer}", "sha256": f"{seed}" * 64} for layer in about["average_l0"]}
        saes = {"repository": f"somebody/{name}", "commit": None, "layers": layers}
        said = {"neuronpedia": dict.fromkeys(layers), "average_l0": dict.fromkeys(layers, 30), "d_sae": 512}
        told = orjson.loads(orjson.dumps(manifest))
        told["identity"] |= {"saes": saes, "other_dictionaries": {}}
        told["identity"]["settings"] |= {"site": "mlp_out", "sae_width": "2k", "sae_l0": "30"}
        told["about"] |= {**said, "other_dictionaries": {}}
        _write(folder / f"{name}.jsonl", alone, told)
        other = {**saes, "site": "mlp_out", "width": "2k", "l0": "30"}
        manifest["identity"].setdefault("other_dictionaries", {})[name] = other
        about.setdefault("other_dictionaries", {})[name] = {**said, "d_model": about["d_model"]}
    _write(folder / "whole.jsonl", whole, manifest)
    half = len(whole) // 2
    for index, part in enumerate((whole[:half], whole[half:]), start=1):
        told = orjson.loads(orjson.dumps(manifest))
        told["identity"]["settings"]["shard"] = f"{index}/2"
        told["identity"]["plan"]["questions"] = len(part)
        told["about"]["order"] = " ".join(str(record["example_id"]) for record in part)
        _write(folder / f"part{index}.jsonl", part, told)
    names = (FIRST, *further, "whole", "part1", "part2")
    return {name: first.with_name(f"{name}.jsonl") for name in names}


def _read(folder: Path, name: str, effect: Effect, questions: int, seed: int) -> tuple[Path, list[bytes], Json]:
    path = folder / f"{name}.jsonl"
    write_run(path, Spec(questions, effects=[effect], seed=seed, distinct=True))
    manifest = orjson.loads(manifest_path(path).read_bytes())
    del manifest["progress"]
    return path, path.read_bytes().splitlines(), manifest


def _write(path: Path, records: list[Json], manifest: Json) -> None:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    manifest_path(path).write_bytes(orjson.dumps(manifest))
