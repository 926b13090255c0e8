"""A job: everything that is settled before anything expensive starts, and the manifest's account of it."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerscope.config import Config, parse_layers, parse_shard
from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import user_path
from layerscope.formatting import ranges, size_text
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository, open_repository
from layerscope.models.spec import GemmaSpec, read_spec, tokenizer_path
from layerscope.planning.needs import Needs, estimate
from layerscope.planning.node import Node, gpu_types
from layerscope.planning.placement import Placement
from layerscope.planning.placing import place
from layerscope.planning.settings import (
    Crew,
    Numerics,
    dataset,
    numeric,
    sae_width,
    settle_crew,
    settle_numerics,
)
from layerscope.questions.pairs import PROMPT, PairTokenizer
from layerscope.questions.plan import Plan, make_plan
from layerscope.questions.sources import Selection, question_files, select_questions
from layerscope.records import journal
from layerscope.records.manifest import (
    About,
    Identity,
    ModelFiles,
    PlanSize,
    SaeFile,
    SaeFiles,
    Settings,
    Tokens,
    manifest_path,
)
from layerscope.records.targets import TIMELINE, begins_with, check_output, check_target
from layerscope.saes.gemma_scope import SaeChoice, choose_saes
from layerscope.saes.params_npz import read_shapes
from layerscope.standin import standin_folder

_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of what `ray job submit` starts; the name is meant
_BYTES_PER_FEATURE = 52  # of JSON: names, punctuation, an id of five digits, an activation of eight


@dataclass(frozen=True)
class Job:
    """What a run will do."""

    config: Config
    model: Repository
    spec: GemmaSpec
    sae_repository: Repository
    saes: tuple[SaeChoice, ...]
    d_sae: int
    selection: Selection
    plan: Plan
    numerics: Numerics
    crew: Crew
    needs: Needs
    placement: Placement
    software: dict[str, str]
    """Versions of the packages that compute, on the nodes that do."""
    warnings: tuple[str, ...]

    @property
    def n_questions(self) -> int:
        """Lines of the finished file."""
        return len(self.plan.order)

    @property
    def layers(self) -> list[int]:
        return [sae.layer for sae in self.saes]

    @property
    def records_path(self) -> Path:
        return journal.records_path(self.config.output_file)

    @property
    def array_path(self) -> Path | None:
        """Where the finished run writes the JSON array, if it is asked for."""
        output = user_path(self.config.output_file).absolute()
        return output if output != self.records_path else None

    def estimated_bytes(self) -> int:
        """About the size of the finished file, if as many features are active as the SAEs' average L0 says."""
        features = sum(min(sae.l0, self.numerics.top_k or sae.l0) for sae in self.saes)
        return self.n_questions * 2 * (features * _BYTES_PER_FEATURE + 30 * len(self.saes) + 300)

    def identity(self) -> Identity:
        """Whatever decides the bytes of the file; the manifest keeps it, and a resumed run must have the same.

        Hashing local weights reads them; that is done once per version of a file.
        """
        return Identity(
            settings=Settings(
                prompt=f"{PROMPT} {{solution}}",
                strip_solutions=self.config.strip_solutions,
                num_samples=len(self.selection),
                shard=self.config.shard if parse_shard(self.config.shard)[1] > 1 else None,
                seed=self.config.seed if len(self.selection) < len(self.selection.source) else None,
                layers=ranges(self.layers),
                sae_width=self.saes[0].width,
                sae_l0=self.config.sae_l0,
                top_k=self.numerics.top_k or "all",
                dtype=self.numerics.dtype,
                sae_dtype=self.numerics.sae_dtype,
                batch_tokens=self.numerics.batch_tokens,
                threads=self.numerics.threads,
                attention="soft-capped, softmax in float32",
            ),
            model=ModelFiles(
                repository=_told(self.model),
                commit=self.model.commit,
                files={path: hub.sha256(self.model, path) for path in self.spec.files},
            ),
            saes=SaeFiles(
                repository=_told(self.sae_repository),
                commit=self.sae_repository.commit,
                layers={
                    sae.layer: SaeFile(path=sae.path, sha256=hub.sha256(self.sae_repository, sae.path))
                    for sae in self.saes
                },
            ),
            questions=self.selection.source.origin,
            plan=PlanSize(questions=self.n_questions, batches=len(self.plan), sha256=self.plan.digest),
            software=self.software,
            hardware=self.placement.hardware,
        )

    def about(self, command: str) -> About:
        """What the manifest says besides, for readers of the records and for going on."""
        return About(
            command=command,
            folder=str(Path.cwd()),
            order=" ".join(map(str, self.plan.order.tolist())),
            standin=self.config.standin,
            neuronpedia={sae.layer: sae.neuronpedia_id for sae in self.saes},
            average_l0={sae.layer: sae.l0 for sae in self.saes},
            d_model=self.spec.d_model,
            d_sae=self.d_sae,
            tokens=Tokens(shared=self.plan.shared_tokens, unshared=self.plan.unshared_tokens),
        )


