"""Who works while actors die and nodes come and go, against an engine whose nodes are numbers."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from fake_engine import BATCHES, FakeEngine, expected_lines, job, node
from layerscope.config import Config
from layerscope.engine.budget import Budget
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.errors import LayerscopeError
from layerscope.planning.node import Node
from layerscope.records.manifest.fingerprints import Fingerprint, Fingerprints


def crew_on(nodes: list[Node], **config: Any) -> tuple[Crew, FakeEngine, list[str]]:
    engine, told = FakeEngine(list(nodes)), list[str]()
    return Crew(job(Config(**config), nodes), engine, told.append), engine, told


def settle(crew: Crew, engine: FakeEngine, seconds: float = 5) -> None:
    """Lets actors start and load, and looks after the crew."""
    deadline = engine.now() + seconds
    while engine.now() < deadline:
        engine.seat_waiting_actors()
        for reference in engine.wait(list(crew.starting), 0.5) if crew.starting else []:
            if reference in crew.starting:
                crew.take(reference)
        engine.seconds += 0.5
        crew.tend()


def ready(crew: Crew) -> dict[str, tuple[int, int]]:
    """By node: Gemma actors and encoders that are ready."""
    gemma = Counter(member.node_id for member in crew.gemma if member.ready)
    encoders = Counter(member.node_id for member in crew.encoders if member.ready)
    return {name: (gemma[name], encoders[name]) for name in gemma | encoders}


@pytest.mark.parametrize("at_once", [True, False], ids=["all at once", "one after the other"])
def test_every_gpu_of_nodes_that_join_a_run_on_one_gpu_is_used(at_once: bool) -> None:
    crew, engine, told = crew_on([node("a", gpus=1)], layer_blocks=1)
    settle(crew, engine)
    assert ready(crew) == {"a": (1, 1)}
    for name in "bcde":
        engine.nodes.append(node(name, gpus=1))
        if not at_once:
            settle(crew, engine)
    settle(crew, engine)
    assert ready(crew) == {"a": (1, 1), "b": (1, 0), "c": (1, 0), "d": (1, 0), "e": (1, 0)}
    assert [line for line in told if "joined" in line] == [f"{name} joined: 1 Gemma actor more." for name in "bcde"]
    settle(crew, engine)
    assert len(crew.gemma) == 5, "and nobody is added for the same room twice"


def test_a_cluster_that_doubles_gets_the_encoders_that_it_needs() -> None:
    """With 8 GPUs one is the encoders'; 32 would begin with more of them, so some of the new ones become theirs."""
    crew, engine, _ = crew_on([node("a", gpus=8)], layer_blocks=2)
    settle(crew, engine)
    assert ready(crew) == {"a": (7, 2)}
    engine.nodes += [node(name, gpus=8) for name in "bcd"]
    settle(crew, engine)
    gemma, encoders = (sum(counts[kind] for counts in ready(crew).values()) for kind in (0, 1))
    per_block = encoders // 2
    assert per_block > 1
    assert gemma + per_block == 32, "every GPU is used"
    assert all(counts[0] + counts[1] / 2 == 8 for counts in ready(crew).values())


@pytest.mark.parametrize(
    ("gpus", "asked", "told"),
    [
        (1, {}, "b joined: 8 Gemma actors more."),
        (8, {}, "b joined: 7 Gemma actors and 2 encoders more."),
        (1, {"gemma_actors": 9}, "b joined."),
    ],
    ids=["encoders have room for all", "as many as there were", "a number that was asked for"],
)
def test_a_node_with_eight_gpus_that_joins_has_an_actor_on_each_and_comes_and_goes_in_a_line(
    gpus: int, asked: dict[str, Any], told: str
) -> None:
    """Of eight actors and more that are on a node a person hears once; of nodes without GPUs, not at all."""
    crew, engine, said = crew_on([node("a", gpus=gpus)], layer_blocks=2, **asked)
    settle(crew, engine)
    engine.nodes += [node("head"), node("b", gpus=8), node("other", gpus=8, kind="T4")]
    settle(crew, engine)
    gemma, encoders = ready(crew)["b"]
    assert gemma + encoders / 2 == 8
    engine.drained.add("b")
    settle(crew, engine)
    engine.lose_node("b")
    settle(crew, engine, 20)
    assert said == [
        told,
        "other joined and is left out: it has T4, which this run was not begun with, and its numbers may differ.",
        "b is about to leave the cluster: its actors get no new batch.",
        "b left.",
    ]


