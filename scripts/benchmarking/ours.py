"""layerscope's own parts, one after the other in one process, and the whole job as a user runs it."""

import json
import os
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import torch

from benchmarking.measure import Answers, largest_memory, synchronise
from layerscope.engine.batches.answers import TorchSettings
from layerscope.models import language_model
from layerscope.models.loading import load_language_model
from layerscope.models.pair_attention import lay_out
from layerscope.models.spec import tokenizer_path
from layerscope.planning.job import Job
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import serialise_block
from layerscope.records.line.lines import Frame, frame_record, join_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.writing.journal import open_journal
from layerscope.saes.cache import load_encoder
from layerscope.saes.encoder import TopK, encode_top_k

STAGES = ("tokenise", "body", "projection and scores", "encode and top k", "JSON", "join and write")


@dataclass
class Parts:
    """Seconds of every part, over all questions."""

    seconds: dict[str, float]
    questions: int
    tokens: int
    padded_tokens: int
    """That attention sees: rows laid out to the width of a batch's widest."""
    features: int
    bytes: int
    dict_json: float
    """Seconds for the same features by dicts and `orjson.dumps`."""
    answers: Answers = field(repr=False)


class Clock:
    """Adds up the time spent in each part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        synchronise()
        start = time.perf_counter()
        yield
        synchronise()
        self.seconds[part] += time.perf_counter() - start  # type: ignore[assignment]


@contextmanager
def timing_projection(clock: Clock) -> Iterator[None]:
    """Has a clock take the time of every pass's output projection and scores."""
    project = language_model.target_log_probs

    def timed_projection(*arguments: Any) -> torch.Tensor:
        with clock("projection and scores"):
            return project(*arguments)

    language_model.target_log_probs = timed_projection
    try:
        yield
    finally:
        language_model.target_log_probs = project


def parts(job: Job, device: str, output: Path) -> Parts:
    """Every part over every batch of the plan, without Ray."""
    model, tokenizer, place = loaded_model(job, device)
    sae_dtype = getattr(torch, job.numerics.sae_dtype)
    saes = [load_encoder(job.sae_repository, sae, job.spec.d_model, sae_dtype, place) for sae in job.saes]
    clock = Clock()
    answers: Answers = {}
    counts: Counter[str] = Counter()

    def solve(batch: int, file: Any) -> None:
        questions = [job.selection[int(example_id)] for example_id in job.plan.batch(batch)]
        with clock("tokenise"):
            pairs = list(tokenizer.pairs(questions))
        with clock("body"):
            result = model.forward(pairs, job.layers)
        with clock("encode and top k"):
            found = [
                encode_top_k(rows, sae, job.numerics.top_k)
                for rows, sae in zip(result.residuals.to(place), saes, strict=True)
            ]
        with clock("JSON"):
            frames = [_frame(number, question, result.scores[number]) for number, question in enumerate(questions)]
            block = serialise_block(job.layers, found)
        with clock("dicts and orjson"):
            _by_dicts(questions, result.scores, job.layers, found)
        with clock("join and write"):
            lines = [join_record(frame, [block]) for frame in frames]
            file.append(lines)
        layout = lay_out(pairs, model.transfers)
        counts.update(
            questions=len(pairs),
            tokens=len(layout.tokens),
            padded_tokens=layout.gather.numel(),
            features=sum(len(each.feature_ids) for each in found),
            bytes=sum(len(piece) for line in lines for piece in line),
        )
        for number, question in enumerate(questions):
            log_likelihoods = result.scores[number].log_likelihoods
            answers[question.example_id] = [
                (log_likelihoods[side], [_row_ids(each, 2 * number + side) for each in found]) for side in (0, 1)
            ]

    for batches in ([0], range(len(job.plan))):  # the first time to warm up
        clock.seconds.clear()
        counts.clear()
        opened = open_journal(output, job.identity(), job.about("benchmark"), overwrite=True)
        with timing_projection(clock), opened as file:
            for batch in batches:
                solve(batch, file)
    seconds = {part: float(clock.seconds[part]) for part in STAGES}
    seconds["body"] -= seconds["projection and scores"]
    return Parts(seconds, **counts, dict_json=float(clock.seconds["dicts and orjson"]), answers=answers)


def loaded_model(job: Job, device: str) -> tuple[language_model.LanguageModel, PairTokenizer, torch.device]:
    """The model of a job as an actor loads it, its tokeniser, and where it is."""
    place, dtype = TorchSettings(device, job.numerics.dtype, job.numerics.threads).apply()
    tokenizer = PairTokenizer(tokenizer_path(job.model), job.spec.context)
    return load_language_model(Path(job.model.name), dtype, place), tokenizer, place


def _row_ids(found: TopK, row: int) -> set[int]:
    return set(found.feature_ids[found.starts[row] : found.starts[row + 1]].tolist())


def _frame(number: int, question: Question, score: language_model.PairScore) -> Frame:
    first, second = (SolutionScore(each, 1, "▁") for each in score.log_likelihoods)
    return frame_record(question, (first, second), (2 * number, 2 * number + 1))


