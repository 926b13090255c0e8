"""Writes a file of ablations without a model: three questions, of which one cannot be scored, and two features."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import UnsetType
from msgspec.structs import replace

from layerscope.records.ablations import AblationPlan, ablation_line
from layerscope.records.manifest.identity import AblationSettings, ChosenFeature, Identity
from layerscope.records.manifest.manifest import AblationAbout, About
from layerscope.records.writing.journal import open_journal
from made_up import about, identity

LAYERS = [1, 2]
SETTINGS = AblationSettings(
    run="r" * 32,
    features=[ChosenFeature(1, 7, 8), ChosenFeature(2, 3, None)],
    controls=["matched", "random"],
    steer=None,
    features_at_once=1,
)
ABOUT_ABLATION = AblationAbout(run="run.jsonl", chosen_by="file", starts="0 2 3", groups="0 1 1", discovery="010")
IDENTITY: Identity = replace(msgspec.convert(identity(LAYERS, 10, 3), Identity, str_keys=True), ablation=SETTINGS)
ABOUT: About = replace(msgspec.convert(about(LAYERS, [4, 0, 2]), About, str_keys=True), ablation=ABOUT_ABLATION)
UNSCORABLE = 2
CHANGES = (0.5, -0.25, 0.0)


def lines(changes: Sequence[float] = CHANGES, settings: AblationSettings = SETTINGS) -> list[bytes]:
    """All lines of the finished file; margins are 0.1 times a number, and change by these in turn."""
    plan = AblationPlan.of(ABOUT.example_ids, ABOUT_ABLATION, settings)
    made = []
    for number, place in enumerate(plan.places()):
        if place.example_id == UNSCORABLE:
            made.append(ablation_line(place, None, None, 0, "sol1 is empty"))
            continue
        change = changes[number % len(changes)]
        made.append(ablation_line(place, 0.1, 0.1 + change, 2 if change else 0))
    return made


def write_ablations(
    path: Path, count: int | None = None, changes: Sequence[float] = CHANGES, identity: Identity = IDENTITY
) -> Path:
    """Writes the file, or its first lines, and its manifest."""
    assert not isinstance(identity.ablation, UnsetType)
    with open_journal(path, identity, ABOUT, overwrite=False) as file:
        file.append(lines(changes, identity.ablation)[:count])
    return path
