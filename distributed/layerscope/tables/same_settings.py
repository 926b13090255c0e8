"""What two runs have in common besides their questions: the SAEs of their layers, and their settings."""

from typing import Any

from layerscope.records.manifest.differences import differences
from layerscope.records.manifest.fingerprints import computed_otherwise
from layerscope.records.manifest.manifest import Manifest

Json = dict[str, Any]


def same_saes(a: Manifest, b: Manifest, known: bool) -> tuple[list[int], dict[str, str]]:
    """The layers with the same SAE in both manifests, and why each other layer is left out."""
    files_a, files_b = (manifest.identity.saes.layers for manifest in (a, b))
    same, left_out = list[int](), dict[str, str]()
    for layer in sorted(files_a.keys() | files_b.keys()):
        pages = [manifest.about.neuronpedia.get(layer) for manifest in (a, b)]
        if layer not in files_a or layer not in files_b:
            left_out[str(layer)] = f"only in {'A' if layer in files_a else 'B'}"
        elif not known:
            left_out[str(layer)] = "which SAE it is of is not known without a manifest"
        elif files_a[layer].sha256 == files_b[layer].sha256 or (pages[0] and pages[0] == pages[1]):
            same.append(layer)
        else:
            left_out[str(layer)] = f"other SAEs ({files_a[layer].path}, {files_b[layer].path})"
    return same, left_out


def differing(a: Manifest, b: Manifest) -> list[str]:
    """What was otherwise; of two runs of the same settings, whether what computed them gives other last digits."""
    found = differences(_settings(a, b), _settings(b, a))
    return found or computed_otherwise([a.fingerprints, b.fingerprints])


def _settings(manifest: Manifest, other: Manifest) -> Json:
    """The identity without the SAE of each layer, which `same_saes` tells, nor where files lie that are the same."""
    identity = manifest.identity_as_read()
    model, saes, others = manifest.identity.model, manifest.identity.saes.layers, other.identity.saes.layers
    same_files = {
        "model": bool(model.files) and model.files == other.identity.model.files,
        "saes": all(saes[layer].sha256 == others[layer].sha256 for layer in saes.keys() & others.keys()),
    }
    left_out = {part: {"repository", "commit"} if same else set[str]() for part, same in same_files.items()}
    left_out["saes"].add("layers")
    kept = {part: {k: v for k, v in identity[part].items() if k not in left_out[part]} for part in left_out}
    return {**identity, **kept}
