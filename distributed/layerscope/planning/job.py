"""A job: everything that is settled before anything expensive starts, and the manifest's account of it."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET

from layerscope.config import Site
from layerscope.errors import LayerscopeError
from layerscope.formatting import ranges, size_text, utf8
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.models.spec import ModelSpec
from layerscope.planning.needs import Needs
from layerscope.planning.output import Output
from layerscope.planning.placement import Placement
from layerscope.planning.saes import Dictionary
from layerscope.planning.settings import (
    Crew,
    Numerics,
)
from layerscope.planning.to_ablate import ToAblate
from layerscope.questions.plan import Plan
from layerscope.questions.reading import MAX, Reading
from layerscope.questions.selection import Selection
from layerscope.records.manifest.identity import (
    Identity,
    ModelFiles,
    OtherSaes,
    Packing,
    PlanSize,
    SaeFile,
    SaeFiles,
    Settings,
    ShotsDrawn,
)
from layerscope.records.manifest.manifest import About, AboutDictionary, Tokens
from layerscope.records.manifest.order import digest_of_many, listed
from layerscope.records.reading.residuals import RESIDUAL_DTYPES, residual_readings, residuals_path
from layerscope.records.storage.stored_run import StoredRun
from layerscope.records.writing.packing import TIMES_SMALLER, packing_of
from layerscope.saes.choice import SaeChoice

_L0S_OVER_TOKENS = 8  # features of a solution over features of a token
_BYTES_AT_A_TOKEN = 5  # of a feature's JSON: its activation there, 0.0 at most of them
_BYTES_OF_A_TOKEN = 27  # of a feature's JSON: where it is strongest, and at how many tokens it is active
_BYTES_PER_ATTRIBUTION = 84  # of JSON
_BYTES_PER_ABLATION = 150
_BYTES_PER_FEATURE = 52  # of JSON: names, punctuation, an id of five digits, an activation of eight


@dataclass(frozen=True)
class Job:
    """What a run will do."""

    standin: bool
    model: Repository
    spec: ModelSpec
    dictionaries: tuple[Dictionary, ...]
    """All of the same layers; the record's usual lists are the first one's."""
    selection: Selection
    metadata: str | None
    """Which other columns the records have, as `--metadata` says it; None for none."""
    seed: int
    shard: tuple[int, int]
    """Which part this is, the first being 1, and of how many."""
    reading: Reading
    """How they become texts, and what is read of them."""
    plan: Plan
    """Of this shard."""
    numerics: Numerics
    crew: Crew
    needs: Needs
    placement: Placement
    patience: float
    """Seconds to go on without a single actor ready or starting."""
    output: Output
    software: dict[str, str]
    """Versions of the packages that compute, on the nodes that do."""
    warnings: tuple[str, ...]
    ablation: ToAblate | None = None
    """What is ablated, where that is the work; None for a run."""

    @property
    def n_questions(self) -> int:
        """Lines of the finished file."""
        return len(self.plan.order)

    @property
    def d_read(self) -> int:
        """The width of the rows that the SAEs read, all sites together."""
        return sum(map(self.spec.width, self.reading.sites))

    def columns(self, site: Site) -> slice:
        """Which numbers of a row are those of a site."""
        sites = self.reading.sites
        start = sum(map(self.spec.width, sites[: sites.index(site)]))
        return slice(start, start + self.spec.width(site))

    @property
    def sae_repository(self) -> Repository:
        """Of the first dictionary, as what follows."""
        return self.dictionaries[0].repository

    @property
    def saes(self) -> tuple[SaeChoice, ...]:
        return self.dictionaries[0].saes

    @property
    def d_sae(self) -> int:
        return self.dictionaries[0].d_sae

    @property
    def layers(self) -> list[int]:
        return self.dictionaries[0].layers

    @property
    def packing(self) -> Packing | None:
        """How the lines are compressed; None where they are not."""
        return packing_of(self.output.records)

    def file_bytes(self) -> int:
        """About the size of the finished file."""
        return self.estimated_bytes() // (1 if self.packing is None else TIMES_SMALLER)

    def estimated_bytes(self) -> int:
        """About the size of all records, if as many features are active as the SAEs' average L0 says."""
        if self.ablation is not None:
            return self.n_questions * self.ablation.lines_of_question * _BYTES_PER_ABLATION

        saes = [sae for dictionary in self.dictionaries for sae in dictionary.saes]

        def of_reading(name: str) -> int:
            many, more = (_L0S_OVER_TOKENS, _BYTES_OF_A_TOKEN) if name == MAX else (1, 0)
            expected = [many * sae.expected_l0 for sae in saes]
            features = sum(min(l0, self.numerics.top_k or l0) for l0 in expected)
            return features * (_BYTES_PER_FEATURE + more) + 30 * len(saes)

        tokens = self.plan.solution_tokens * self.n_questions // max(1, len(self.selection))
        by_token = self.reading.token_activations * len(saes) * tokens * _BYTES_AT_A_TOKEN
        of_solution = sum(map(of_reading, self.reading.names)) + 300
        attributed = self.n_questions * (self._bytes_of_attributions() if self.reading.attribution else 0)
        return self.n_questions * self.reading.solutions * of_solution + by_token + attributed

    def _bytes_of_attributions(self) -> int:
        """Of a question: the own tokens of two solutions, those that they begin with, the prompt."""
        features = sum(min(_L0S_OVER_TOKENS * sae.expected_l0, self.numerics.top_k or sys.maxsize) for sae in self.saes)
        return 4 * (features * _BYTES_PER_ATTRIBUTION + 100 * len(self.saes))

    @property
    def _width(self) -> int:
        """Of what the first dictionary reads, which is what is kept and attributed to."""
        return self.spec.width(self.reading.sites[0])

    def residual_bytes(self) -> int:
        """The size of the residuals beside the finished file."""
        if self.reading.residuals is None:
            return 0
        kept = 2 * len(residual_readings(self.reading.names)) * self._width
        return self.n_questions * len(self.layers) * kept * RESIDUAL_DTYPES[self.reading.residuals].itemsize

    def identity(self) -> Identity:
        """Whatever decides the bytes of the file; the manifest keeps it, and a resumed run must have the same.

        Hashing local weights reads them; that is done once per version of a file.
        """
        return Identity(
            settings=Settings(
                prompt=self.reading.prompt.told(),
                strip_solutions=self.selection.strip_solutions,
                num_samples=len(self.selection),
                shard="{}/{}".format(*self.shard) if self.shard[1] > 1 else None,
                seed=self.seed if len(self.selection) < len(self.selection.source) else None,
                layers=ranges(self.layers),
                sae_width=self.saes[0].width,
                sae_l0=self.dictionaries[0].l0,
                site=self.reading.sites[0],
                top_k=self.numerics.top_k or "all",
                dtype=self.numerics.dtype,
                sae_dtype=self.numerics.sae_dtype,
                batch_tokens=self.numerics.batch_tokens,
                threads=self.numerics.threads,
                attention=self.spec.family.attention,
                readings=",".join(self.reading.names),
                tokens=self.reading.tokens,
                residuals=self.reading.residuals,
                attribution=self.reading.attribution,
                attribution_means=self.reading.means.sha256 if self.reading.means else None,
                all_solutions=self.reading.solutions > 2,
                token_activations=self.reading.token_activations,
                metadata=self.metadata,
                shots=self._shots_drawn(),
            ),
            model=ModelFiles(
                repository=_told(self.model),
                commit=self.model.commit,
                files={path: hub.sha256(self.model, path) for path in self.spec.files},
            ),
            saes=SaeFiles(**_sae_files(self.dictionaries[0])),
            questions=self.selection.source.origin,
            plan=PlanSize(questions=self.n_questions, batches=len(self.plan), sha256=self.plan.digest),
            software=self.software,
            hardware=self.placement.hardware,
            other_dictionaries={
                each.name: OtherSaes(**_sae_files(each), site=each.site, width=each.saes[0].width, l0=each.l0)
                for each in self.dictionaries[1:]
            },
            packing=self.packing or UNSET,
        )

    def _shots_drawn(self) -> ShotsDrawn | None:
        shots = self.reading.prompt.shots
        if shots is None:
            return None
        rows = ",".join(str(each.example_id) for each in (*shots.usual, *shots.in_stead))
        return ShotsDrawn(count=shots.count, rows=rows, sha256=shots.digest())

    def about(self, command: str) -> About:
        """What the manifest says besides, for readers of the records and for going on."""
        return About(
            command=command,
            folder=utf8(str(Path.cwd())),
            order=listed(self.plan.order),
            order_xxh3=digest_of_many(self.plan.order),
            batches=" ".join(map(str, np.diff(self.plan.starts).tolist())),
            standin=self.standin,
            **self._of_dictionary(self.dictionaries[0]),
            tokens=Tokens(shared=self.plan.shared_tokens, unshared=self.plan.unshared_tokens),
            warnings=tuple(told for each in self.dictionaries for told in each.of_another_model),
            other_dictionaries={
                each.name: AboutDictionary(**self._of_dictionary(each)) for each in self.dictionaries[1:]
            },
            shots_from="" if self.reading.prompt.shots is None else self.reading.prompt.shots.told,
        ).with_order(self.plan.order)

    def _of_dictionary(self, dictionary: Dictionary) -> dict[str, Any]:
        return {
            "neuronpedia": {sae.layer: sae.neuronpedia_id for sae in dictionary.saes},
            "average_l0": {sae.layer: sae.l0 for sae in dictionary.saes},
            "d_model": self.spec.width(dictionary.site),
            "d_sae": dictionary.d_sae,
        }


