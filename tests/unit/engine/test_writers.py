"""The head of many writers, whose writers, actors and nodes are lost, called back and joined by others."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_engine import Tape, node
from fake_writers import Disk, Head, head, job_of, text_of
from layerscope.engine import driver
from layerscope.engine.interface import NoRoom
from layerscope.engine.writers.posts import Part, Posts
from layerscope.errors import LayerscopeError
from layerscope.records.totals import Totals

TAPE, TAPES = 250, 4
GIVEN_UP = ("died 5 times", "failed 5 times", "no node could take", "no actor of")


@pytest.fixture(scope="module", autouse=True)
def _small_and_quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "gc", SimpleNamespace(freeze=lambda: None, unfreeze=lambda: None))
        yield


def check_schedule(tape: bytes) -> None:
    """Heads follow one another, killed at some wait or stopped; the last one is left to come to the end."""
    parts, nodes, heads, *rest = tape
    decide, parts, disk = Tape(bytes(rest)), 2 + parts % 3, None
    disk = Disk(parts)
    for left in range(heads % 3, -1, -1):
        there = [node(f"n{number}") for number in range(1 + (nodes + left) % 3)]
        engine = Head(there, decide, disk=disk)
        until = decide() if left else 1 << 30
        how = decide() % 2
        stopped = (lambda engine=engine, until=until: engine.waits > until) if how else (lambda: False)
        if not how:
            engine.lost_at_wait = until
        actors = (None, 1, 3, 7)[decide() % 4]
        writers, _, _ = head(engine, job_of(there, parts, actors), parts, stopped)
        error = ""
        try:
            writers.run()
        except LayerscopeError as raised:
            error = str(raised)
        assert not error or any(known in error for known in ("gone", *GIVEN_UP)), error
        assert not disk.locked, "a writer was left behind"
        assert all(writer.dead for writer in engine.writers)
        disk.look()
        if not left and not error:
            assert [disk.files[part] for part in disk.files] == [text_of(part, parts) for part in disk.files]


def nodes_of(posts: Posts) -> list[list[str]]:
    return sorted(sorted(post.node_ids) for post in posts.all)


def test_ten_of_sixteen_nodes_leave_within_a_minute_and_others_come_and_every_byte_is_there() -> None:
    """Half of the ten are called back first, as spot nodes are, half are gone at once."""
    parts = 2
    engine = Head([node(f"n{number}") for number in range(16)], disk=Disk(parts), pace=16)
    gone_at_once, called_back = range(5), range(5, 10)
    engine.at = {
        **{20 + number: partial(engine.lose, f"n{number}") for number in gone_at_once},
        **{25 + number: partial(engine.drained.add, f"n{number}") for number in called_back},
        **{30 + number: partial(engine.lose, f"n{number}") for number in called_back},
        **dict.fromkeys((50, 51, 52), engine.join),
    }
    writers, posts, shown = head(engine, job_of(engine.nodes, parts), parts)
    before = nodes_of(posts)
    assert sum(map(len, before)) == 16
    writers.run()
    assert list(engine.disk.files.values()) == [text_of(part, parts) for part in engine.disk.files]
    assert engine.waits > 52, "it was over before"
    assert shown.begun_again + writers.lost > 0, "what the lost nodes had under way is computed again, and counted"
    assert engine.node_ids() == {"more-1", "more-2", "more-3", *(f"n{number}" for number in range(10, 16))}


def test_a_run_that_shrinks_to_one_node_and_grows_again_has_writers_wherever_there_is_room() -> None:
    parts = 3
    engine = Head([node(f"n{number}") for number in range(3)], disk=Disk(parts))
    writers, posts, shown = head(engine, job_of(engine.nodes, parts), parts)
    assert nodes_of(posts) == [["n0"], ["n1"], ["n2"]]
    engine.lose("n1")
    engine.lose("n2")
    engine.seconds = 10
    posts.tend(3)
    assert nodes_of(posts) == [["n0"]]
    engine.join()
    engine.join()
    posts.tend(3)
    assert nodes_of(posts) == [["more-1"], ["more-2"], ["n0"]]
    assert [told.partition(" the cluster")[0] for told in shown.told] == [
        "n1 left",
        "n2 left",
        "more-1 joined",
        "more-2 joined",
    ]
    writers.run()
    assert {writer.node_id for writer in engine.writers} == {"n0", "more-1", "more-2"}
    assert list(engine.disk.files.values()) == [text_of(part, parts) for part in engine.disk.files]


def test_what_was_on_a_lost_nodes_own_disk_is_computed_again_finished_or_not() -> None:
    engine = Head([node("n0"), node("n1")], disk=Disk(2), own_disks=True, pace=8)

    def lose_the_first_finished() -> None:
        done = [writer for writer in engine.writers if writer.part and writer.lines == 3]
        engine.lose(done[0].node_id)

    engine.at = {26: lose_the_first_finished}
    writers, _, shown = head(engine, job_of(engine.nodes, 2), 2)
    writers.run()
    assert any("is another than here: parts that are written there stay there" in told for told in shown.told)
    assert any("which is gone: it is computed again" in told for told in shown.told)
    assert list(engine.disk.files.values()) == [text_of(part, 2) for part in engine.disk.files]


def test_nodes_that_join_writers_of_one_node_work_for_them_and_are_given_away_again() -> None:
    engine = Head([node("n0")], disk=Disk(2))
    _, posts, _ = head(engine, job_of(engine.nodes, 2), 2)
    assert nodes_of(posts) == [["n0"], ["n0"]]
    first, second = posts.all
    first.part = second.part = Part(1, 9, Totals())
    for _ in range(3):
        engine.join()
    posts.tend(0)
    assert nodes_of(posts) == [["more-1", "more-3", "n0"], ["more-2", "n0"]]
    first.part = None
    posts.tend(0)
    assert nodes_of(posts) == [["more-1", "more-2", "more-3", "n0"], ["n0"]], "its slice alone stays"
    engine.lose("n0")
    posts.tend(1)
    assert nodes_of(posts) == [["more-1", "more-2", "more-3"]]


def on_gpus(parts: int, gpus: int, gemma_actors: int | None = None) -> tuple[Head, Posts, list[str]]:
    """Every writer of the one node at work on a part."""
    engine = Head([node("n0", gpus)], disk=Disk(parts))
    _, posts, shown = head(engine, job_of(engine.nodes, parts, gemma_actors, "cuda"), parts)
    for post in posts.all:
        post.part = Part(1, 9, Totals())
    return engine, posts, shown.told


def gpus_of(posts: Posts) -> list[dict[str, int]]:
    return [{node.identity: len(node.gpus) for node in post.share.nodes} for post in posts.all]


def test_a_node_with_eight_gpus_that_joins_takes_as_many_writers_as_there_are_parts_for() -> None:
    """As it would have from the beginning, and each has the actors for its slice of the GPUs."""
    engine, posts, told = on_gpus(6, 2)
    engine.join(8)
    posts.tend(4)
    assert gpus_of(posts) == [{"n0": 1}, {"n0": 1}, *[{"more-1": 2}] * 4]
    assert [post.share.placement.gemma_actors for post in posts.all[2:]] == [1] * 4
    assert all(post.share.placement.encoders_per_block == 1 for post in posts.all)
    for post in posts.all:
        post.part = Part(1, 9, Totals())
    engine.join(8)
    engine.join()
    engine.join(8, kind="T4")
    for _ in range(3):
        posts.tend(0)
    assert gpus_of(posts)[0] == {"n0": 1, "more-2": 8}, "who has the fewest"
    engine.lose("more-2")
    posts.tend(0)
    posts.tend(0)
    assert told == [
        "more-1 joined the cluster.",
        "more-2 joined the cluster.",
        "more-4 joined the cluster.",
        "more-4 is left out: it has T4, which this run was not begun with, and its numbers may differ.",
        "more-2 left the cluster.",
    ]


def test_gemma_actors_that_were_asked_for_are_no_more_for_a_writer_that_joins() -> None:
    """Those of the first writers wait for room, and a node that joins has it: another writer would find none there."""
    engine, posts, _ = on_gpus(4, 2, gemma_actors=8)
    assert [post.share.crew.gemma_actors for post in posts.all] == [4, 4]
    engine.join(8)
    posts.tend(2)
    assert gpus_of(posts) == [{"n0": 1, "more-1": 8}, {"n0": 1}]


@pytest.mark.parametrize("others", [0, 1])
def test_a_node_that_has_no_room_after_all_is_left_out_and_its_part_goes_on_with_the_others(others: int) -> None:
    """Somebody else's work has its GPUs: that ends a run only where there is no other writer."""
    engine = Head([node(f"n{number}") for number in range(1 + others)], disk=Disk(1 + others), pace=4)

    def full() -> None:
        def work() -> Iterator[None]:
            raise NoRoom("For 120 s no actor of gemma could start\nFree or add nodes")
            yield

        next(writer for writer in engine.writers if writer.part and writer.node_id == f"n{others}").work = work()

    engine.at = {8: full}
    writers, posts, shown = head(engine, job_of(engine.nodes, 1 + others), 1 + others)
    if not others:
        with pytest.raises(NoRoom):
            writers.run()
        return
    writers.run()
    assert shown.told == ["part 2 of 2 goes on elsewhere; n1 is left out: For 120 s no actor of gemma could start"]
    assert nodes_of(posts) == [["n0"]]
    assert list(engine.disk.files.values()) == [text_of(part, 2) for part in engine.disk.files]


def test_a_writer_whose_nodes_no_longer_hold_its_actors_ends_its_part_and_takes_no_other() -> None:
    """It is told to nobody every two seconds that the whole crew would not fit: its crew sees to what is there."""
    engine = Head([node("n0", 2), node("n1", 1)], disk=Disk(1))
    the_job = job_of(engine.nodes, 1, device="cuda")
    the_job.crew = replace(the_job.crew, encoder_gpus=2)
    _, posts, shown = head(engine, the_job, 1)
    (post,) = posts.all
    post.part = Part(1, 9, Totals())
    engine.lose("n1")
    posts.tend(0)
    posts.tend(0)
    assert gpus_of(posts) == [{"n0": 2}]
    post.part = None
    assert not posts.idle()
    posts.tend(1)
    assert shown.told == [
        "n1 left the cluster.",
        "n0 is left out: --encoder-gpus 2 leaves no GPU for Gemma: there are 2. Name fewer, or 0 to share them.",
    ]
    assert not posts.all


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.binary(min_size=TAPE * TAPES, max_size=TAPE * TAPES))
def test_whatever_happens_every_part_is_a_prefix_and_a_run_that_ends_well_has_every_byte(data: bytes) -> None:
    """400 schedules of lost writers, actors, nodes and heads, other ones each time."""
    for start in range(0, len(data), TAPE):
        check_schedule(data[start : start + TAPE])
