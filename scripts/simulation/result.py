"""What a run came to, and the table of several."""

from collections.abc import Callable
from dataclasses import dataclass

from simulation.measuring import Driving


@dataclass(kw_only=True)
class Run(Driving):
    """What a run came to: seconds, bytes and counts; of its drivers all together."""

    gemma_actors: int
    writers: int
    encoders: int
    nodes: int
    batches: int
    bytes: int
    ideal: float
    """Questions per second of all Gemma actors, if nothing ever made them wait."""
    head_cpu: float = 0.0
    """Of the process that has the writers write, and writes nothing itself."""
    head_bytes: int = 0
    """That it was answered, pickled."""
    head_raylet_cpu: float
    """Of the raylet beside the one driver or the head, which fetches objects."""
    raylets_cpu: float
    gcs_cpu: float
    """Of Ray's one server of metadata."""
    head_of_line_mean: float
    """Between a batch's last block and the last block of the batches before it in its part."""
    head_of_line_max: float
    store_fullest: float
    """The largest share of a node's object store that was in use."""
    store_spilled: int
    """Bytes, to the disk."""
    deaths: int
    actors_lost: int
    plain_write: float
    """For as many bytes in pieces of a record's size to the same file system, until they are on the disk: the limit."""

    @property
    def derived(self) -> float:
        """Questions per second of one driver by the CPU time alone of its two threads, which work side by side."""
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
        ("writers", lambda run: f"{run.writers}"),
        ("encoders / nodes", lambda run: f"{run.encoders} / {run.nodes}"),
        ("questions / batches", lambda run: f"{run.questions:,} / {run.batches:,}"),
        ("ideal questions/s", lambda run: f"{run.ideal:,.0f}"),
        ("measured questions/s", lambda run: f"{run.questions / run.wall:,.0f}"),
        ("  of the ideal", lambda run: f"{run.questions / run.wall / run.ideal:.1%}"),
        ("  MB/s written", lambda run: f"{run.bytes / run.wall / 1e6:,.0f}"),
        ("  MB/s of plain writing", lambda run: f"{run.bytes / run.plain_write / 1e6:,.0f}"),
        ("a driver's thread: CPU share", lambda run: f"{run.cpu / run.wall / run.writers:.0%}"),
        ("  us CPU a question", per_question(lambda run: run.cpu)),
        ("    in ray.get, ray.wait", per_question(lambda run: run.ray_cpu)),
        ("  us waiting for objects", per_question(lambda run: run.fetch_wait)),
        ("  us waiting for the writer", per_question(lambda run: run.writer_wait)),
        ("  nothing to do", lambda run: f"{run.idle / run.wall / run.writers:.0%}"),
        ("writer's thread, us CPU", per_question(lambda run: run.write_cpu)),
        ("  us waiting for the disk", per_question(lambda run: run.disk_wait)),
        ("hashing, Ray's threads, us", per_question(lambda run: run.other_threads_cpu)),
        ("head node's raylet, us", per_question(lambda run: run.head_raylet_cpu)),
        ("all nodes' raylets, us", per_question(lambda run: run.raylets_cpu)),
        ("Ray's GCS, us", per_question(lambda run: run.gcs_cpu)),
        ("  share of a core", lambda run: f"{run.gcs_cpu / run.wall:.1%}"),
        ("head of writers, us", per_question(lambda run: run.head_cpu)),
        ("  share of a core", lambda run: f"{run.head_cpu / run.wall:.1%}"),
        ("  bytes a question", lambda run: f"{run.head_bytes / run.questions:,.1f}"),
        ("a driver's memory, MiB", lambda run: f"{run.memory / (1 << 20):,.0f}"),
        ("head of line, s: mean / max", lambda run: f"{run.head_of_line_mean:.2f} / {run.head_of_line_max:.2f}"),
        ("fullest store / spilled", lambda run: f"{run.store_fullest:.1%} / {run.store_spilled / 1e6:,.0f} MB"),
        ("deaths / actors lost", lambda run: f"{run.deaths} / {run.actors_lost}"),
        ("derived q/s a driver: CPU", lambda run: f"{run.derived:,.0f}"),
        ("  and waits", lambda run: f"{run.derived_with_waits:,.0f}"),
        ("  feeds so many GPUs", lambda run: f"{run.derived_with_waits / rate:,.1f} to {run.derived / rate:,.1f}"),
    ]
    lines = [f"{name:<28}" + "".join(f"{figure(run):>17}" for run in runs) for name, figure in figures]
    return "\n".join(lines)
