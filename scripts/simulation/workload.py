"""The job: real questions, plan and placement of a made-up data set and model, and its records."""

import argparse
import random
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
from msgspec import UNSET

from layerscope.config import FIRST, Config
from layerscope.hub.repository import Repository
from layerscope.models.spec import ModelSpec
from layerscope.planning.job import Job
from layerscope.planning.machine import probe
from layerscope.planning.needs import Needs
from layerscope.planning.node import Node
from layerscope.planning.output import Output
from layerscope.planning.placing import place
from layerscope.planning.saes import Dictionary
from layerscope.planning.settings import Numerics, settle_crew
from layerscope.questions.opening import Wanted
from layerscope.questions.pairs import Pair
from layerscope.questions.plan import make_plan
from layerscope.questions.reading import FINAL
from layerscope.questions.selection import select_questions
from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import LayerBlock, serialise_block
from layerscope.records.line.lines import Frame, frame_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.identity import Identity, ModelFiles, PlanSize, SaeFile, SaeFiles, Settings
from layerscope.records.manifest.manifest import About, Tokens
from layerscope.records.reading.parts import part_paths
from layerscope.saes.choice import SaeChoice

N_LAYERS, D_MODEL, D_SAE, PARAMETERS = 26, 2304, 16384, 2_614_000_000

Features = dict[tuple[int, ...], LayerBlock]  # by the layers of a block


