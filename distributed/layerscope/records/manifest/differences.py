"""What keeps a run from going on with a file: which of its settings were others when the file was begun."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from layerscope.errors import UsageError
from layerscope.records.ablations import kind_of_file
from layerscope.records.advice import RUNNING
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import About, Manifest

_COMMITS = {"model": "commit", "saes": "commit", "questions": "revision"}


def manifest_to_go_on_with(path: Path, identity: Identity, about: About) -> Manifest:
    """The manifest of a file that a run is about to go on with.

    Raises:
        UsageError: the file was made with other settings, or was not made by layerscope.
    """
    manifest = kind_of_file(identity).open(path, RUNNING).manifest
    differing = settings_that_differ(manifest, identity)
    if (about.order, about.order_xxh3) != (manifest.about.order, manifest.about.order_xxh3):
        differing.append("the order of the questions was another")
    if differing:
        raise UsageError(
            f"{path} was made with other settings: {'; '.join(differing)}.\n"
            "Use the settings it was made with, name another --output-file, or start anew with --overwrite."
        )
    return manifest


def settings_that_differ(manifest: Manifest, identity: Identity) -> list[str]:
    """What keeps a run of this identity from going on with a file: see `differences`.

    A file of questions may have another name by now, and a repository on the hub another commit: they are known by
    their contents, whose hashes are compared too. A commit is told where those differ, so that it can be asked for.
    """
    old, new = manifest.identity_as_read(), msgspec.to_builtins(identity, str_keys=True)
    for part, commit in _COMMITS.items():
        of_then = {**new[part], commit: old[part].get(commit)}
        if of_then == old[part] and (part != "questions" or old["plan"] == new["plan"]):
            new[part] = of_then
    for name, before in old["other_dictionaries"].items():
        now = new["other_dictionaries"].get(name)
        if now is not None and {**now, "commit": before["commit"]} == before:
            now["commit"] = before["commit"]
    if all(known["questions"].keys() == {"dataset"} for known in (old, new)):  # what the hub has says its split too
        new["questions"] = old["questions"]
    return differences(old, new)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`name was …, is …` for every value that differs, nested names joined by dots."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {_short(before)}, is {_short(after)}")
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"
