"""The sections of `scripts/gpu_check.py`: each writes its figures as they come."""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarking import contenders, inputs, limit, ours
from benchmarking.gpu_steps import Figures, details, profile, seconds_of, steady
from benchmarking.inputs import SHAPES
from layerscope.config import Config
from layerscope.engine.batches.answers import TorchSettings
from layerscope.models.language_model import LanguageModel
from layerscope.models.loading import load_language_model
from layerscope.models.pair_attention import lay_out
from layerscope.models.spec import tokenizer_path
from layerscope.planning.job import Job
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.saes.cache import load_encoder
from layerscope.saes.encoder import SaeEncoder, TopK, encode_top_k

_TOLERANCE = 2e-3  # of a log-likelihood in float32


def card(options: argparse.Namespace, figures: Figures) -> None:
    """What it is, and its matrix products' best rates."""
    figures.add(versions={"torch": torch.__version__, "cuda": torch.version.cuda}, cpus=len(os.sched_getaffinity(0)))
    if options.device == "cuda":
        figures.add(card=torch.cuda.get_device_name(), gib=torch.cuda.get_device_properties(0).total_memory / 2**30)
    TorchSettings(options.device, "float32", None).apply()
    shape = SHAPES[options.size]
    for dtype in ("bfloat16", "float32"):
        figures.add(**{f"{dtype}_tflops": limit.matrix_rate(shape, dtype, options.device) / 1e12})


def correct(options: argparse.Namespace, figures: Figures) -> None:
    """Float32 on the device against float32 on the CPU."""
    for size in ("tiny", "small")[: 1 + (options.size != "tiny")]:
        job = _job(options, size, "float32", num_samples=60)
        (one, mine), (other, theirs) = (_answers(job, device) for device in (options.device, "cpu"))
        differences = np.abs(np.array(one) - np.array(other))
        lists = [
            _same_list(a, b, row) for a, b in zip(mine, theirs, strict=True) for row in range(len(a.active_counts))
        ]
        figures.add(
            **{
                f"{size}_largest_difference": float(differences.max()),
                f"{size}_within": bool(differences.max() <= _TOLERANCE),
                f"{size}_lists": len(lists),
                f"{size}_unequal_lists": len(lists) - sum(lists),
            }
        )


def _answers(job: Job, device: str) -> tuple[list[float], list[TopK]]:
    """The log-likelihoods of all questions, and the features of all rows, layer by layer and batch by batch."""
    place, _ = TorchSettings(device, "float32", os.cpu_count()).apply()
    model, tokenizer, saes = _loaded(job, torch.float32, place)
    log_likelihoods: list[float] = []
    found = []
    for batch in range(len(job.plan)):
        pairs = _pairs(job, tokenizer, batch)
        result = model.forward(pairs, job.layers)
        log_likelihoods += [number for score in result.scores for number in score.log_likelihoods]
        residuals = result.residuals.to(place)
        found += [encode_top_k(rows, sae, 100) for rows, sae in zip(residuals, saes, strict=True)]
    return log_likelihoods, found


def _same_list(mine: TopK, theirs: TopK, row: int) -> bool:
    """Whether two lists hold the same features in the same order, but for neighbours that are as strong as each other.

    Two activations are as strong if they differ by less than what float32 rounds.
    """
    ids, strengths = zip(
        *(
            (t.feature_ids[t.starts[row] : t.starts[row + 1]], t.activations[t.starts[row] : t.starts[row + 1]])
            for t in (mine, theirs)
        ),
        strict=True,
    )
    if len(ids[0]) != len(ids[1]) or not np.allclose(*strengths, rtol=1e-4, atol=1e-4):
        return False
    moved = np.flatnonzero(ids[0] != ids[1])
    # A feature that stands elsewhere must be as strong as the one that stands there.
    of = dict(zip(ids[1].tolist(), strengths[1].tolist(), strict=True))
    last = strengths[1][-1:].tolist()
    return all(
        abs(of.get(int(ids[0][i]), last[0]) - strengths[1][i]) < 2e-4 * max(1.0, abs(strengths[1][i])) for i in moved
    )