def _by_dicts(
    questions: Sequence[Question],
    scores: Sequence[language_model.PairScore],
    layers: Sequence[int],
    found: Sequence[TopK],
) -> list[bytes]:
    """The same records, the usual way."""
    lines = []
    for number, question in enumerate(questions):
        details = []
        for side in (0, 1):
            row, by_layer, counts = 2 * number + side, {}, {}
            for layer, each in zip(layers, found, strict=True):
                part = slice(each.starts[row], each.starts[row + 1])
                by_layer[str(layer)] = [
                    {"feature_id": feature_id, "activation": activation, "layer": layer}
                    # float32 as such, because a float64 of it has twice the digits
                    for feature_id, activation in zip(
                        each.feature_ids[part].tolist(), each.activations[part], strict=True
                    )
                ]
                counts[str(layer)] = int(each.active_counts[row])
            details.append(
                {
                    "text": (question.sol1, question.sol2)[side],
                    "log_likelihood": scores[number].log_likelihoods[side],
                    "active_features_by_layer": by_layer,
                    "active_feature_count_by_layer": counts,
                    "token_count": 1,
                    "final_token": "▁",
                }
            )
        record = {
            "example_id": question.example_id,
            "question": question.goal,
            "model_is_correct": True,
            "positive_solution_details": details[0],
            "negative_solution_details": details[1],
        }
        lines.append(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    return lines


@dataclass
class WholeJob:
    """What `layerscope run` came to, from the first batch's start to the last line on the disk."""

    seconds: float
    questions: int
    first_record: float
    """Seconds from the command to the first line in the file."""
    gemma_waits: float
    """Share of the time between its first and its last batch in which a Gemma actor had none."""
    nobody_works: float
    """Share of the time in which neither a Gemma actor nor an encoder was at work."""
    ray_cpu: float
    """Share of all CPU time that the driver and Ray's own processes took."""
    memory: dict[str, int]
    """Largest resident memory, in bytes, of each kind of process."""
    spans: dict[str, float]
    """Seconds of all passes (`score`) and of all encoding (`encode`), which go on side by side."""


def whole_job(command: Sequence[str], environment: dict[str, str], records: Path, timeline: Path) -> WholeJob:
    """Runs the command in a process of its own and watches it."""
    started = time.time()
    process = subprocess.Popen(
        [*command, "--output-file", str(records), "--timeline", str(timeline), "--overwrite"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    first_record = 0.0
    memory: dict[str, int] = defaultdict(int)
    samples: list[tuple[float, dict[str, float]]] = []  # CPU seconds so far, by kind of process
    root = psutil.Process(process.pid)
    while process.poll() is None:
        if not first_record and records.exists() and records.stat().st_size:
            first_record = time.time() - started
        cpu: dict[str, float] = defaultdict(float)
        for each in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error, OSError):
                kind, used = _kind(each, root), each.cpu_times()
                memory[kind] = max(memory[kind], largest_memory(each.pid))
                cpu[kind] += used.user + used.system
        samples.append((1e6 * time.time(), cpu))
        time.sleep(0.4 if first_record else 0.1)  # looking takes milliseconds, which the job has to wait for
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors[-2000:])
    spans = [event for event in json.loads(timeline.read_text()) if event["ph"] == "X"]
    working = [event for event in spans if event["name"] in ("score", "encode")]
    begin = min(event["ts"] for event in working)
    end = max(event["ts"] + event["dur"] for event in spans)
    # The last samples before these moments: a moment after the last line the actors are gone, and their time with them.
    before, after = ([cpu for at, cpu in samples if at <= moment][-1] for moment in (begin, end))
    used_by = {kind: after[kind] - before[kind] for kind in after}
    overhead = sum(seconds for kind, seconds in used_by.items() if kind not in ("gemma", "encoder"))
    with records.open("rb") as file:
        questions = sum(1 for _ in file)
    return WholeJob(
        (end - begin) / 1e6,
        questions,
        first_record,
        _waits([event for event in spans if event["name"] == "score"]),
        max(0.0, 1 - _covered(working) / (end - begin)),  # microseconds since 1970 have no digits to spare
        overhead / (sum(used_by.values()) or 1),  # a job of a moment has no two samples
        dict(memory),
        {name: sum(event["dur"] for event in working if event["name"] == name) / 1e6 for name in ("score", "encode")},
    )


def _kind(process: psutil.Process, root: psutil.Process) -> str:
    if process == root:
        return "driver"
    title = " ".join(process.cmdline())
    for name, kind in (("GemmaActor", "gemma"), ("EncoderActor", "encoder")):
        if name in title:
            return kind
    return "ray"


def _waits(scores: list[dict[str, Any]]) -> float:
    """Mean over the Gemma actors of the share of their time without a batch."""
    by_actor = defaultdict(list)
    for event in scores:
        by_actor[event["tid"]].append(event)
    shares = []
    for events in by_actor.values():
        begin, end = min(event["ts"] for event in events), max(event["ts"] + event["dur"] for event in events)
        shares.append(max(0.0, 1 - _covered(events) / (end - begin)))
    return float(np.mean(shares))


def _covered(events: list[dict[str, Any]]) -> float:
    """How long at least one of the spans lasted."""
    covered, reached = 0.0, 0.0
    for begin, end in sorted((event["ts"], event["ts"] + event["dur"]) for event in events):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered
