"""Records without a manifest (moved, renamed, cut out with `jq`), read for what they hold; the rest is unknown.

What decided the numbers, whether all lines are there, and whether they are those that were written, only a manifest
tells: to go on with such a file, or to verify it, stays refused.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self

from msgspec import UNSET

from layerscope.errors import UsageError
from layerscope.formatting import shell_word
from layerscope.records.advice import READING, Advice
from layerscope.records.line.checking import check as check_itself
from layerscope.records.line.checking import check_parts
from layerscope.records.line.dictionaries import names_of
from layerscope.records.line.held import Unlabelled, lacks, misfit
from layerscope.records.line.record import NotARecordError, Record, Unscored
from layerscope.records.manifest.identity import Identity, ModelFiles, OtherSaes, PlanSize, SaeFile, SaeFiles, Settings
from layerscope.records.manifest.manifest import FORMAT, About, AboutDictionary, Manifest, Tokens, manifest_path
from layerscope.records.reading.run import RecordsFile, Run
from layerscope.records.reading.strangers import OF_RECORDS, reader_of
from layerscope.records.reading.stretches import read_lines
from layerscope.records.writing.extent import Extent

UNKNOWN = "unknown"
_MOST_FEATURES = 1 << 31  # of a dictionary whose width nobody knows
_UNNOTED = (
    "No manifest lies beside the file, so its records alone were read. Not known are: the model and the SAEs "
    "(features are not linked), the command, {}whether all questions are there, and whether the records are as they "
    "were written."
)
_LINE_BYTES = 1 << 24  # of a line that is looked at for why it is no record
_LOOKED_AT = 50  # records, for the length that lists are cut at


class Unnoted(Run):
    """A file of records alone. Its manifest says what the records say, and `unknown` or nothing elsewhere."""

    def __init__(self, path: Path, first: Record, advice: Advice = READING) -> None:
        """
        Args:
            first: the first record of a scored question.
        """
        RecordsFile.__init__(self, path, None, advice)
        self._first = first
        unlabelled = "which solution stood first in the question file, " if isinstance(first, Unlabelled) else ""
        self.unnoted = _UNNOTED.format(unlabelled)
        self.manifest = _manifest(first, self._has_all_solutions(), self._top_k(), sum(1 for _ in read_lines(path)))

    @classmethod
    def open(cls, path: Path, advice: Advice = READING) -> Self:
        """
        Raises:
            UsageError: there is no such file, or no record of a scored question in it.
        """
        file = RecordsFile.open(path)
        why = why_no_records(file.path)
        if why or file.first is None:
            told = (
                f"{path} has no manifest ({manifest_path(path).name}) beside it, and no line of it is the record of a "
            )
            other = "" if OF_RECORDS in reader_of(path) else reader_of(path)
            raise UsageError(why or f"{told}scored question.\n{advice.no_manifest}{other}")
        return cls(file.path, file.first, advice)

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"{self.name}: {self.unnoted}",)

    def records(
        self,
        check: Callable[[Record], None] = lambda _: None,
        to_go_on: bool = False,
        extent: Extent | None = None,
    ) -> Iterator[tuple[bytes, Record | Unscored]]:
        def both(record: Record) -> None:
            self._hold_against_first(record)
            check(record)

        seen: dict[int, int] = {}
        for number, (line, record) in enumerate(super().records(both, to_go_on, extent), start=1):
            if (twin := seen.setdefault(record.example_id, number)) != number:
                told = f"example_id {record.example_id} is in line {twin} too, and would count twice"
                raise self._refused(number, told)
            yield line, record

    def _hold_against_first(self, record: Record) -> None:
        settings = self.manifest.identity.settings
        layers, attributed = self.manifest.about.layers, settings.attribution is not None
        parts = settings.tokens, settings.all_solutions, None, attributed, self.manifest.dictionaries
        check_parts(record, layers, self.manifest.readings, *parts)
        if (record.metadata is UNSET) != (self._first.metadata is UNSET):
            raise NotARecordError("some records have metadata and others have none")
        if isinstance(record, Unlabelled) != isinstance(self._first, Unlabelled):
            raise NotARecordError("some records have a label and others have none")
        check_itself(record, None, _MOST_FEATURES, dict.fromkeys(self.manifest.dictionaries, _MOST_FEATURES), True)

    def _has_all_solutions(self) -> bool:
        if self._first.others is UNSET:
            return False
        return next((record.more[0].details is not None for record in self._parsed() if record.more), False)

    def _top_k(self) -> int | None:
        """The length of the lists that are cut; None where none is seen."""
        for record in islice(self._parsed(), _LOOKED_AT):
            for details in record.solutions:
                for layer, features in details.active_features_by_layer.items():
                    if len(features) < details.active_feature_count_by_layer.get(layer, 0):
                        return len(features)
        return None


def why_no_records(path: Path) -> str:
    """What of a file's form, or of its first line, makes it none of records, in two lines; empty where it is another
    thing."""
    line = b""
    with suppress(OSError), path.open("rb") as file:
        line = file.readline(_LINE_BYTES)
    name = shell_word(str(path))
    if line.lstrip().startswith(b"["):
        return (
            f"{path} is a JSON array, and a record is a line.\n"
            f"Name the .jsonl file of a run, or make lines of the array: jq -c '.[]' {name} > lines.jsonl"
        )
    if line.endswith(b"\n") and line.strip() == b"{":  # else a first line that is being written
        return (
            f"{path} has records over several lines each, and a record is a line.\n"
            f"Make lines of them: jq -c . {name} > lines.jsonl"
        )
    if missing := lacks(line):
        return (
            f"{path} has no manifest beside it, and its first line has no {missing}.\n"
            "Of what a run writes, label and model_is_correct may be left out; cut it anew and keep the rest."
        )
    if told := misfit(line):
        return (
            f"{path} has no manifest beside it, and its first line is no record: {told}.\n"
            "Name the .jsonl file of a run, or cut it anew and keep the values as they were."
        )
    return ""


def _manifest(first: Record, all_solutions: bool, top_k: int | None, lines: int) -> Manifest:
    own = first.positive
    layers = list(own.active_features_by_layer)
    files = {layer: SaeFile(path=UNKNOWN, sha256=UNKNOWN) for layer in layers}
    nothing = dict.fromkeys(layers)
    saes: dict[str, Any] = {"neuronpedia": nothing, "average_l0": nothing, "d_model": 0, "d_sae": 0}
    settings = Settings(
        prompt=UNKNOWN,
        strip_solutions=False,
        num_samples=lines,
        shard=None,
        seed=None,
        layers=UNKNOWN,
        sae_width=UNKNOWN,
        sae_l0=UNKNOWN,
        top_k=top_k or "all",
        dtype=UNKNOWN,
        sae_dtype=UNKNOWN,
        batch_tokens=0,
        threads=None,
        attention=UNKNOWN,
        readings=",".join(own.readings),
        tokens=own.tokens is not UNSET,
        attribution="gradient" if first.attributions else None,
        all_solutions=all_solutions,
        metadata=None if first.metadata is UNSET else "all",
    )
    return Manifest(
        format=FORMAT,
        identity=Identity(
            settings=settings,
            model=ModelFiles(repository=UNKNOWN, commit=None, files={}),
            saes=SaeFiles(repository=UNKNOWN, commit=None, layers=files),
            questions={},
            plan=PlanSize(questions=lines, batches=0, sha256=UNKNOWN),
            software={},
            hardware=UNKNOWN,
            other_dictionaries={
                name: OtherSaes(
                    repository=UNKNOWN, commit=None, layers=files, site="resid_post", width=UNKNOWN, l0=UNKNOWN
                )
                for name in names_of(own)
            },
        ),
        about=About(
            command=UNKNOWN,
            folder=UNKNOWN,
            order="",
            standin=False,
            **saes,
            tokens=Tokens(shared=0, unshared=0),
            other_dictionaries={name: AboutDictionary(**saes) for name in names_of(own)},
        ),
    )
