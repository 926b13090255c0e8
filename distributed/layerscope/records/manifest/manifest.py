"""The manifest beside an output file: what decided its bytes, and how far they were written.

The one place that knows its fields, versions and defaults. What a later version adds under `identity` is a setting like
any other: a run that does not know it refuses to go on with the file. What it adds elsewhere is passed over, and kept
when the manifest is written anew.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

import msgspec
import numpy as np
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError, UsageError, remedy
from layerscope.records.advice import READING, Advice
from layerscope.records.manifest.fingerprints import Fingerprint
from layerscope.records.manifest.identity import Count, DictionaryName, Identity
from layerscope.records.manifest.noted import Progress
from layerscope.records.manifest.order import read_order
from layerscope.records.reading.strangers import reader_of
from layerscope.records.storage.stored_run import MANIFEST, StoredRun, content_of, replace_content
from layerscope.strict_json import parse_object

FORMAT: Final = 2
"""Of new files. In those of format 1 a line has `error` only where there is one, and then nothing else."""
FORMAT_OF_MANY: Final = 3
"""The same where the order and the marks of the lines lie beside the manifest, because there are many."""


NeuronpediaId = Annotated[  # it becomes a path in the cache, and a part of an address
    str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
]


class Tokens(Struct, frozen=True, kw_only=True):
    """Of all pairs, with shared tokens once; and of all solutions one at a time."""

    shared: Count
    unshared: Count


class AblationAbout(Struct, frozen=True, kw_only=True):
    """What the manifest of a file of ablations says besides; of questions in the order of `About.order`."""

    run: str
    """The file whose questions these are."""
    chosen_by: Literal["file", "attribution", "contrast", "check"]
    """Why these features: they are named in a file, the first by a measure, or a sample of all."""
    starts: Annotated[str, Meta(pattern=r"\A0( [0-9]{1,9})*\Z")]
    """Where each batch of questions begins, and at the end how many there are."""
    groups: Annotated[str, Meta(pattern=r"\A([0-9]{1,9}( [0-9]{1,9})*)?\Z")]
    """The goal group of every question."""
    discovery: Annotated[str, Meta(pattern=r"\A[01]*\Z")]
    """1 for a question of the half that discovers, and so had a part in the choice."""


class AboutDictionary(Struct, frozen=True, kw_only=True):
    """What `About` says of the first dictionary, of a further one."""

    neuronpedia: dict[int, NeuronpediaId | None]
    average_l0: dict[int, int | None]
    d_model: Count
    d_sae: Count


class About(Struct, frozen=True, kw_only=True, dict=True, omit_defaults=True):
    """What the manifest says besides, for readers of the records and for going on; layers in the file's order."""

    command: str
    folder: str
    """Where `command` was given."""
    order: str
    """`example_id` of every line of the finished file; empty where these lie in `NAME.order.npy`."""
    order_xxh3: str = ""
    """Of the `example_id`s there; empty where `order` lists them."""
    batches: str = ""
    """Lines of every batch; files of 0.1.0 do not say it."""
    standin: bool
    neuronpedia: dict[int, NeuronpediaId | None]
    average_l0: dict[int, int | None]
    """None where no number is known."""
    d_model: Count
    d_sae: Count
    tokens: Tokens
    warnings: tuple[str, ...] = ()
    """About model and SAEs that may not belong together."""
    ablation: AblationAbout | UnsetType = UNSET
    """Only in files of ablations."""
    other_dictionaries: dict[DictionaryName, AboutDictionary] = {}
    shots_from: str = ""
    """Where the examples come from that stand before the questions; empty without."""

    @cached_property
    def example_ids(self) -> Sequence[int]:
        """`order` as numbers."""
        assert not self.order_xxh3, "these come with `with_order`"
        return [int(word) for word in self.order.split(" ")] if self.order else []

    def with_order(self, example_ids: Sequence[int] | NDArray[np.signedinteger[Any]]) -> Self:
        """The same, knowing the `example_id`s that it does not list."""
        self.__dict__["example_ids"] = example_ids
        return self

    @cached_property
    def batch_ends(self) -> list[int]:
        """Lines until the end of every batch."""
        return list(accumulate(int(word) for word in self.batches.split(" "))) if self.batches else []

    @property
    def layers(self) -> list[int]:
        return list(self.average_l0)