def parts(options: argparse.Namespace, figures: Figures) -> None:
    """The forward pass and the encoders over real batches, without Ray; what each kernel takes; a profile."""
    shape = SHAPES[options.size]
    place, dtype = TorchSettings(options.device, "bfloat16", None).apply()
    job = _job(options, options.size, "bfloat16")
    model, tokenizer, saes = _loaded(job, dtype, place)
    batches = [_pairs(job, tokenizer, batch) for batch in range(min(len(job.plan) - 1, 12) or 1)]
    layout = lay_out(batches[0], model.transfers)
    plain = LanguageModel(model.model, None, model.transfers)
    with torch.inference_mode():
        ways = {"modules": plain.through_modules}
        if model.decoder is not None:
            ways["fused"] = model.decoder.forward
            (mine, _), (theirs, _) = (way(layout, job.layers, layout.read_tokens) for way in ways.values())
            figures.add(bfloat16_distance=float((mine.float() - theirs.float()).norm() / theirs.float().norm()))
        for name, way in ways.items():
            figures.add(
                **{f"body_{name}_ms": 1e3 * seconds_of(lambda way=way: way(layout, job.layers, layout.read_tokens))}
            )
    figures.add(tokens=len(layout.tokens), questions=len(batches[0]), predictors=len(layout.predictors))
    figures.add(forward_ms=1e3 * seconds_of(lambda: model.forward(batches[0], job.layers)))
    residuals = model.forward(batches[0], job.layers).residuals.to(place)
    figures.add(
        encode_ms=1e3
        * seconds_of(lambda: [encode_top_k(rows, sae, 100) for rows, sae in zip(residuals, saes, strict=True)])
    )
    steady(model, batches, job, figures)
    if options.device == "cuda":
        details(model, layout, saes[0], residuals[0], figures)
        figures.add(peak_gib=torch.cuda.max_memory_allocated() / 2**30)
    work = limit.work(shape, limit.Counts(1, len(layout.tokens), len(layout.predictors), 2 * len(batches[0])))
    figures.add(batch_work=asdict(work))
    profile(model, batches[0], job, residuals, saes, options.folder)


def job(options: argparse.Namespace, figures: Figures) -> None:
    """The whole job at the size that is asked for."""
    prepared = _job(options, options.size, "bfloat16")
    figures.add(
        made=True, batches=len(prepared.plan), questions=prepared.n_questions, tokens=prepared.plan.shared_tokens
    )
    scratch = _scratch(options)
    watch = None
    if options.device == "cuda":
        query = "--query-gpu=timestamp,utilization.gpu,power.draw,clocks.sm,memory.used"
        watch = subprocess.Popen(
            ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "250"],
            stdout=(options.folder / "card.csv").open("w"),
        )
    try:
        command = [*_command(options, options.size, "bfloat16"), *options.job_options.split()]
        timeline = options.folder / "timeline.json"
        done = ours.whole_job(command, _environment(options, options.size), scratch / "job.jsonl", timeline)
    finally:
        if watch:
            watch.terminate()
    figures.add(**asdict(done), questions_per_second=done.questions / done.seconds)
    figures.add(
        bytes=(scratch / "job.jsonl").stat().st_size, stages=_stages(timeline), **_once_all_work(prepared, timeline)
    )
    (scratch / "job.jsonl").unlink()


def _once_all_work(prepared: Job, timeline: Path) -> dict[str, float]:
    """The rate from the first line to the last: an encoder that loads for longer than the others counts in no rate."""
    events = json.loads(timeline.read_text())
    written = sorted((event["ts"], event["args"]["batch"]) for event in events if event["name"] == "write")
    questions = sum(len(prepared.plan.batch(batch)) for _, batch in written[1:])
    return {"questions_per_second_once_all_work": 1e6 * questions / (written[-1][0] - written[0][0])}


def _stages(timeline: Path) -> dict[str, dict[str, float]]:
    """By stage and actor, how many spans there were, their mean length and their sum, in seconds."""
    events = json.loads(timeline.read_text())
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    stages: dict[str, list[float]] = {}
    for event in events:
        if event["ph"] == "X":
            stages.setdefault(f"{event['name']} {names[event['tid']]}", []).append(event["dur"] / 1e6)
    return {name: {"count": len(all_), "mean": float(np.mean(all_)), "sum": sum(all_)} for name, all_ in stages.items()}


