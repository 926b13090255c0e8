"""Every actor finds a place, no machine holds more than it can, and what changes rounding depends on no actor count."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_needs import GEMMA_2B, GIB
from layerscope.config import Config
from layerscope.errors import LayerscopeError
from layerscope.planning.needs import Needs
from layerscope.planning.node import Gpu, Node
from layerscope.planning.placement import Placement, Share, gib, split
from layerscope.planning.placing import place as place_crew
from layerscope.planning.settings import settle_crew

UNITS = 10_000  # in which Ray counts a GPU or a CPU


def gpu_node(gpus: int, memory: int = 80 * GIB, name: str = "H100", number: int = 0) -> Node:
    return Node(f"gpus-{number}", 16, 256 * GIB, (Gpu(name, memory),) * gpus, identity=f"id-{name}-{number}-{gpus}")


def cpu_node(cpus: int, memory: int = 64 * GIB, processor: str = "Xeon", number: int = 0) -> Node:
    return Node(f"cpus-{number}", cpus, memory, processor=processor, identity=f"id-{processor}-{number}-{cpus}")


def place(config: Config, nodes: Sequence[Node], needs: Needs) -> Placement:
    return place_crew(settle_crew(config, nodes, needs.d_model), nodes, needs)


def resolve_threads(config: Config, nodes: Sequence[Node], d_model: int) -> int:
    return settle_crew(config, nodes, d_model).threads


@dataclass
class Bin:
    """A GPU, or a machine's CPUs, as Ray fills it."""

    free: int
    gemma: int = 0
    encoders: int = 0


def fill(nodes: Sequence[Node], placement: Placement) -> list[Bin]:
    """Places the actors one after the other on their nodes, where there is least room that suffices, as Ray does.

    Raises:
        AssertionError: an actor finds no place on its node: Ray would wait for ever.
    """
    on_gpus = placement.device == "cuda"
    sizes = [(node, size) for node in nodes for size in ([1] * len(node.gpus) if on_gpus else [node.cpus])]
    bins = [(node, Bin(UNITS * size)) for node, size in sizes]
    for seat in placement.seats:
        if seat.node is None:
            continue  # it waits for a node that joins
        units = round((seat.share.num_gpus if on_gpus else seat.share.num_cpus) * UNITS)
        roomy = [place for node, place in bins if node is seat.node and place.free >= units]
        assert roomy, f"{seat} waits for ever: {placement}"
        chosen = min(roomy, key=lambda place: place.free)
        chosen.free -= units
        kind = "gemma" if seat.block is None else "encoders"
        setattr(chosen, kind, getattr(chosen, kind) + 1)
    return [place for _, place in bins]


COUNT = st.just("auto") | st.integers(1, 12)
CREW = st.fixed_dictionaries({"gemma_actors": COUNT, "layer_blocks": COUNT, "encoders_per_block": COUNT})

# --- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "gemma_actors", "gemma_share", "blocks", "per_block", "encoder_share"),
    [
        (1, 1, 0.75, 6, 1, 0.0416),
        (2, 1, 1.0, 6, 1, 0.1666),
        (8, 7, 1.0, 6, 1, 0.1666),
        (9, 8, 1.0, 6, 1, 0.1666),
        (64, 56, 1.0, 6, 8, 0.1666),
    ],
)
def test_gpus_are_used_as_the_help_says(
    gpus: int, gemma_actors: int, gemma_share: float, blocks: int, per_block: int, encoder_share: float
) -> None:
    nodes = [gpu_node(gpus)]
    placement = place(Config(), nodes, GEMMA_2B)
    assert placement.device == "cuda"
    assert (placement.gemma_actors, placement.gemma) == (gemma_actors, Share(0, gemma_share))
    assert (len(placement.blocks), placement.encoders_per_block) == (blocks, per_block)
    assert placement.seats[-1].share == Share(0, encoder_share)
    filled = fill(nodes, placement)
    if gpus > 1:
        assert not any(gpu.gemma and gpu.encoders for gpu in filled), "on several GPUs Gemma has its own"


@pytest.mark.parametrize(
    ("memory", "cpus", "blocks"), [(24, 16, 6), (24, 8, 4), (24, 4, 2), (24, 2, 1), (12, 16, 2), (11.5, 16, 1)]
)
def test_a_small_gpu_or_few_cpus_have_fewer_encoders(memory: float, cpus: int, blocks: int) -> None:
    node = replace(gpu_node(1, memory=int(memory * GIB)), cpus=cpus)
    assert len(place(Config(), [node], GEMMA_2B).blocks) == blocks


