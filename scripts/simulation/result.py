"""What a run came to, and the table of several."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Run:
    """What a run came to: seconds, bytes and counts."""

    gemma_actors: int
    encoders: int
    nodes: int
    batches: int
    questions: int
    bytes: int
    wall: float
    ideal: float
    """Questions per second of all Gemma actors, if nothing ever made them wait."""
    cpu: float
    """Of the driver's thread, all in all."""
    write_cpu: float
    """Of the thread that writes, in the journal, from the pieces of a record to the disk."""
    ray_cpu: float
    """Of the driver's thread, in `ray.wait` and `ray.get`."""
    other_threads_cpu: float
    """Of all others in the driver's process: the one that hashes, and Ray's own."""
    raylet_cpu: float
    """Of the raylet beside the driver, which fetches objects."""
    disk_wait: float
    """Of the thread that writes, until what it wrote is on the disk."""
    writer_wait: float
    """Of the driver's thread, until the batch before is on the disk."""
    fetch_wait: float
    idle: float
    """In `ray.wait`: there was nothing to do."""
    head_of_line_mean: float
    """Between a batch's last block and the last block of the batches before it."""
    head_of_line_max: float
    memory: int
    """Largest private memory of the driver; the object store, which is mapped, is not in it."""
    deaths: int
    actors_lost: int
    plain_write: float
    """For as many bytes in pieces of a record's size to the same file system, until they are on the disk: the limit."""

    @property
    def derived(self) -> float:
        """Questions per second by the CPU time alone of the driver's two threads, which work side by side."""
        return self.questions / max(self.cpu, self.write_cpu)

    @property
    def derived_with_waits(self) -> float:
        return self.questions / max(self.cpu + self.fetch_wait, self.write_cpu + self.disk_wait)


def table(runs: list[Run], rate: float) -> str:
    """Runs side by side, a line for every figure; `rate` is a GPU's, in questions per second."""

    def per_question(seconds: Callable[[Run], float]) -> Callable[[Run], str]:
        return lambda run: f"{1e6 * seconds(run) / run.questions:,.0f}"

    figures: list[tuple[str, Callable[[Run], str]]] = [
        ("Gemma actors", lambda run: f"{run.gemma_actors}"),
        ("encoders / nodes", lambda run: f"{run.encoders} / {run.nodes}"),
        ("questions / batches", lambda run: f"{run.questions:,} / {run.batches:,}"),
        ("ideal questions/s", lambda run: f"{run.ideal:,.0f}"),
        ("measured questions/s", lambda run: f"{run.questions / run.wall:,.0f}"),
        ("  of the ideal", lambda run: f"{run.questions / run.wall / run.ideal:.1%}"),
        ("  MB/s written", lambda run: f"{run.bytes / run.wall / 1e6:,.0f}"),
        ("  MB/s of plain writing", lambda run: f"{run.bytes / run.plain_write / 1e6:,.0f}"),
        ("driver's thread: CPU share", lambda run: f"{run.cpu / run.wall:.0%}"),
        ("  us CPU a question", per_question(lambda run: run.cpu)),
        ("    in ray.get, ray.wait", per_question(lambda run: run.ray_cpu)),
        ("  us waiting for objects", per_question(lambda run: run.fetch_wait)),
        ("  us waiting for the writer", per_question(lambda run: run.writer_wait)),
        ("  nothing to do", lambda run: f"{run.idle / run.wall:.0%}"),
        ("writer's thread, us CPU", per_question(lambda run: run.write_cpu)),
        ("  us waiting for the disk", per_question(lambda run: run.disk_wait)),
        ("hashing, Ray's threads, us", per_question(lambda run: run.other_threads_cpu)),
        ("head node's raylet, us", per_question(lambda run: run.raylet_cpu)),
        ("driver's memory, MiB", lambda run: f"{run.memory / (1 << 20):,.0f}"),
        ("head of line, s: mean / max", lambda run: f"{run.head_of_line_mean:.2f} / {run.head_of_line_max:.2f}"),
        ("deaths / actors lost", lambda run: f"{run.deaths} / {run.actors_lost}"),
        ("derived questions/s: CPU", lambda run: f"{run.derived:,.0f}"),
        ("  and waits", lambda run: f"{run.derived_with_waits:,.0f}"),
        ("  feeds so many GPUs", lambda run: f"{run.derived_with_waits / rate:,.1f} to {run.derived / rate:,.1f}"),
    ]
    lines = [f"{name:<28}" + "".join(f"{figure(run):>17}" for run in runs) for name, figure in figures]
    return "\n".join(lines)
