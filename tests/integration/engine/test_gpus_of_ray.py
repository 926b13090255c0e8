"""Every actor of a placement finds its share of a GPU: as Ray itself counts them, with GPUs that it is only told of."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from gemma_needs import GEMMA_2B, GIB
from layerscope.config import Config
from layerscope.planning.node import Gpu, Node
from layerscope.planning.placing import place
from layerscope.planning.settings import settle_crew

CARDS = {"small": 24 * GIB, "large": 80 * GIB}


@pytest.fixture(scope="module")
def gpus() -> Iterator[None]:
    """A Ray of its own that believes in eight GPUs. A group of shares needs no process, and is counted all the same."""
    ray.init(address="local", num_cpus=64, num_gpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("memory", CARDS)
@pytest.mark.parametrize("n_gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("mixed", [False, True])
def test_ray_has_room_for_every_actor(n_gpus: int, memory: str, mixed: bool) -> None:
    cards = [Gpu("H100", CARDS[memory])] * n_gpus
    if mixed:
        cards[: n_gpus // 2] = [Gpu("L4", CARDS["small"])] * (n_gpus // 2)
    node = Node("here", 64, 256 * GIB, tuple(cards), identity="here")
    config = replace(Config(), gpu_type="H100") if mixed and n_gpus == 1 else Config()
    placement = place(settle_crew(config, [node], GEMMA_2B.d_model), [node], GEMMA_2B)
    others = [{"GPU": 1.0}] * (8 - n_gpus)  # taken, so that what is left is as many as there are to be
    shares = [{"GPU": seat.share.num_gpus} for seat in placement.seats]
    assert all(share["GPU"] > 0 for share in shares)
    group = placement_group([*others, *shares], strategy="STRICT_PACK")
    try:
        assert group.wait(20), f"Ray finds no room for {shares} in {n_gpus} GPUs"
    finally:
        remove_placement_group(group)