def test_a_number_of_actors_that_was_asked_for_is_kept_and_its_rest_takes_the_nodes_that_join() -> None:
    crew, engine, _ = crew_on([node("a", gpus=2)], gemma_actors=3, layer_blocks=1)
    settle(crew, engine)
    assert ready(crew) == {"a": (1, 1)}
    for name in "bcde":
        engine.nodes.append(node(name, gpus=1))
    settle(crew, engine)
    assert sum(counts[0] for counts in ready(crew).values()) == 3
    assert len(crew.gemma) == 3


def test_without_gpus_each_node_that_joins_gets_a_gemma_actor() -> None:
    crew, engine, _ = crew_on([node("a")], device="cpu")
    engine.nodes += [node("b"), node("c"), node("small", cpus=0)]
    settle(crew, engine)
    assert ready(crew) == {"a": (1, 1), "b": (1, 0), "c": (1, 0)}


def test_a_node_that_is_too_small_or_of_another_kind_is_left_out_and_the_others_are_used() -> None:
    crew, engine, told = crew_on([node("a", gpus=1)], layer_blocks=1)
    small = replace(node("small", gpus=1), gpus=(replace(node("x", gpus=1).gpus[0], memory=1 << 20),))
    engine.nodes += [small, node("other", gpus=1, kind="T4"), node("b", gpus=1)]
    settle(crew, engine)
    assert ready(crew) == {"a": (1, 1), "b": (1, 0)}
    assert any(line.startswith("small joined and is left out: The weights do not fit") for line in told)


def test_a_node_that_says_late_what_it_has_is_used_once_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when the run began, but had not answered its probe."""
    nodes = [node("a"), node("late")]
    engine = FakeEngine(nodes)
    answered = nodes[:1]
    monkeypatch.setattr(engine, "usable_nodes", lambda: list(answered))
    crew = Crew(job(Config(device="cpu"), nodes[:1]), engine, lambda _: None)
    settle(crew, engine)
    assert ready(crew) == {"a": (1, 1)}
    answered.append(nodes[1])
    settle(crew, engine)
    assert ready(crew) == {"a": (1, 1), "late": (1, 0)}


def test_a_lost_node_s_actors_go_where_there_is_room_and_the_room_is_not_given_out_twice() -> None:
    crew, engine, _ = crew_on([node("a", gpus=2), node("b", gpus=1)], layer_blocks=1)
    settle(crew, engine)
    engine.lose_node("b")
    for member in crew.members:
        if member.handle.dead:
            crew.lost(member)
    settle(crew, engine)
    engine.nodes.append(node("c", gpus=1))
    settle(crew, engine)
    assert ready(crew)["c"] == (0, 1), "the encoder of the lost node waited first"
    assert len(crew.gemma) == 2


def test_patience_ends_with_what_was_asked_for_and_what_there_is() -> None:
    crew, engine, _ = crew_on([node("a")], device="cpu", patience=30)
    engine.lose_node("a")
    for member in crew.members:
        crew.lost(member)
    with pytest.raises(LayerscopeError, match=r"For \d+ s no actor of gemma, encoder 0-2 could start: each asks for 1"):
        settle(crew, engine, 60)
    assert 30 <= engine.now() < 45


def test_a_process_on_this_machine_that_never_comes_ends_the_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Ray of our own there is room for all: that it takes long is no reason, but for ever is none either."""
    crew, engine, _ = crew_on([replace(node("a"), identity="")], device="cpu")
    monkeypatch.setattr(engine, "wait", lambda *_: [])
    with pytest.raises(LayerscopeError, match="no actor of gemma"):
        settle(crew, engine, 1000)
    assert 290 < engine.now() < 400


