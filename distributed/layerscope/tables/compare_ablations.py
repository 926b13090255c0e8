"""Comparing two files of ablations over the same questions: of two models, number formats, or choices of features.

Features are compared where both files have the same SAE, question by question: how far they move the margin, in which
order, and whether the same answers flip. `example_id` tells questions apart, so both are of one data set.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from layerscope.errors import UsageError
from layerscope.formatting import aligned, told, utf8
from layerscope.records.ablations import AblationFile
from layerscope.records.manifest.identity import Control
from layerscope.records.manifest.manifest import Manifest
from layerscope.tables.same_settings import differing, same_saes

Json = dict[str, Any]
_SHOWN = 20  # features


class _Of(NamedTuple):
    """What is taken out."""

    layer: int
    feature_id: int
    control: Control | None


_Margins = dict[int, tuple[float, float]]
"""By `example_id`, as it is and afterwards."""


def compare_ablations(a: AblationFile, b: AblationFile) -> Json:
    """Compares two files, finished or growing.

    Raises:
        UsageError: they are over other questions, or have no feature of the same SAE and no question in common.
        LayerscopeError: a line is not the one that was written there.
    """
    manifests = a.manifest, b.manifest
    if manifests[0].identity.questions != manifests[1].identity.questions:
        raise UsageError(
            f"{a.path} and {b.path} are over other questions: {' and '.join(map(_questions, manifests))}.\n"
            "Compare ablations of runs over the same data set."
        )
    layers, left_out = same_saes(*manifests, known=True)
    of_a, of_b = _read(a), _read(b)
    shared = [of for of in of_a if of in of_b and of.layer in layers and of_a[of].keys() & of_b[of].keys()]
    if not shared:
        raise UsageError(
            f"{a.path} and {b.path} have no feature of the same SAE in common, taken out of the same question.\n"
            "Take the same features out of both runs: layerscope ablate … --features FILE."
        )
    matched = [{(each.layer, each.feature_id): each.matched for each in file.settings.features} for file in (a, b)]
    compared = [
        of
        for of in shared
        if of.control != "matched" or matched[0][of.layer, of.feature_id] == matched[1][of.layer, of.feature_id]
    ]
    features = {of[:2] for of in shared}
    only_a, only_b = (len({of[:2] for of in mine} - features) for mine in (of_a, of_b))
    return {
        "a": _about(a),
        "b": _about(b),
        "features": {"common": len(features), "only_a": only_a, "only_b": only_b},
        "effects": [{**of._asdict(), **_compared(of_a[of], of_b[of])} for of in compared],
        "layers_left_out": left_out,
        "settings_that_differ": _differing(*manifests),
    }


def ablations_as_text(comparison: Json) -> str:
    """For people: features alone, those with the largest changes first."""
    features, own = comparison["features"], [each for each in comparison["effects"] if each["control"] is None]
    own.sort(key=lambda each: -max(each["a_mean_magnitude"], each["b_mean_magnitude"]))
    head = ["layer", "feature", "questions", "mean change A", "mean change B", "rank correlation", "mean difference"]
    head += ["flips A", "flips B", "flips in both"]
    rows = [head]
    for each in own[:_SHOWN]:
        change = [f"{each[f'{run}_mean_change']:+.3f}" for run in "ab"]
        order = told(each["rank_correlation"], ".3f", "–")
        flips = [str(each[name]) for name in ("a_flips", "b_flips", "both_flip")]
        named = [str(each["layer"]), str(each["feature_id"]), str(each["questions"])]
        rows.append([*named, *change, order, f"{each['mean_difference']:.3g}", *flips])
    more = len(own) - _SHOWN
    lines = [
        *(
            f"{name}  {of['file']}  (ablations of {of['run']})"
            for name, of in zip("AB", _both(comparison), strict=True)
        ),
        "",
        f"features  {features['common']} taken out in both, {features['only_a']} only in A, "
        f"{features['only_b']} only in B",
        "",
        *aligned(rows),
        *([f"and {more} more: --json has all, and the controls."] if more > 0 else []),
        *(f"layer {layer}: not compared, {reason}" for layer, reason in comparison["layers_left_out"].items()),
    ]
    if found := comparison["settings_that_differ"]:
        lines += ["", "settings (was: A, is: B)", *(f"  {text}" for text in found)]
    return "\n".join(lines)


def _both(comparison: Json) -> tuple[Json, Json]:
    return comparison["a"], comparison["b"]


def _read(file: AblationFile) -> dict[_Of, _Margins]:
    found: dict[_Of, _Margins] = defaultdict(dict)
    for _, line in file.entries():
        if line.margin is not None and line.margin_ablated is not None:
            found[_Of(line.layer, line.feature_id, line.control)][line.example_id] = line.margin, line.margin_ablated
    return found


def _compared(a: _Margins, b: _Margins) -> Json:
    both = sorted(a.keys() & b.keys())
    before, after = (np.array([[of[each][at] for each in both] for of in (a, b)]) for at in (0, 1))  # [2, questions]
    change, flips = after - before, (before > 0) != (after > 0)
    flip_a, flip_b = (int(count) for count in flips.sum(axis=1))
    return {
        "questions": len(both),
        "a_mean_change": float(change[0].mean()),
        "b_mean_change": float(change[1].mean()),
        "a_mean_magnitude": float(np.abs(change[0]).mean()),
        "b_mean_magnitude": float(np.abs(change[1]).mean()),
        "rank_correlation": _rank_correlation(change),
        "mean_difference": float(np.abs(change[0] - change[1]).mean()),
        "a_flips": flip_a,
        "b_flips": flip_b,
        "both_flip": int(flips.all(axis=0).sum()),
    }


def _rank_correlation(change: NDArray[np.float64]) -> float | None:
    """Spearman's over the questions, [2, questions]; None of fewer than three, or where one never changes."""
    varies = change.shape[1] > 2 and bool((np.ptp(change, axis=1) > 0).all())
    return float(stats.spearmanr(*change).statistic) if varies else None


def _about(file: AblationFile) -> Json:
    return {"file": utf8(str(file.path)), "run": file.about.run, "chosen_by": file.about.chosen_by}


def _questions(manifest: Manifest) -> str:
    return " ".join(manifest.identity.questions.values()) or "questions of unknown origin"


def _differing(a: Manifest, b: Manifest) -> list[str]:
    """Without which features were chosen, of which those in common are compared."""
    return [text for text in differing(a, b) if not text.startswith(("ablation.features was", "plan."))]
