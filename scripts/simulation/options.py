"""The options of the simulation."""

import argparse
from pathlib import Path


def parse(about: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--actors", type=int, nargs="+", default=[1, 8, 64, 256], help="Gemma actors: a run for each number")
    add("--writers", type=int, nargs="+", default=[1], help="that each run has: one number, or one for every run")
    add("--questions-per-second-per-gpu", type=float, default=1700.0)
    add("--seconds", type=float, default=20.0, help="a run has so much work, at the GPUs' speed")
    add("--gigabytes", type=float, default=2.0, help="and writes at most so much")
    add("--store-megabytes", type=float, help="of a node's object store, instead of more than all that is written")
    add("--batch-tokens", type=int, default=8192)
    add("--top-k", type=int, default=100)
    add("--layer-blocks", default="auto", help="that the layers are cut into: a call of an encoder for each")
    add("--compressed", action="store_true", help="the records are zstd frames, made before the clock starts")
    add("--gpus-per-node", type=int, default=32, help="a node costs this machine three processes")
    add("--one-node", action="store_true", help="the driver's node is the one with the GPUs: no byte is carried")
    add("--deaths", type=float, default=0.0, help="chance of a death with every batch that is written")
    add("--slow-disk", type=float, default=0.0, help="seconds that every batch waits for the disk, beside its own")
    add("--stragglers", type=float, default=0.0, help="share of the Gemma actors that are slow")
    add("--late", type=float, default=0.0, help="share of a run's new Gemma nodes that join late")
    add("--seed", type=int, default=0)
    add("--folder", type=Path, help="where the records lie for a while, instead of the system's own")
    add("--json", type=Path, help="a file that gets the report, too")
    options = parser.parse_args()
    options.layer_blocks = options.layer_blocks if options.layer_blocks == "auto" else int(options.layer_blocks)
    if len(options.writers) not in (1, len(options.actors)):
        parser.error(f"--writers has {len(options.writers)} numbers, and --actors {len(options.actors)}")
    return options