def test_an_actor_that_dies_again_and_again_while_it_starts_ends_the_run() -> None:
    crew, engine, _ = crew_on([node("a")], device="cpu")

    def all_die() -> None:
        for _ in range(20):
            for actor in engine.actors[-2:]:
                engine.end(actor)
            for reference in engine.wait(list(crew.starting), 0.5):
                if reference in crew.starting:
                    crew.take(reference)

    with pytest.raises(LayerscopeError, match="died 5 times while it was starting"):
        all_die()


def test_a_run_goes_on_over_nodes_that_are_lost_and_join() -> None:
    """The whole loop: a second node is lost with its actors, another joins, and every byte is there."""
    nodes = [node("a"), node("b")]
    engine, told = FakeEngine(list(nodes)), list[str]()
    the_job = job(Config(device="cpu", layer_blocks=2), nodes)
    crew = Crew(the_job, engine, told.append)
    written = b""
    driver = Driver(the_job, range(len(BATCHES)), crew, Budget(the_job, 1 << 30), told.append)
    for batch in driver.results(lambda: False):
        written += b"".join(bytes(piece) for line in batch.lines for piece in line.pieces)
        if batch.batch == 1:
            engine.lose_node("b")
            engine.nodes.append(node("c"))
            engine.seat_waiting_actors()
            engine.seconds += 3
    assert written == b"".join(expected_lines())


def test_the_crew_is_placed_anew_when_what_is_left_cannot_hold_it() -> None:
    """With two threads Gemma asks for two CPUs; after the node that has them is lost, it makes do with one."""
    nodes = [node("large", cpus=3), node("small", cpus=2)]
    crew, engine, told = crew_on(nodes, device="cpu", threads=2, gemma_actors=1, layer_blocks=1)
    settle(crew, engine)
    assert {name for name, (gemma, _) in ready(crew).items() if gemma} == {"large"}
    engine.nodes = [replace(engine.nodes[1], cpus=1)]
    engine.lose_node("large")
    for member in crew.members:
        if member.handle.dead:
            crew.lost(member)
    settle(crew, engine, 60)
    assert ready(crew) == {"small": (1, 1)}
    assert any("placed anew" in line for line in told)


def test_an_actor_that_gets_other_bits_is_left_out_and_told_and_the_others_go_on() -> None:
    """One name of a processor stands for several instruction sets; a variable of one node is as bad."""
    crew, engine, told = crew_on([node("a"), node("b")], device="cpu", gemma_actors=2)
    engine.other_bits = {"b"}
    settle(crew, engine)
    assert [member.node_name for member in crew.gemma if member.ready] == ["a"]
    (line,) = [line for line in told if "last digits" in line]
    assert "on b computes other last digits" in line
    assert "MKL_CBWR was these, is others" in line


@pytest.mark.parametrize("name", ["model", "sae 1"])
def test_a_file_is_not_gone_on_with_where_other_bits_come_out(name: str) -> None:
    nodes = [node("a")]
    engine = FakeEngine(list(nodes))
    noted = {"EPYC": Fingerprint(digests={name: "before"}, circumstances={"MKL_CBWR": "AVX512", "x": "y"})}
    crew = Crew(job(Config(device="cpu"), nodes), engine, lambda _: None, Fingerprints(noted))
    with pytest.raises(LayerscopeError) as caught:
        settle(crew, engine)
    assert "MKL_CBWR was AVX512, is these; x was y, is not set" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_without_fingerprints_takes_those_of_the_first_actors() -> None:
    """Those of 0.1.0 have none. What was noted once is never replaced, and layers that are added follow."""
    nodes = [node("a")]
    known = Fingerprints()
    engine = FakeEngine(list(nodes))
    settle(Crew(job(Config(device="cpu"), nodes), engine, lambda _: None, known), engine)
    (fingerprint,) = known.noted.values()
    assert fingerprint.digests.keys() == {"model", "sae 0", "sae 1", "sae 2"}
    assert not known.admit("EPYC", Fingerprint(digests={"sae 2": "others", "sae 3": "new"}, circumstances={}))
    assert known.noted["EPYC"] == fingerprint
