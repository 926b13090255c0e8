#!/usr/bin/env python3
"""Measures layerscope against what one would otherwise write, and against this machine's own limit, in one run.

    scripts/benchmark.py [small|full|gemma3-1b] [--dtype bfloat16] [--dataset FILE] [--questions 192] [--json FILE]
        [--plot FILE]

`small` takes two minutes, half of them the driver's. `full` has the exact shape of Gemma-2-2B and of 26 Gemma Scope
SAEs of width 16k (5.2 and 3.9 GB, with random weights, made on the spot, nothing downloaded); it takes some minutes and
14 GB of memory, 20 in float32. `gemma3-1b` has the shape of that model, with SAEs of width 16k as well.

Everything is measured in processes of its own, one after the other, on the same questions, tokens and weights:

- the limit: what this machine's matrix products take, by the best rate of some large ones, for the operations that
  cannot be done without (each shared token once, the output projection where a solution token is predicted);
- the baseline: one solution at a time, full logits, hooks, encode layer by layer, dicts, one `json.dump`;
- the strong baseline: plain transformers, sorted, padded, both solutions of many questions in a batch, logits only
  where needed, encode in batches, orjson;
- layerscope: its parts without Ray, and the whole job as `layerscope run` does it, Ray's start not counted;
- the same job right behind it with four readings, with a second dictionary, with `--attribution gradient`: how many
  times the plain job's time and memory each takes, beside how many times its matrix products;
- questions of four choices, made of the file's own: the whole job, and the strong baseline;
- ablations: ours, the forward pass from the feature's layer on, and whole passes of plain transformers;
- one driver with actors that answer at once (`scripts/simulate_cluster.py`), beside plain writing of the same bytes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from benchmarking import ablating, contenders, inputs, limit, ours
from benchmarking.inputs import SHAPES
from benchmarking.measure import Answers, apart
from benchmarking.report import draw, table

from layerscope.config import Config
from layerscope.planning.job import Job
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare

VARIANTS = {
    "readings": {"readings": "final,last-word,max,prompt"},
    "dictionary": {"dictionary": "more={}/more-saes"},
    "attribution": {"attribution": "gradient"},
}
"""Pieces that are the whole job once more, with other settings, in which {} is the folder of what was made."""
PIECES = ("baselines", "parts", "job", *VARIANTS, "four-choices", "ablate", "driver")
BUNDLED = Path(__file__).parents[1] / "distributed/layerscope/standin/questions.jsonl"
_BASELINE_SHARE = 8  # of the questions one in so many is enough for the slow baseline
_FOUR_CHOICES_SHARE = 2  # and for questions of four choices, which are twice as long


def main() -> None:
    options = parse()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="layerscope-benchmark-", dir=options.folder) as temporary:
        scratch = Path(temporary)
        kept = (options.folder or scratch) / f"benchmark-{options.shape}"
        figures = measure(options, kept, scratch)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        draw(figures, options.plot)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("shape", choices=list(SHAPES), nargs="?", default="small")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the model")
    add("--sae-dtype", choices=["float32", "bfloat16"], default="float32")
    add("--dataset", type=Path, default=BUNDLED, help="questions as JSON lines; the bundled ones by default")
    add("--questions", type=int, default=0, help="how many of them; 200 for small, 192 for the models' own sizes")
    add("--batch-tokens", default="auto")
    add("--skip", nargs="*", default=[], choices=PIECES, help="leave these out")
    add("--folder", type=Path, help="keeps model, SAEs and the tokeniser learned from the questions for the next time")
    add("--json", type=Path, help="a file for all figures")
    add("--plot", type=Path, help="a PNG file for a picture of where the time goes")
    return parser.parse_args()


def measure(options: argparse.Namespace, kept: Path, scratch: Path) -> dict[str, Any]:
    """All figures, as JSON takes them."""
    shape = SHAPES[options.shape]
    note(f"making model and SAEs in {kept}")
    apart(inputs.make, shape, options.dataset, kept)
    # What is derived from the SAEs lies with them, not in the user's own cache.
    environment = {"HF_HOME": str(kept / "cache"), "HF_HUB_OFFLINE": "1"}
    os.environ.update(environment)
    settings = {
        "model": str(kept / "model"),
        "sae_repo": str(kept / "saes"),
        "dataset": str(options.dataset),
        "num_samples": options.questions or {"tiny": 24, "small": 200}.get(shape.name, 192),
        "dtype": options.dtype,
        "sae_dtype": options.sae_dtype,
        "batch_tokens": options.batch_tokens if options.batch_tokens == "auto" else int(options.batch_tokens),
        "address": "local",
    }
    job = prepared(settings)
    device = job.placement.device
    figures = circumstances(job, shape)
    figures["limit"] = limits(figures, shape)
    figures["work"] = {"job": asdict(limit.work(shape, limit.counts(job)))}
    others: dict[str, Answers] = {}
    if "baselines" not in options.skip:
        of_baselines, others = baselines(job, scratch)
        figures |= of_baselines
    if "parts" not in options.skip:
        note("layerscope's parts")
        parts, memory = apart(ours.parts, job, device, scratch / "parts.jsonl")
        figures["parts"] = {name: value for name, value in vars(parts).items() if name != "answers"}
        figures["parts"]["memory"] = memory
        if others:
            figures["agreement"] = agreements({"layerscope": parts.answers, **others})
    if "job" not in options.skip:
        note("the whole job")
        figures["job"] = whole_job(settings, environment, scratch)
    for name in [each for each in VARIANTS if each not in options.skip]:
        note(f"the whole job, {name}")
        if name == "dictionary":
            inputs.make_more_saes(shape, kept)
        varied = {**settings, **{key: value.format(kept) for key, value in VARIANTS[name].items()}}
        asked = {**varied, "dictionary": (varied["dictionary"],)} if "dictionary" in varied else varied
        once_more = prepared(asked)
        counted, attributed = limit.counts(once_more), once_more.reading.attribution is not None
        figures["work"][name] = asdict(limit.work(shape, counted, len(once_more.dictionaries), attributed))
        figures[name] = whole_job(varied, environment, scratch)
    if "four-choices" not in options.skip:
        figures["four_choices"] = four_choices(settings, environment, scratch, figures["work"], shape)
    if "ablate" not in options.skip:
        note("ablations")
        ablations, _ = apart(ablating.ablations, job, device)
        figures["ablate"] = {kind: asdict(of_kind) for kind, of_kind in ablations.items()}
    figures["limit_again"] = limits(figures, shape)
    if "driver" not in options.skip:
        note("one driver")
        figures["driver"] = one_driver(scratch)
    return figures


def prepared(settings: Mapping[str, Any]) -> Job:
    """The job of these settings, every question of which can be scored."""
    job = prepare(Config(**settings), [probe()])
    if job.plan.unscorable:
        raise SystemExit(
            f"{settings['dataset']} has {job.plan.unscorable} questions that cannot be scored: leave them out."
        )
    return job


def four_choices(
    settings: Mapping[str, Any],
    environment: dict[str, str],
    scratch: Path,
    work: dict[str, Any],
    shape: inputs.Shape,
) -> dict[str, Any]:
    """The whole job and the strong baseline over questions with four solutions; notes their work."""
    note("the whole job, four choices")
    file, count = scratch / "four.jsonl", max(1, settings["num_samples"] // _FOUR_CHOICES_SHARE)
    inputs.write_four_choices(Path(settings["dataset"]), count, file)
    settings = {**settings, "dataset": str(file), "num_samples": count}
    job = prepared(settings)
    counted = limit.counts(job)
    work["four-choices"] = asdict(limit.work(shape, counted))
    done = whole_job(settings, environment, scratch)
    note("strong baseline, four choices")
    arguments = job, job.plan.order.tolist(), job.placement.device, scratch / "strong.jsonl"
    strong, memory = apart(contenders.strong_baseline, *arguments)
    return {"job": done, "tokens": counted.tokens, "strong_baseline": strong.per_question, "memory": memory}


def whole_job(settings: Mapping[str, Any], environment: dict[str, str], scratch: Path) -> dict[str, Any]:
    """What `layerscope run` with these settings came to."""
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "layerscope", "run", *words]
    return asdict(ours.whole_job(command, environment, scratch / "records.jsonl", scratch / "timeline.json"))


def circumstances(job: Job, shape: inputs.Shape) -> dict[str, Any]:
    """What is measured, with what, and on what."""
    return {
        "commit": git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain") else ""),
        "hardware": job.placement.hardware,
        "cpus": len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in ("torch", "transformers", "ray", "numpy", "orjson")},
        "shape": asdict(shape),
        "device": job.placement.device,
        "dtype": job.numerics.dtype,
        "sae_dtype": job.numerics.sae_dtype,
        "threads": job.numerics.threads,
        "batch_tokens": job.numerics.batch_tokens,
        "questions": job.n_questions,
        "shared_tokens": job.plan.shared_tokens,
        "unshared_tokens": job.plan.unshared_tokens,
    }


def baselines(job: Job, scratch: Path) -> tuple[dict[str, Any], dict[str, Answers]]:
    """The baselines' figures, and their answers by name; `float32` is what the answers in another format should be."""
    device, by_length = job.placement.device, job.plan.order.tolist()
    some = by_length[_BASELINE_SHARE // 2 :: _BASELINE_SHARE]
    note(f"baseline, {len(some)} questions")
    plain, plain_memory = apart(contenders.baseline, job, some, device, scratch / "baseline.json")
    note("strong baseline")
    strong, strong_memory = apart(contenders.strong_baseline, job, by_length, device, scratch / "strong.jsonl")
    answers = {"the baseline": plain.answers, "the strong baseline": strong.answers}
    if job.numerics.dtype != "float32":
        note("baseline in float32, whose numbers the others are held against")
        wide = replace(job, numerics=replace(job.numerics, dtype="float32"))
        reference, _ = apart(contenders.baseline, wide, some, device, scratch / "baseline.json")
        answers["float32"] = reference.answers
    return {
        "baseline": {"per_question": plain.per_question, "questions": len(some), "memory": plain_memory},
        "strong_baseline": {"per_question": strong.per_question, "memory": strong_memory},
    }, answers


def limits(figures: dict[str, Any], shape: inputs.Shape) -> dict[str, float]:
    """FLOP/s in the model's and in the SAEs' number format."""
    return {
        dtype: apart(limit.matrix_rate, shape, dtype, figures["device"])[0]
        for dtype in sorted({figures["dtype"], figures["sae_dtype"]})
    }


def agreements(answers: dict[str, Answers]) -> dict[str, dict[str, float]]:
    """How near layerscope is to everybody else, and everybody to float32."""
    pairs = [("layerscope", name) for name in answers if name != "layerscope"]
    pairs += [(name, "float32") for name in answers if "float32" in answers and name not in ("layerscope", "float32")]
    return {f"{one} and {other}": agreement(answers[one], answers[other]) for one, other in pairs}


def agreement(mine: Answers, theirs: Answers) -> dict[str, float]:
    """How near two ways to the same numbers are."""
    log_likelihoods, same = [], []
    for example_id, solutions in theirs.items():
        for (mine_ll, mine_ids), (their_ll, their_ids) in zip(mine[example_id], solutions, strict=True):
            log_likelihoods.append(abs(mine_ll - their_ll))
            same += [a == b for a, b in zip(mine_ids, their_ids, strict=True)]
    return {
        "largest_difference": max(log_likelihoods),
        "mean_difference": float(np.mean(log_likelihoods)),
        "same_top_k": float(np.mean(same)),
    }


def one_driver(scratch: Path) -> dict[str, Any]:
    """What the driver sustains at 26 layers and 100 features, and what plain writing of as many bytes does."""
    report = scratch / "driver.json"
    script = Path(__file__).parent / "simulate_cluster.py"
    options = ["--one-node", "--actors", "1", "--gpus-per-node", "2", "--questions-per-second-per-gpu", "1e6"]
    runs = {}
    for name, more in (("plain", []), ("compressed", ["--compressed"])):
        command = [sys.executable, str(script), *options, *more, "--folder", str(scratch), "--json", str(report)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (runs[name],) = json.loads(report.read_text())["runs"]
    return runs


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def note(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