def test_wider_saes_get_more_gpus() -> None:
    wide = replace(GEMMA_2B, encode_cost=4 * GEMMA_2B.encode_cost)
    assert place(Config(), [gpu_node(8)], wide).gemma_actors == 5
    assert place(Config(), [gpu_node(8)], replace(GEMMA_2B, encode_cost=1000)).gemma_actors == 1


@pytest.mark.parametrize(
    ("asked", "gemma_actors", "on_gemma_gpus", "waiting"),
    [
        ({"gemma_gpus": 4}, 4, 4, 0),
        ({"gemma_gpus": 8}, 8, 8, 0),  # all of them: the encoders share
        ({"encoder_gpus": 3}, 5, 5, 0),
        ({"encoder_gpus": 0}, 8, 8, 0),
        ({"gemma_gpus": 2, "encoder_gpus": 2}, 2, 2, 0),
        ({"gemma_gpus": 2, "gemma_actors": 4}, 4, 2, 0),  # two to a GPU
        ({"gemma_actors": 8}, 8, 8, 0),
        ({"gemma_actors": 12}, 12, 7, 5),  # the rest when nodes join
        ({"gemma_gpus": 12}, 12, 8, 4),
    ],
)
def test_the_split_of_the_gpus_can_be_named(
    asked: dict[str, int], gemma_actors: int, on_gemma_gpus: int, waiting: int
) -> None:
    nodes = [gpu_node(4, number=1), gpu_node(4, number=2)]
    placement = place(Config(**asked), nodes, GEMMA_2B)  # type: ignore[arg-type]
    assert placement.gemma_actors == gemma_actors
    assert sum(gpu.gemma > 0 for gpu in fill(nodes, placement)) == on_gemma_gpus
    assert sum(seat.node is None for seat in placement.seats) == waiting
    assert any(f"{waiting} more Gemma: as nodes join" in line for line in placement.lines) == bool(waiting)


def test_a_split_that_leaves_gemma_nothing_is_refused() -> None:
    with pytest.raises(LayerscopeError, match="leaves no GPU for Gemma: there are 2"):
        place(Config(encoder_gpus=2), [gpu_node(2)], GEMMA_2B)


@pytest.mark.parametrize("per_node", [(1, 1), (0, 1), (4, 4), (1, 2, 5), (8,) * 8])
def test_gpus_count_whatever_nodes_they_are_in(per_node: Sequence[int]) -> None:
    nodes = [gpu_node(gpus, number=number) for number, gpus in enumerate(per_node)]
    spread = place(Config(), nodes, GEMMA_2B)
    together = place(Config(), [gpu_node(sum(per_node))], GEMMA_2B)
    assert [(seat.block, seat.share) for seat in spread.seats] == [(seat.block, seat.share) for seat in together.seats]
    fill(nodes, spread)


def test_the_lines_say_who_works_where_and_what_memory_it_takes() -> None:
    lines = place(Config(), [gpu_node(4, number=1), gpu_node(4, memory=40 * GIB, number=2)], GEMMA_2B).lines
    assert lines == (
        "gpus-1: 1 Gemma x 1 GPU; memory 7.0 GiB of 80.0 GiB, on each of 4 GPUs",
        "gpus-2: 1 Gemma x 1 GPU; memory 7.0 GiB of 40.0 GiB, on each of 3 GPUs",
        "gpus-2: 6 encoder(s) of layers 0-4 | 5-9 | 10-13 | 14-17 | 18-21 | 22-25 x 0.17 GPU; "
        "memory 7.2 GiB of 40.0 GiB",
    )


@given(st.integers(1, 64), CREW)
@settings(deadline=None)
def test_every_layer_is_in_one_block_and_blocks_are_nearly_equal(gpus: int, crew: dict[str, Any]) -> None:
    """A layer in none would be missing from every record, one in two would be there twice."""
    placement = place(Config(**crew), [gpu_node(gpus, memory=1 << 50)], GEMMA_2B)
    assert [layer for block in placement.blocks for layer in block] == list(range(26))
    sizes = {len(block) for block in placement.blocks}
    assert max(sizes) - min(sizes) <= 1
    for name, count in (("gemma_actors", placement.gemma_actors), ("encoders_per_block", placement.encoders_per_block)):
        assert crew[name] in ("auto", count)
    assert crew["layer_blocks"] in ("auto", len(placement.blocks))