def bytes(options: argparse.Namespace, figures: Figures) -> None:
    """The same bytes from one encoder a block, from four, and after a kill; side by side: they need no timing."""
    size = "tiny" if options.size == "tiny" else "small"
    _job(options, size, "bfloat16")
    scratch, environment = _scratch(options), {**os.environ, **_environment(options, size)}
    command = [*_command(options, size, "bfloat16"), "--batch-tokens", "512", "--address", "local"]

    def run(name: str, *more: str, killed_at: int = 0) -> Path:
        records = scratch / f"{name}.jsonl"
        words = [*command, *more, "--output-file", str(records)]
        with (options.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
            while killed_at and process.poll() is None:
                if records.exists() and records.stat().st_size > killed_at:
                    process.kill()
                time.sleep(0.02)
            process.wait()
        return records

    with ThreadPoolExecutor(3) as threads:
        one = threads.submit(run, "one", "--encoders-per-block", "1", "--layer-blocks", "1")
        four = threads.submit(run, "four", "--encoders-per-block", "1", "--layer-blocks", "4")
        killed = threads.submit(run, "killed", killed_at=1)
        kept = killed.result().stat().st_size
        resumed = run("killed")
    contents = [path.read_bytes() for path in (one.result(), four.result(), resumed)]
    figures.add(
        bytes=len(contents[0]),
        killed_at=kept,
        one_and_four_are_equal=contents[0] == contents[1],
        killed_and_resumed_is_equal=contents[0] == contents[2],
    )


def baseline(options: argparse.Namespace, figures: Figures) -> None:
    """Plain transformers, sorted and padded, on some of the questions."""
    whole = _job(options, options.size, "bfloat16")
    ids = whole.plan.order[:: max(1, whole.n_questions // 400)].tolist()
    contenders._STRONG_TOKENS = 8192 if options.device == "cuda" else 2048
    done = contenders.strong_baseline(whole, ids, options.device, _scratch(options) / "strong.jsonl")
    figures.add(questions=done.questions, seconds=done.seconds, questions_per_second=1 / done.per_question)


def _scratch(options: argparse.Namespace) -> Path:
    folder: Path = options.scratch or options.folder
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _dataset(options: argparse.Namespace) -> Path:
    """The questions, as often as they are taken; labels as they are, or 0."""
    path = _scratch(options) / "questions.jsonl"
    if not path.exists():
        rows = [{"label": 0, **json.loads(line)} for line in options.dataset.read_text(encoding="utf-8").splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows * options.repeat), encoding="utf-8")
    return path


def _environment(options: argparse.Namespace, size: str) -> dict[str, str]:
    return {"HF_HOME": str(_scratch(options) / size / "cache"), "HF_HUB_OFFLINE": "1"}


def _settings(options: argparse.Namespace, size: str, dtype: str) -> dict[str, Any]:
    kept = _scratch(options) / size
    return {
        "model": str(kept / "model"),
        "sae_repo": str(kept / "saes"),
        "dataset": str(_dataset(options)),
        "num_samples": "all",
        "dtype": dtype,
        "batch_tokens": options.batch_tokens if size == options.size else 1024,
        "device": options.device,
    }


def _command(options: argparse.Namespace, size: str, dtype: str) -> list[str]:
    settings = _settings(options, size, dtype)
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "layerscope", "run", *words]


def _job(options: argparse.Namespace, size: str, dtype: str, num_samples: int | str = "all") -> Job:
    """A job at a size, whose files are made where they are not there."""
    os.environ.update(_environment(options, size))
    settings = _settings(options, size, dtype)
    inputs.make(SHAPES[size], Path(settings["dataset"]), _scratch(options) / size, options.device)
    found = prepare(Config(**{**settings, "num_samples": num_samples, "address": "local"}), [probe()])
    assert not found.plan.unscorable
    return found


def _loaded(job: Job, dtype: torch.dtype, place: torch.device) -> tuple[LanguageModel, PairTokenizer, list[SaeEncoder]]:
    tokenizer = PairTokenizer(tokenizer_path(job.model), job.spec.context)
    model = load_language_model(Path(job.model.name), dtype, place)
    load = lambda sae: load_encoder(job.sae_repository, sae, job.spec.d_model, torch.float32, place)  # noqa: E731
    with ThreadPoolExecutor(8) as threads:
        return model, tokenizer, list(threads.map(load, job.saes))


def _pairs(job: Job, tokenizer: PairTokenizer, batch: int) -> list[Pair]:
    questions = [job.selection[int(example_id)] for example_id in job.plan.batch(batch)]
    return [pair for pair in tokenizer.pairs(questions) if isinstance(pair, Pair)]