def check_space(job: Job) -> None:
    """Refuses to start on a disk that cannot hold what is still to be written.

    Raises:
        LayerscopeError: there is too little room.
    """
    path = job.output.records
    if isinstance(path, StoredRun):  # where there is room
        return
    residuals = [rows for file in job.output.files for rows in residuals_path(file).glob("*.npy")]
    there = sum(file.stat().st_size for file in (*job.output.files, *residuals) if file.exists())
    copies = 2 if job.output.array else 1
    needed = max(0, job.file_bytes() * copies + job.residual_bytes() - there)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise LayerscopeError(
            f"{path.parent} has {size_text(free)} free; the run will take about {size_text(needed)} more.\n"
            "Make room, name an --output-file elsewhere, or take fewer questions, layers or features."
        )


def download_bytes(job: Job) -> int:
    """What must still come from the hub to this node."""
    wanted = [(job.model, path) for path in job.spec.files] + [
        (each.repository, path)
        for each in job.dictionaries
        for sae in ([] if each.to_make else each.saes)
        for path in sae.files
    ]
    return sum(repository.files[path].size for repository, path in wanted if not hub.is_cached(repository, path))


def _sae_files(dictionary: Dictionary) -> dict[str, Any]:
    repository = dictionary.repository

    def file(sae: SaeChoice) -> SaeFile:
        config = hub.sha256(repository, sae.config) if sae.config else None
        return SaeFile(path=sae.path, sha256=hub.sha256(repository, sae.path), config_sha256=config)

    layers = {sae.layer: file(sae) for sae in dictionary.saes}
    return {"repository": _told(repository), "commit": repository.commit, "layers": layers}


def _told(repository: Repository) -> str:
    """What the manifest compares: a folder may be moved, and is known by the hashes of its files."""
    return repository.name if repository.commit else "a folder"
