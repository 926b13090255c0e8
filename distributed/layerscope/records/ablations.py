"""A file of ablations: a line for every question and feature, and for every control of the feature, in a fixed order.

What the order is made of stands in the manifest: the batches of questions, and the features, so many at once. A batch's
lines come for one portion of features after the other, within it question by question, feature by feature, and of a
feature first its own line and then its controls'.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson
from msgspec import UNSET, Struct, UnsetType
from xxhash import xxh3_128_hexdigest

from layerscope.records.line.readings import Float32, Id
from layerscope.records.line.record import NotARecordError
from layerscope.records.manifest.identity import AblationSettings, ChosenFeature, Control, Identity
from layerscope.records.manifest.manifest import AblationAbout, manifest_path, read_manifest
from layerscope.records.manifest.noted import Progress
from layerscope.records.reading.parts import names_parts
from layerscope.records.reading.run import Run
from layerscope.records.storage.addresses import existing_records, run_path
from layerscope.records.totals import Totals
from layerscope.records.writing.extent import Extent


class Ablation(Struct, frozen=True, gc=False):
    """One line: a question's margin as it is, and with something of its solutions' tokens taken out (or added)."""

    example_id: Id
    layer: int
    feature_id: Id
    """Of a control, the feature that it stands beside."""
    margin: Float32 | None
    """log-likelihood(right) - log-likelihood(strongest wrong); None where the question cannot be scored."""
    margin_ablated: Float32 | None
    """The same afterwards, of whatever wrong solution is the strongest then."""
    tokens: Id
    """How many were touched, those that solutions share once. Of 0 the margin is the same to the bit."""
    control: Control | None
    """None for the feature itself."""
    error: str
    """Why there are no margins; empty where there are."""


class Place(NamedTuple):
    """What a line is of."""

    example_id: int
    layer: int
    feature_id: int
    control: Control | None


class AblationPlan(NamedTuple):
    """Which line is of what."""

    order: Sequence[int]
    """`example_id` of every question."""
    starts: Sequence[int]
    """Where each batch begins in `order`, and at the end the number of questions."""
    features: Sequence[ChosenFeature]
    controls: Sequence[Control]
    at_once: int
    """Features of a portion."""

    @classmethod
    def of(cls, order: Sequence[int], about: AblationAbout, settings: AblationSettings) -> "AblationPlan":
        """That of a manifest."""
        starts = [int(word) for word in about.starts.split(" ")]
        return cls(order, starts, settings.features, settings.controls, settings.features_at_once)

    @property
    def kinds(self) -> tuple[Control | None, ...]:
        """Of the lines of a question and feature."""
        return (None, *self.controls)

    @property
    def portions(self) -> list[Sequence[ChosenFeature]]:
        """Of the features, in their order."""
        return [self.features[start : start + self.at_once] for start in range(0, len(self.features), self.at_once)]

    @property
    def lines(self) -> int:
        """Of the finished file."""
        return len(self.order) * len(self.features) * len(self.kinds)

    def part_starts(self) -> list[int]:
        """The line at which each portion of each batch begins, and at the end the number of lines."""
        starts = [0]
        for first, behind in zip(self.starts, self.starts[1:], strict=False):
            for portion in self.portions:
                starts.append(starts[-1] + (behind - first) * len(portion) * len(self.kinds))
        return starts

    def places(self) -> Iterator[Place]:
        """What each line is of."""
        for first, behind in zip(self.starts, self.starts[1:], strict=False):
            for portion in self.portions:
                for example_id in self.order[first:behind]:
                    for feature in portion:
                        for kind in self.kinds:
                            yield Place(example_id, feature.layer, feature.feature_id, kind)


class AblationFile(Run):
    """A file of ablations, and its manifest."""

    of_ablations = True

    @property
    def settings(self) -> AblationSettings:
        found = self.manifest.identity.ablation
        assert not isinstance(found, UnsetType)  # whose manifest lacks it was refused when it was opened
        return found

    @property
    def about(self) -> AblationAbout:
        found = self.manifest.about.ablation
        assert not isinstance(found, UnsetType)
        return found

    @property
    def plan(self) -> AblationPlan:
        return AblationPlan.of(self.manifest.about.example_ids, self.about, self.settings)

    @property
    def planned(self) -> int:
        return self.plan.lines

    def entries(self, to_go_on: bool = False, extent: Extent | None = None) -> Iterator[tuple[bytes, Ablation]]:
        """Every whole line, its line end included, and what it holds.

        Args:
            to_go_on: lines that were written and are gone are no fault: they are written again.

        Raises:
            LayerscopeError: the first line that is off, and what is; or the file cannot be read.
        """
        places = self.plan.places()

        def held(line: bytes, _number: int) -> Ablation:
            found, place = parse_ablation(line), next(places, None)
            if place is None:
                raise NotARecordError("the plan ends before it")
            if (found.example_id, found.layer, found.feature_id, found.control) != place:
                raise NotARecordError(f"it is of {_told(found)}; the plan has {_told(place)} there")
            return found

        return self._held(held, to_go_on, extent)


_decoder = msgspec.json.Decoder(Ablation)


def parse_ablation(line: bytes) -> Ablation:
    """What a line of a file of ablations holds.

    Raises:
        NotARecordError: it holds none.
    """
    try:
        found = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotARecordError(str(error).replace("`$`", "the line").replace("`$.", "`")) from error
    if (found.margin is None or found.margin_ablated is None) != bool(found.error):
        raise NotARecordError("it has an error and margins, or neither")
    if not found.tokens and found.margin != found.margin_ablated:
        raise NotARecordError("no token was touched, and the margin is another")
    return found


def ablation_line(place: Place, margin: float | None, ablated: float | None, tokens: int, error: str = "") -> bytes:
    """A line of the file, its line end included; margins as the shortest decimals of their float32."""
    return _dumps(
        {
            **place._asdict(),
            "margin": None if margin is None else np.float32(margin),
            "margin_ablated": None if ablated is None else np.float32(ablated),
            "tokens": tokens,
            "control": place.control,
            "error": error,
        }
    )


def kind_of_file(identity: Identity) -> type[Run]:
    """Who reads a file of this identity."""
    return Run if identity.ablation is UNSET else AblationFile


def _dumps(fields: dict[str, Any]) -> bytes:
    ordered = {name: fields[name] for name in Ablation.__struct_fields__}
    return orjson.dumps(ordered, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _told(place: Place | Ablation) -> str:
    of = f"question {place.example_id}, layer {place.layer}, feature {place.feature_id}"
    return of + (f" ({place.control})" if place.control else "")


def digest_of(run: Run) -> str:
    """What names a finished run's content in the settings of its ablations; empty of one that has none yet.

    That of a run of several files is made of theirs, in their order.
    """
    digests = [_noted(part.manifest.progress) for part in run.parts if isinstance(part, Run)]
    return digests[0] if len(digests) == 1 else xxh3_128_hexdigest(" ".join(digests).encode())


def _noted(progress: Progress | UnsetType) -> str:
    return "" if progress is UNSET else str(progress.digest)


def open_written(path: Path) -> Run:
    """The output file of a run or of an ablation, whichever it is.

    Raises:
        UsageError: there is no such file, or it has no manifest, or one that is none.
    """
    path = existing_records(path)
    manifest = read_manifest(path)
    return kind_of_file(manifest.identity)(path, manifest)


def ablations_of(files: Path | Sequence[Path]) -> AblationFile | None:
    """The file of ablations, where one is named; None of whatever else is named, or is not there.

    Raises:
        UsageError: its manifest is none.
    """
    paths = [files] if isinstance(files, Path) else files
    if len(paths) != 1 or not manifest_path(path := run_path(paths[0])).exists() or names_parts(path):
        return None
    manifest = read_manifest(path)
    return None if manifest.identity.ablation is UNSET else AblationFile(path, manifest)


@dataclass
class AblationTotals(Totals):
    """Counts over the lines of a file of ablations, each of which is a question here."""

    flips: int = 0
    """Lines of features in which an answer that was right is wrong afterwards, or the other way round."""

    def add(self, found: Ablation) -> None:
        self.questions += 1
        self.errors += bool(found.error)
        if found.control is None and found.margin is not None and found.margin_ablated is not None:
            self.flips += (found.margin > 0) != (found.margin_ablated > 0)

    def standing(self, planned: int) -> str:  # noqa: ARG002 - those of a run say more of it
        return f"answers flipped {self.flips}"
