"""A run's file with several readings, of which one shows a planted effect and the others do not."""

import re
from pathlib import Path
from typing import Any

import orjson

from made_up import edit_manifest, note_lines
from synthetic_run import Effect, Spec, write_run

SIDES = ("positive_solution_details", "negative_solution_details")
PLANTED = 400
"""The feature of layer 1 that fires for the right solution, at its last token."""


def write_readings(path: Path, questions: int = 300, by_token: int = 0) -> None:
    """An effect that the strongest of all tokens shows and the final one, where nothing fires, does not.

    Args:
        by_token: of how many of each list's features of `max` the activation at every token is there.
    """
    write_run(path, Spec(questions=questions, layers=(0, 1), effects=[Effect(1, PLANTED, 0.7, 0.1)], distinct=True))
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        empty = {"active_features_by_layer": {"0": [], "1": []}, "active_feature_count_by_layer": {"0": 0, "1": 0}}
        for side in SIDES:
            details = record[side]
            strongest = _lists_of(details)
            details["tokens"] = re.findall(r"put |.+", details["text"])
            last = len(details["tokens"]) - 1
            placed = {
                layer: [
                    {**feature, "token": last if feature["feature_id"] == PLANTED else 0, "token_count": 1}
                    for feature in features
                ]
                for layer, features in strongest["active_features_by_layer"].items()
            }
            for features in placed.values() if by_token else ():
                for feature in features[:by_token]:
                    feature |= _at_every_token(feature, last + 1)
            prompt = _lists_of(record[SIDES[0]]) if side == SIDES[0] else record[SIDES[0]]["other_readings"]["prompt"]
            details["other_readings"] = {
                "max": {**strongest, "active_features_by_layer": placed},
                "prompt": prompt,
            }
            details |= empty
    write_lines(path, records)
    edit_manifest(
        path,
        lambda manifest: manifest["identity"]["settings"].update(
            readings="final,max,prompt", tokens=True, token_activations=by_token
        ),
    )


def _at_every_token(feature: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Half as strong at the token before, where there is one."""
    values = [0.0] * tokens
    values[feature["token"]] = feature["activation"]
    if feature["token"]:
        values[feature["token"] - 1] = feature["activation"] / 2
    return {"token_activations": values, "token_count": tokens - values.count(0)}


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    note_lines(path)


def _lists_of(details: dict[str, Any]) -> dict[str, Any]:
    return {name: details[name] for name in ("active_features_by_layer", "active_feature_count_by_layer")}
