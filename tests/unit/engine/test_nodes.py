"""A node that is slow to say what it has, or failed to once, is told of and used later, not lost for good.

Ray's answers are scripted and the clock is moved by hand: a probe that hangs takes a minute otherwise.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, RaySystemError

from layerscope.config import Config
from layerscope.engine.cluster import cluster, nodes
from layerscope.engine.cluster.cluster import check_software
from layerscope.engine.cluster.nodes import Nodes
from layerscope.errors import LayerscopeError
from layerscope.planning.machine import probe
from layerscope.planning.node import Node
from layerscope.planning.settings import settle_crew

NODE = Node(name="late", cpus=4, memory=1 << 30, gpus=(), processor="Xeon")

NODE_ID = "1a" * 28


class Script:
    """What stands for Ray: one node, whose probe answers as `answer` says; and the clock."""

    def __init__(self) -> None:
        self.now, self.probes = 1000.0, 0
        self.answer: Node | Exception = NODE
        self.answers_at = float("inf")
        self.there = {NODE_ID: ("10.0.0.7", {"CPU": 4.0})}

    def options(self, **_: Any) -> "Script":
        return self

    def remote(self) -> object:
        self.probes += 1
        return object()

    def get(self, _: object, timeout: float) -> Node:  # noqa: ARG002
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(nodes, "probe_node", script)
    monkeypatch.setattr(nodes, "takers", lambda: script.there)
    monkeypatch.setattr(nodes.ray, "get", script.get)
    monkeypatch.setattr(nodes.time, "monotonic", lambda: script.now)
    return script


@pytest.fixture
def asked() -> tuple[Callable[[], list[Node]], list[str]]:
    """Looks for usable nodes, and what was told meanwhile."""
    told: list[str] = []
    known = Nodes(told.append)
    return known.usable, told


def test_a_probe_that_hangs_is_told_once_and_its_node_used_when_it_answers(
    script: Script, asked: tuple[Callable[[], list[Node]], list[str]]
) -> None:
    """`ray job submit` with pip makes an environment on every node, which takes minutes."""
    usable, told = asked
    script.answer = GetTimeoutError("not yet")
    for seconds in (0, 30, 29):
        script.now += seconds
        assert usable() == []
    assert told == []
    for seconds in (1, 100, 400):
        script.now += seconds
        assert usable() == []
    assert [sentence.split(" (")[0] for sentence in told] == ["The node at 10.0.0.7 has not said what it has for 60 s"]
    script.answer = NODE
    assert [node.name for node in usable()] == ["late"]
    assert script.probes == 1, "the probe that hung is waited for, not started over and over"


def test_a_probe_that_failed_is_told_and_tried_again_less_and_less_often(
    script: Script, asked: tuple[Callable[[], list[Node]], list[str]]
) -> None:
    usable, told = asked
    script.answer = RaySystemError("its environment could not be made: no space left")
    assert usable() == []
    assert len(told) == 1
    assert "10.0.0.7 cannot be used yet and is asked again" in told[0]
    assert "no space left" in told[0]
    for _ in range(600):
        script.now += 1
        assert usable() == []
    assert 4 <= script.probes <= 7, "after 10, 20, 40, … seconds"
    assert len(told) == script.probes, "each failure is told"
    script.answer = NODE
    script.now += 640
    assert [node.name for node in usable()] == ["late"]


@pytest.fixture
def asked_for(script: Script, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is asked of a cluster that scales itself; time passes where somebody waits."""
    found: list[object] = []

    def sleep(seconds: float) -> None:
        script.now += seconds
        if script.now > script.answers_at:
            script.answer = NODE

    monkeypatch.setattr(cluster.time, "sleep", sleep)
    monkeypatch.setattr(cluster, "request_resources", lambda bundles: found.append(bundles))
    monkeypatch.setattr(nodes, "launching", lambda: "")
    monkeypatch.setattr(nodes, "resources", lambda: "4 CPU (4 free)")
    script.answer = GetTimeoutError("not yet")
    return found