@given(st.integers(1, 20), st.integers(1, 20))
def test_layers_that_are_not_neighbours_are_split_in_their_order(n_layers: int, n_blocks: int) -> None:
    layers = [3 * layer + 1 for layer in range(n_layers)]
    blocks = split(layers, min(n_blocks, n_layers))
    assert len(blocks) == min(n_blocks, n_layers)
    assert all(blocks)
    assert [layer for block in blocks for layer in block] == layers
    assert [len(block) for block in blocks] == sorted((len(block) for block in blocks), reverse=True)


def crews() -> Iterator[Config]:
    """Every crew that somebody might ask for: rounding goes wrong at few of them."""
    for actors, blocks, encoders in product(["auto", *range(1, 17)], ["auto", 1, 2, 3, 6], ["auto", 1, 2, 3]):
        yield Config(gemma_actors=actors, layer_blocks=blocks, encoders_per_block=encoders)  # type: ignore[arg-type]


@pytest.mark.parametrize("gpus", [1, 2, 3, 8, 10])
def test_no_actor_waits_for_ever_for_a_share_of_a_gpu(gpus: int) -> None:
    nodes = [gpu_node(gpus, memory=1 << 50)]
    for config in crews():
        fill(nodes, place(config, nodes, GEMMA_2B))


@pytest.mark.parametrize("gpus", [1, 2, 3, 8, 10])
def test_no_gpu_is_given_more_weights_than_it_holds(gpus: int) -> None:
    """Ray counts shares and no memory: whatever the placement lets it put on one GPU must fit there."""
    unit = 1 << 36
    needs = Needs(model=16 * unit, sae_by_layer=dict.fromkeys(range(6), unit), d_model=2304)

    def placed(config: Config, memory: int) -> Placement | None:
        try:
            return place(config, [gpu_node(gpus, memory=memory * unit)], needs)
        except LayerscopeError:
            return None

    for config in crews():
        memory = bisect_left(range(4096), True, key=lambda memory: placed(config, memory) is not None)
        placement = placed(config, memory)
        assert placement is not None
        for gpu in fill([node for node in {seat.node for seat in placement.seats} if node], placement):
            assert 16 * gpu.gemma + max(map(len, placement.blocks)) * gpu.encoders <= memory, (placement, gpu)


def test_weights_that_do_not_fit_the_gpus_are_refused_with_what_is_needed_and_there() -> None:
    for gpus in (1, 2, 8):
        with pytest.raises(LayerscopeError, match=r"7\.0 GiB|11\.\d GiB") as caught:
            place(Config(), [gpu_node(gpus, memory=4 * GIB)], GEMMA_2B)
        assert "4.0 GiB" in str(caught.value)
        assert "--dtype bfloat16" in str(caught.value)


def test_a_gpu_that_is_too_small_is_named() -> None:
    nodes = [gpu_node(1), gpu_node(1, memory=3 * GIB, name="T4", number=2)]
    with pytest.raises(LayerscopeError, match=r"gpus-2 \(T4\) would hold 4\.2 GiB of its 3\.0 GiB"):
        place(Config(), nodes, GEMMA_2B)


def test_mixed_gpus_are_recorded_or_kept_to_one_type() -> None:
    """Else a file begun on one kind could be gone on with on another, whose last digits differ."""
    h100, a100 = (
        replace(gpu_node(2, name=name, number=number), accelerator=type_)
        for number, (name, type_) in enumerate((("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-40GB", "A100")))
    )
    mixed = [h100, a100, cpu_node(64)]
    both = place(Config(), mixed, GEMMA_2B)
    assert (both.hardware, both.accelerator) == ("NVIDIA A100-SXM4-40GB and NVIDIA H100 80GB HBM3", "")
    for gpu_type in ("H100", "h100 80gb"):
        one = place(Config(gpu_type=gpu_type), mixed, GEMMA_2B)
        assert (one.hardware, one.accelerator) == ("NVIDIA H100 80GB HBM3", "H100")
        assert {seat.node for seat in one.seats} == {h100}
    with pytest.raises(LayerscopeError, match=r"No node has GPUs of --gpu-type B200.*A100.*H100"):
        place(Config(gpu_type="B200"), mixed, GEMMA_2B)
    assert place(Config(), [cpu_node(8), cpu_node(8, processor="EPYC")], GEMMA_2B).hardware == "EPYC and Xeon"


