"""The settings that a run was made with, from its own manifest: so that its questions can be run once more."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import UNSET

from layerscope.config import STANDARD_INPUT, Config
from layerscope.config.command_line import call
from layerscope.config.values import parse_baseline
from layerscope.errors import UsageError
from layerscope.records.manifest.differences import settings_that_differ
from layerscope.records.manifest.identity import Identity
from layerscope.records.reading.run import Run

_SOURCES = ("model", "sae_repo", "dataset")
_MAY_DIFFER = ("hardware", "software", "settings.threads", "packing", "other_dictionaries")
"""On what it is computed, and how it is written: a question's margin is measured anew beside every ablation. Of further
dictionaries nothing is read."""


def config_of(run: Run) -> Config:
    """The settings of a run's command, with those that its manifest decided: formats, batches, commits.

    Without its further dictionaries, whose files need not be there.

    Raises:
        UsageError: the manifest's command is none of a run.
    """
    about, identity = run.manifest.about, run.manifest.identity
    try:
        words = shlex.split(about.command)
        begin = next(number for number, word in enumerate(words) if word == "run" or word.endswith(".py"))
        if words[begin + 1 : begin + 2] == ["run"]:
            begin += 1
        config = call(Config, words[begin + 1 :], "run", {})
    except (ValueError, StopIteration, UsageError) as error:
        raise UsageError(
            f"{run.path} was made by another kind of command than `layerscope run`: {about.command[:120]!r}.\n"
            "Its questions are run again by that command's options, which are not understood."
        ) from error
    settings: Any = identity.settings  # whose formats are strings
    config = replace(
        config,
        dtype=settings.dtype,
        sae_dtype=settings.sae_dtype,
        batch_tokens=settings.batch_tokens,
        revision=identity.model.commit or config.revision,
        sae_revision=identity.saes.commit or config.sae_revision,
        dataset_revision=identity.questions.get("revision", config.dataset_revision),
        dictionary=(),
        baseline_dictionary=False,
        timeline="",
        retry_errors=False,
    )
    if means := parse_baseline(config.attribution_baseline):
        config = replace(config, attribution_baseline=f"mean:{_where_it_was(about.folder, means)}")
    if config.dataset == STANDARD_INPUT:
        return replace(config, dataset=str(run.path.with_name(identity.questions["dataset"])))
    model, sae_repo, dataset = (_where_it_was(about.folder, getattr(config, name)) for name in _SOURCES)
    return replace(config, model=model, sae_repo=sae_repo, dataset=dataset)


def _where_it_was(folder: str, name: str) -> str:
    """A path that is relative to the folder of the command, as one that is not; any other name as it is."""
    try:
        there = Path(folder, name)
        is_path = "/" in name or Path(name).suffix != ""
        return str(there) if is_path and there.exists() else name
    except OSError:  # a name that no file can have, or a folder that may not be looked into
        return name


def expect_the_same(run: Run, identity: Identity) -> None:
    """
    Raises:
        UsageError: the model, the SAEs or the questions are others than those of the run; which, by name and hash.
    """
    differing = [told for told in settings_that_differ(run.manifest, identity) if not told.startswith(_MAY_DIFFER)]
    if differing:
        raise UsageError(
            f"What is here is not what {run.path} was made with: {'; '.join(differing)}.\n"
            "Its features would be others. Name the files that it was made with, by --model, --sae-repo and --dataset."
        )
    assert identity.ablation is UNSET