def first_nodes(add_nodes: bool) -> list[Node]:
    joined = cluster.Cluster.__new__(cluster.Cluster)
    joined._known = Nodes(lambda _: None)
    return joined._first_nodes(Config(), add_nodes)


@pytest.mark.parametrize("add_nodes", [True, False], ids=["run", "plan"])
def test_the_only_node_is_waited_for_while_its_environment_is_made(
    script: Script, asked_for: list[object], add_nodes: bool
) -> None:
    """By pip that takes longer than a cluster's patience; to ask for another node may cost money."""
    script.answers_at = script.now + 500
    assert [node.name for node in first_nodes(add_nodes)] == ["late"]
    assert asked_for == []


@pytest.mark.parametrize("add_nodes", [True, False], ids=["run", "plan"])
def test_a_node_that_never_says_what_it_has_is_not_waited_for_for_ever(
    script: Script, asked_for: list[object], add_nodes: bool
) -> None:
    begun = script.now
    with pytest.raises(LayerscopeError, match="No node of the cluster takes work"):
        first_nodes(add_nodes)
    assert script.now - begun < 2000
    assert asked_for == ([[{"GPU": 1}], []] if add_nodes else []), "and what a run asked for is taken back"


def test_one_that_joins_and_cannot_run_layerscope_is_left_out_of_a_run(
    script: Script, asked: tuple[Callable[[], list[Node]], list[str]]
) -> None:
    """A stale image on one new node is no reason to end a run of a day; before it begins it is."""
    usable, told = asked
    script.answer = ModuleNotFoundError("No module named 'layerscope'")
    with pytest.raises(LayerscopeError, match="cannot run layerscope"):
        usable()
    usable.__self__.at_work = True  # type: ignore[attr-defined]
    assert usable() == usable() == []
    assert told == ["The node at 10.0.0.7 joined the cluster and is left out: No module named 'layerscope'"]


def test_a_node_that_left_and_came_back_is_asked_anew(
    script: Script, asked: tuple[Callable[[], list[Node]], list[str]]
) -> None:
    usable, _ = asked
    assert [node.identity for node in usable()] == [NODE_ID]
    here, script.there = script.there, {}
    assert usable() == []
    script.there = here
    assert [node.cpus for node in usable()] == [4]
    assert script.probes == 2


@pytest.mark.parametrize(("allowed", "threads"), [(2, 2), (64, 4)])
def test_an_actor_has_no_more_threads_than_its_node_is_allowed_cpus(
    script: Script, asked: tuple[Callable[[], list[Node]], list[str]], allowed: int, threads: int
) -> None:
    """`ray start` in a Slurm job or under taskset gives out every CPU of the machine, and 64 threads on two crawl."""
    script.answer = replace(NODE, cpus=allowed)
    (node,) = asked[0]()
    assert settle_crew(Config(), [node], 2304).threads == threads
    assert node.cpus == 4, "what Ray gives out is still what it says: seats are counted in it"


def test_a_node_with_other_software_is_refused_by_name() -> None:
    """Two versions of one package in one file of records; torch's build may differ, as a laptop's does from a GPU's."""
    here = probe().software
    assert {"torch", "numpy"} <= dict(here).keys()
    built = tuple(
        (name, f"{version.partition('+')[0]}+cu130" if name == "torch" else version) for name, version in here
    )
    old = tuple((name, "1.0" if name == "numpy" else version) for name, version in here)
    check_software([replace(NODE, software=built), replace(NODE, software=built)])
    for found, told in (
        ([replace(NODE, software=here), replace(NODE, name="late", software=old)], "late has numpy 1.0 and late has"),
        ([replace(NODE, software=old)], "late has numpy 1.0 and this machine has"),
    ):
        with pytest.raises(LayerscopeError, match=told) as caught:
            check_software(found)
        assert "same versions on every node" in str(caught.value)


def test_a_node_says_the_versions_that_it_imports_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "numpy-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert dict(probe().software)["numpy"] == "1.0"