_STANDIN = "the stand-in"


class Manifest(Struct, kw_only=True, omit_defaults=True):
    """All that lies beside an output file."""

    format: Literal[1, 2, 3]
    identity: Identity
    about: About
    progress: Progress | UnsetType = UNSET
    """Files of 0.1.0 have none until their first lines are noted."""
    halved_batches: list[Count] = []
    """Batches that did not fit the memory as a whole: their numbers may differ in the last digit."""
    clamped_batches: list[Count] = []
    """Batches some of whose residuals are beyond their number format, whose largest number stands in their place."""
    fingerprints: dict[str, Fingerprint] = {}
    """By kind of processor or GPU; files of 0.1.0 have none until they are gone on with."""
    as_read: dict[str, Any] = {}
    """What the file held, with what a later version added."""

    @property
    def model(self) -> str:
        """For people: the stand-in, a repository on the hub, or a folder."""
        return _STANDIN if self.about.standin else self.identity.model.repository

    @property
    def saes(self) -> str:
        """The first ones, in the same way."""
        return _STANDIN if self.about.standin else self.identity.saes.repository

    @property
    def readings(self) -> tuple[str, ...]:
        """That every record has, in the order of the record; `final` is the first."""
        return tuple(self.identity.settings.readings.split(","))

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """The names of those beside the first, in the order of the record."""
        return tuple(self.identity.other_dictionaries)

    def lines_noted(self) -> int:
        """How many lines are known to have been written."""
        return 0 if self.progress is UNSET else self.progress.lines

    @property
    def lists_lines(self) -> bool:
        """Whether the order and the marks of the lines are in it, and not beside it."""
        return not self.about.order_xxh3

    @property
    def packed(self) -> bool:
        """Whether the lines are compressed, a batch's in one frame."""
        return self.identity.packing is not UNSET

    def lines_of(self, stretches: int) -> int:
        """How many lines the first stretches of the file hold."""
        return ([0, *self.about.batch_ends][: stretches + 1])[-1] if self.packed else stretches

    def identity_as_read(self) -> dict[str, Any]:
        """The identity with what a later version added to it."""
        identity: dict[str, Any] = _builtins(self)["identity"]
        return identity


def manifest_path(path: Path) -> Path:
    """Where the manifest of an output file lies."""
    return path.manifest if isinstance(path, StoredRun) else path.with_name(f"{path.name}.{MANIFEST}")


