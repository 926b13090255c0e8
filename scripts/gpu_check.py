#!/usr/bin/env python3
"""Checks and measures layerscope on a machine with a GPU, in at most four minutes and without a network.

    scripts/gpu_check.py FOLDER [--size full] [--device cuda] [--dataset FILE] [--sections card correct ...]

Figures go to FOLDER/figures.json as they come, beside the profile's table and Chrome trace. Every section has a process
and a time of its own, so that one that fails or is slow does not take the others with it:

- `card`: its name, and how fast it multiplies;
- `correct`: log-likelihoods and strongest features in float32 against the CPU's, for two small models;
- `parts`: the forward pass and the encoders at the size that is asked for, without Ray, and a profile of them;
- `job`: the whole job as `layerscope run` does it;
- `bytes`: the same file from one encoder a block, from four, and after a kill;
- `baseline`: plain transformers with sorted, padded batches.

`--device cpu --size tiny` rehearses it on any machine.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SECTIONS = {"card": 45, "correct": 90, "parts": 120, "job": 120, "bytes": 100, "baseline": 90}
_TOTAL_SECONDS = 235


def main() -> None:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.only:
        run_section(options)
        return
    begin = time.monotonic()
    figures: dict[str, Any] = {}
    for section in options.sections:
        left = options.seconds - (time.monotonic() - begin)
        if left < 5:
            figures[section] = {"failed": "no time was left"}
        else:
            figures[section] = in_a_process(options, section, min(SECTIONS[section], left))
        (options.folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({section: figures[section]}, indent=None), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    bundled = Path(__file__).parents[1] / "distributed/layerscope/standin/questions.jsonl"
    add("folder", type=Path)
    add("--size", choices=["tiny", "small", "full"], default="full")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--dataset", type=Path, default=bundled, help="questions as JSON lines; the bundled ones by default")
    add("--repeat", type=int, default=1, help="how often they are taken, so that a job lasts")
    add("--scratch", type=Path, help="a folder for model, SAEs and records; FOLDER by default")
    add("--batch-tokens", type=int, default=8192)
    add("--sections", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    add("--seconds", type=float, default=_TOTAL_SECONDS, help="for everything")
    add("--job-options", default="", help="more options of `layerscope run`")
    add("--only", choices=list(SECTIONS), help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_process(options: argparse.Namespace, section: str, seconds: float) -> dict[str, Any]:
    """The figures of a section, or how it failed."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", section]
    begin = time.monotonic()
    with (options.folder / f"{section}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            status: int | str = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = "out of time"
    part = options.folder / f"{section}.json"
    figures = json.loads(part.read_text()) if part.exists() else {}
    if status:
        tail = (options.folder / f"{section}.log").read_text(errors="replace")[-1500:]
        figures |= {"failed": status, "log": tail}
    return {**figures, "seconds": round(time.monotonic() - begin, 1)}


def run_section(options: argparse.Namespace) -> None:
    from benchmarking import on_gpu

    figures = on_gpu.Figures(options.folder / f"{options.only}.json")
    getattr(on_gpu, options.only)(options, figures)


if __name__ == "__main__":
    main()