def make_job(
    n_actors: int, n_writers: int, options: argparse.Namespace, nodes: list[Node], folder: Path
) -> tuple[Job, Features]:
    """A job for so many Gemma actors and writers, and the features that its encoders return."""
    needs = Needs(2 * PARAMETERS, dict.fromkeys(range(N_LAYERS), 4 * D_MODEL * D_SAE), D_MODEL)
    questions = folder / "questions.jsonl"
    config = Config(
        dataset=str(questions),
        num_samples="all",
        device="cuda",
        gemma_actors=n_actors,
        layer_blocks=options.layer_blocks,
        top_k=options.top_k,
    )
    crew = settle_crew(config, nodes, D_MODEL)
    placement = place(crew, nodes, needs)

    dice = np.random.default_rng(options.seed)
    bytes_per_question = make_features(range(N_LAYERS), 2, options.top_k, dice).json.size
    work = int(options.questions_per_second_per_gpu * n_actors * options.seconds)
    write_questions(questions, max(1, min(work, int(options.gigabytes * 1e9) // bytes_per_question)), dice)
    selection, _ = select_questions(Wanted(config.dataset))
    plan = make_plan(selection, StubTokenizer(), options.batch_tokens)  # type: ignore[arg-type]

    rows = 2 * int(np.diff(plan.starts).max())
    features = {layers: make_features(layers, rows, options.top_k, dice) for layers in placement.blocks}
    saes = tuple(SaeChoice(layer, "16k", options.top_k, "", None) for layer in range(N_LAYERS))
    nowhere = Repository("simulated", None, {})
    records = folder / f"{n_actors}-{n_writers}.jsonl{'.zst' if options.compressed else ''}"
    job = Job(
        standin=False,
        model=nowhere,
        spec=ModelSpec(
            N_LAYERS, D_MODEL, 9216, 8, 256_000, 8192, PARAMETERS, 2, (), "Gemma 2", {"resid_post": D_MODEL}
        ),
        dictionaries=(Dictionary(FIRST, nowhere, saes, D_SAE),),
        selection=selection,
        seed=0,
        shard=(1, 1),
        reading=FINAL,
        metadata=None,
        plan=plan,
        numerics=Numerics("bfloat16", "float32", options.batch_tokens, None, options.top_k),
        crew=crew,
        needs=needs,
        placement=placement,
        patience=config.patience,
        output=Output(
            records,
            None,
            "",
            overwrite=False,
            retry_errors=False,
            parts=tuple(part_paths(records, n_writers)) if n_writers > 1 else (),
        ),
        software=dict(probe().software),
        warnings=(),
    )
    return job, features


def write_questions(path: Path, n: int, dice: np.random.Generator) -> None:
    """Questions as long as PIQA's: 48 words, which count as tokens, on average and 20 at least."""
    letters = list(string.ascii_lowercase)
    words = ["".join(dice.choice(letters, 4)) for _ in range(2000)]
    with path.open("wb") as file:
        for n_words, start, label in zip(
            (20 + dice.gamma(1.5, 19, n)).astype(int).tolist(),
            dice.integers(0, 1000, n).tolist(),
            dice.integers(0, 2, n).tolist(),
            strict=True,
        ):
            text = words[start : start + min(n_words, 1000)]
            goal, sol1, sol2 = text[: n_words // 5], text[n_words // 5 :: 2], text[n_words // 5 + 1 :: 2]
            row = {"goal": " ".join(goal), "sol1": " ".join(sol1), "sol2": " ".join(sol2), "label": label}
            file.write(orjson.dumps(row) + b"\n")


class StubTokenizer:
    """A word is a token."""

    def pairs(self, questions: Iterable[Question]) -> Iterator[Pair]:
        for question in questions:
            prompt, first, second = (len(text.split()) for text in (question.goal, question.sol1, question.sol2))
            yield Pair((0,) * (prompt + first + second), prompt, (prompt + first, prompt + second), prompt)

    def sees_itself(self, _: Question) -> bool:
        return False


def make_features(layers: Iterable[int], rows: int, k: int, dice: np.random.Generator) -> LayerBlock:
    """Random features, k in every list."""

    def top_k() -> SimpleNamespace:
        activations = -np.sort(-dice.lognormal(2, 1, (rows, k)).astype(np.float32), axis=1)
        counts = dice.integers(k, 2 * k, rows)
        ids = np.concatenate([dice.choice(D_SAE, k, replace=False) for _ in range(rows)])
        return SimpleNamespace(
            feature_ids=ids, activations=activations.ravel(), starts=np.arange(rows + 1) * k, active_counts=counts
        )

    layers = list(layers)
    return serialise_block(layers, [top_k() for _ in layers])  # type: ignore[misc]


def first_rows(block: LayerBlock, rows: int) -> LayerBlock:
    offsets = block.offsets[: 2 * rows + 1]
    return LayerBlock(block.json[: offsets[-1]], offsets, block.active_counts[:, :rows], block.failed_layers[:rows])


def make_frame(question: Question, index: int) -> Frame:
    """The frame of the question that is so many-th in its batch."""
    dice = random.Random(question.example_id)
    scores = [SolutionScore(-dice.expovariate(0.02), len(t.split()), "▁") for t in (question.sol1, question.sol2)]
    return frame_record(question, (scores[0], scores[1]), (2 * index, 2 * index + 1))


def manifest(job: Job) -> tuple[Identity, About]:
    """Of this job or part of one, as far as `verify` asks; no file of it was ever there."""
    layers, anything = [sae.layer for sae in job.saes], "simulated"
    words = ("prompt", "layers", "sae_width", "sae_l0", "dtype", "sae_dtype", "attention")
    settings = Settings(
        strip_solutions=False,
        num_samples=len(job.selection),
        shard="{}/{}".format(*job.shard) if job.shard[1] > 1 else None,
        seed=None,
        top_k=job.numerics.top_k or "all",
        batch_tokens=0,
        threads=None,
        **dict.fromkeys(words, anything),
    )
    saes = {layer: SaeFile(path=anything, sha256=anything) for layer in layers}
    identity = Identity(
        settings=settings,
        model=ModelFiles(repository=anything, commit=None, files={}),
        saes=SaeFiles(repository=anything, commit=None, layers=saes),
        questions={"dataset": anything},
        plan=PlanSize(questions=job.n_questions, batches=len(job.plan), sha256=job.plan.digest),
        software={},
        hardware=anything,
        packing=job.packing or UNSET,
    )
    about = About(
        command=anything,
        folder=anything,
        order=" ".join(map(str, job.plan.order.tolist())),
        batches=" ".join(map(str, np.diff(job.plan.starts).tolist())),
        standin=False,
        neuronpedia=dict.fromkeys(layers),
        average_l0={sae.layer: sae.l0 for sae in job.saes},
        d_model=job.spec.d_model,
        d_sae=D_SAE,
        tokens=Tokens(shared=job.plan.shared_tokens, unshared=job.plan.unshared_tokens),
    )
    return identity, about