def prepare(config: Config, nodes: Sequence[Node]) -> Job:
    """Settles a job on the machines there are: reads names, sizes, questions and tokeniser, and no weights.

    Raises:
        LayerscopeError: whatever would keep the run from starting, or from ending well.
    """
    _check_output(config)
    selection, warnings = select_questions(
        dataset(config), config.split, numeric(config.num_samples), config.seed, config.strip_solutions
    )
    model_name, sae_name = _sources(config)
    model = open_repository(model_name, config.revision)
    spec = read_spec(model)
    sae_repository = open_repository(sae_name)
    width = sae_width(config)
    saes, missing = choose_saes(sae_repository, spec.n_layers, parse_layers(config.layers), width, config.sae_l0)
    if missing:
        warnings.append(f"{sae_name} has no SAE of width {width} for the layers {ranges(missing)}: left out.")
    shapes = hub.read_parts(
        sae_repository,
        saes[0].path,
        lambda stream: read_shapes(stream, spec.d_model, f"{saes[0].path} of {sae_name}"),
    )
    d_sae = shapes["W_enc"][1]
    crew = settle_crew(config, nodes, spec.d_model)
    numerics = settle_numerics(config, nodes, crew)
    tokenizer = PairTokenizer(tokenizer_path(model), spec.context)
    if tokenizer.bos_id != spec.bos_id:
        raise UsageError(
            f"{model_name}: BOS is token {tokenizer.bos_id} of its tokeniser and {spec.bos_id} of its model."
        )
    plan = make_plan(selection, tokenizer, numerics.batch_tokens)
    if plan.unscorable:
        warnings.append(f"{plan.unscorable} questions cannot be scored; their lines will say why.")
    layers = [sae.layer for sae in saes]
    needs = estimate(spec, layers, d_sae, numerics, int(np.diff(plan.starts).max(initial=0)))
    placement = place(crew, nodes, needs)
    warnings += [f"On {node.name} {node.trouble}: it computes without." for node in nodes if node.trouble]
    if placement.device == "cuda" and len(placement.kinds) > 1:
        types = ", ".join(f"{count} x {name}" for name, count in sorted(gpu_types(nodes).items()))
        warnings.append(f"GPUs of several types ({types}) give other last digits; --gpu-type keeps to one.")
    return Job(
        config=config,
        model=model,
        spec=spec,
        sae_repository=sae_repository,
        saes=tuple(saes),
        d_sae=d_sae,
        selection=selection,
        plan=plan.part(*parse_shard(config.shard)),
        numerics=numerics,
        crew=crew,
        needs=needs,
        placement=placement,
        software=dict(nodes[0].software),
        warnings=tuple(warnings),
    )


def check_space(job: Job) -> None:
    """Refuses to start on a disk that cannot hold what is still to be written.

    Raises:
        LayerscopeError: there is too little room.
    """
    path = job.records_path
    there = path.stat().st_size if path.exists() else 0
    copies = 2 if job.array_path else 1
    needed = max(0, job.estimated_bytes() * copies - there)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise LayerscopeError(
            f"{path.parent} has {size_text(free)} free; the records will take about {size_text(needed)} more.\n"
            "Make room, name an --output-file elsewhere, or take fewer questions, layers or features."
        )


def in_ray_job() -> bool:
    """Whether `ray job submit` started this process: in a folder that Ray made for it, and deletes."""
    return _RAY_JOB in os.environ


def download_bytes(job: Job) -> int:
    """What must still come from the hub to this node."""
    wanted = [(job.model, path) for path in job.spec.files] + [(job.sae_repository, sae.path) for sae in job.saes]
    return sum(repository.files[path].size for repository, path in wanted if not hub.is_cached(repository, path))


def _told(repository: Repository) -> str:
    """What the manifest compares: a folder may be moved, and is known by the hashes of its files."""
    return repository.name if repository.commit else "a folder"


def _sources(config: Config) -> tuple[str, str]:
    if not config.standin:
        return config.model, config.sae_repo
    folder = standin_folder()
    return str(folder / "model"), str(folder / "saes")


def _check_output(config: Config) -> None:
    for name, named in (("output-file", config.output_file), ("timeline", config.timeline)):
        if in_ray_job() and named and not user_path(named).is_absolute():
            raise UsageError(
                f"--{name}: {named} would lie in this Ray job's own folder, which Ray deletes after it.\n"
                f"Name it by an absolute path that outlives the job, such as /shared/{Path(named).name}."
            )
    records, output = journal.records_path(config.output_file), user_path(config.output_file).absolute()
    inputs = question_files(config.dataset)
    if config.output_file.endswith("/"):
        raise UsageError(f"--output-file: {config.output_file} is a folder's name. Name a file.")
    check_output(records, output if output != records else None, inputs, config.overwrite)
    if config.timeline:
        written = (records, output, manifest_path(records))
        check_target("--timeline", config.timeline, (*inputs, *written), begins_with(TIMELINE, b"[]"))