def read_manifest(path: Path, advice: Advice = READING) -> Manifest:
    """The manifest of an output file.

    Raises:
        UsageError: there is none, or it is not one.
    """
    beside = manifest_path(path)
    try:
        content = cast(dict[str, Any], parse_object(content_of(beside)))
        _check_format(content)
        manifest = msgspec.convert(content, Manifest, str_keys=True)
        if not manifest.lists_lines:
            lines = manifest.identity.plan.questions
            manifest.about.with_order(read_order(path, lines, manifest.about.order_xxh3, advice.broken))
        _check(manifest)
    except FileNotFoundError:
        told = advice.of(path)
        raise UsageError(
            f"{path} has no manifest ({beside.name}) beside it: layerscope did not make it, or the manifest was lost.\n"
            f"{told.no_manifest}{reader_of(path) * (told is advice)}"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{beside} cannot be read: {error.strerror}.\n{remedy(error, advice.of(path).broken)}"
        ) from error
    except (ValueError, RecursionError) as error:  # of orjson and msgspec too
        what = str(error).replace("`$.", "`")[:200]
        raise UsageError(f"{beside} is not a whole manifest: {what}.\n{advice.of(path).broken}") from error
    manifest.as_read = content
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replaces the manifest of an output file in one atomic step.

    Raises:
        LayerscopeError: it cannot be written.
    """
    try:
        replace_content(manifest_path(path), orjson.dumps(_builtins(manifest), option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise LayerscopeError(
            f"The manifest of {path} cannot be written: {error.strerror}. Make room and run again."
        ) from error


def _check_format(content: object) -> None:
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is int and found > FORMAT_OF_MANY:
        later = f"it has format {found}, of a later version of layerscope than this one"
        raise ValueError(f"{later}, which reads {FORMAT_OF_MANY}")


def _check(manifest: Manifest) -> None:
    """What types cannot say.

    Raises:
        ValueError: what is off.
    """
    identity, about, progress = manifest.identity, manifest.about, manifest.progress
    if re.fullmatch(r"(\d+( \d+)*)?", about.order) is None:
        raise ValueError("`about.order` is not numbers with a space between them")
    if re.fullmatch(r"([1-9]\d*( [1-9]\d*)*)?", about.batches) is None:
        raise ValueError("`about.batches` is not numbers with a space between them")
    if (about.batches or manifest.packed) and [0, *about.batch_ends][-1] != identity.plan.questions:
        raise ValueError("`about.batches` has not as many lines as the plan has questions")
    if len(about.example_ids) != identity.plan.questions:
        raise ValueError(f"`about.order` has {len(about.example_ids)} questions, the plan {identity.plan.questions}")
    for name, layers in (("about.neuronpedia", about.neuronpedia), ("identity.saes.layers", identity.saes.layers)):
        if list(layers) != about.layers:
            raise ValueError(f"`{name}` has other layers than `about.average_l0`")
    if isinstance(identity.ablation, UnsetType) != isinstance(about.ablation, UnsetType):
        raise ValueError("`identity.ablation` and `about.ablation` are not both there")
    if not isinstance(about.ablation, UnsetType):
        ablation, questions = about.ablation, identity.plan.questions
        starts = [int(word) for word in ablation.starts.split(" ")]
        if starts != sorted(starts) or starts[-1] != questions:
            raise ValueError(f"`about.ablation.starts` does not go from 0 to {questions}")
        if len(ablation.groups.split()) != questions or len(ablation.discovery) != questions:
            raise ValueError("`about.ablation` has not as many groups or halves as there are questions")
    if list(about.other_dictionaries) != list(identity.other_dictionaries):
        raise ValueError("`about.other_dictionaries` has other names than `identity.other_dictionaries`")
    for name, other in about.other_dictionaries.items():
        if not list(other.neuronpedia) == list(other.average_l0) == list(identity.other_dictionaries[name].layers):
            raise ValueError(f"`about.other_dictionaries.{name}` has other layers than its SAEs")
        if list(other.average_l0) != about.layers:
            raise ValueError(f"`about.other_dictionaries.{name}` has other layers than `about.average_l0`")
    if progress is not UNSET:
        noted = progress.lines if not manifest.lists_lines else manifest.lines_of(progress.marks)
        if len(progress.running) != max(0, 9 * progress.marks - 1) or progress.lines != noted:
            raise ValueError("`progress.running` has not as many marks as there are `progress.lines`")
        if (progress.xxh3_128 is UNSET) == (progress.sha256 is UNSET):
            raise ValueError("`progress` has no digest, or two")
        if isinstance(progress.residuals, dict) and list(progress.residuals) != about.layers:
            raise ValueError("`progress.residuals` has other layers than `about.average_l0`")


def _builtins(manifest: Manifest) -> dict[str, Any]:
    known = msgspec.to_builtins(manifest, str_keys=True)
    known.pop("as_read", None)
    return _laid_over(manifest.as_read, known)


def _laid_over(read: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What is known now, and what else was read, in the order of what was read."""
    both = {**read, **known}
    for name, value in known.items():
        if isinstance(value, dict) and isinstance(read.get(name), dict):
            both[name] = _laid_over(read[name], value)
    return both