def test_the_device_can_be_named() -> None:
    assert place(Config(device="cpu"), [gpu_node(2)], GEMMA_2B).device == "cpu"
    for asked in (Config(device="cuda"), Config(gpu_type="H100")):
        with pytest.raises(LayerscopeError, match="No node has a GPU"):
            place(asked, [cpu_node(8)], GEMMA_2B)


# --- CPUs -------------------------------------------------------------------------------------------------------------

CPUS = st.lists(st.sampled_from([1, 2, 4, 8, 64]), min_size=1, max_size=4)


def test_a_laptop_takes_one_of_each() -> None:
    placement = place(Config(), [cpu_node(8)], GEMMA_2B)
    assert (placement.device, placement.hardware) == ("cpu", "Xeon")
    assert (placement.gemma_actors, placement.encoders_per_block) == (1, 1)
    assert placement.blocks == (tuple(range(26)),)
    assert (placement.gemma, placement.seats[-1].share) == (Share(8, 0), Share(0, 0))


@given(CPUS, CREW, st.sampled_from([32, 2304]))
@settings(deadline=None)
def test_a_crew_of_its_own_choice_finds_a_place_on_the_cpus(
    per_node: list[int], crew: dict[str, Any], d_model: int
) -> None:
    needs = replace(GEMMA_2B, d_model=d_model)
    nodes = [cpu_node(cpus, number=number) for number, cpus in enumerate(per_node)]
    placement = place(Config(**crew), nodes, needs)
    fill(nodes, placement)
    assert (placement.gemma.num_gpus, placement.seats[-1].share) == (0, Share(0, 0))


@given(CPUS, CREW, COUNT)
@settings(deadline=None)
def test_at_least_one_gemma_actor_finds_a_place_whatever_is_asked_for(
    per_node: list[int], crew: dict[str, Any], threads: Any
) -> None:
    """Threads are in the manifest: a file begun on 16 cores is gone on with on 8 only if 16 threads may share them."""
    nodes = [cpu_node(cpus, memory=1 << 50) for cpus in per_node]
    placement = place(Config(**crew, threads=threads), nodes, GEMMA_2B)
    assert placement.gemma.num_cpus <= max(per_node)
    assert placement.seats[0].node is not None


@given(CPUS, CREW, CREW, st.sampled_from([32, 256, 257, 2304]))
def test_threads_depend_on_no_number_of_actors(
    per_node: list[int], crew: dict[str, Any], other: dict[str, Any], d_model: int
) -> None:
    """They change rounding, and the bytes must be the same whatever the number of actors."""
    nodes = [cpu_node(cpus) for cpus in per_node]
    threads = resolve_threads(Config(**crew), nodes, d_model)
    assert threads == resolve_threads(Config(**other), nodes, d_model) == (1 if d_model <= 256 else min(per_node))
    assert resolve_threads(Config(**crew, threads=3), nodes, d_model) == 3


def test_weights_that_do_not_fit_the_memory_are_refused_with_what_is_needed_and_there() -> None:
    assert place(Config(), [cpu_node(8, memory=10 * GIB)], GEMMA_2B).gemma_actors == 1
    for actors, memory in ((1, 8), (2, 12)):
        with pytest.raises(LayerscopeError, match=rf"5\.0 GiB each and the SAEs 3\.7 GiB, of {memory}\.0 GiB"):
            place(Config(gemma_actors=actors, threads=4), [cpu_node(8, memory=memory * GIB)], GEMMA_2B)


def test_a_model_that_fits_no_node_is_refused_however_many_nodes_there_are() -> None:
    """A model lies in one machine's memory, not in the sum of them."""
    with pytest.raises(LayerscopeError, match="do not fit"):
        place(Config(), [cpu_node(8, memory=4 * GIB)] * 8, GEMMA_2B)


@pytest.mark.parametrize(("size", "told"), [(3_600_000, "under 0.1 GiB"), (60 << 20, "0.1 GiB"), (7 << 30, "7.0 GiB")])
def test_the_memory_of_a_tiny_model_is_not_told_as_none(size: int, told: str) -> None:
    assert gib(size) == told
