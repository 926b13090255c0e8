"""What a run of any Gemma takes, and where it fits, is known from its settings alone: nothing of it need be here."""

from pathlib import Path

import pytest

from layerscope.config import Config
from layerscope.errors import LayerscopeError
from layerscope.hub.repository import open_repository
from layerscope.models.spec import ModelSpec, read_spec
from layerscope.planning.needs import Needs, estimate
from layerscope.planning.node import Gpu, Node
from layerscope.planning.placing import place
from layerscope.planning.settings import settle_crew, settle_numerics
from published import CONFIGS, published

GIB = 1 << 30
PUBLISHED = {
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b-pt": 999_885_952,
    "gemma-3-4b-pt": 4_300_079_472,
    "gemma-3-12b-pt": 12_187_325_040,
    "gemma-3-27b-pt": 27_432_406_640,
}
"""Parameters as the hub tells them, of all halves."""
TOWER, TOWER_WIDTH = 416_867_184, 1152
"""Of the encoder of pictures with its last norm, which is not loaded, and the width that is projected to d_model."""
CARDS = {"L4": 22.0, "A100-40G": 39.4, "H100": 79.1, "H200": 139.8}


def spec_of(name: str, folder: Path) -> ModelSpec:
    return read_spec(open_repository(str(published(name, folder / name))))


def settled(spec: ModelSpec, node: Node, layers: int, d_sae: int) -> tuple[Config, Needs]:
    config = Config(num_samples=100)
    numerics = settle_numerics(config, [node], settle_crew(config, [node], spec.d_model))
    return config, estimate(spec, range(layers), [("resid_post", d_sae)], numerics, 400, 2)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_parameters_that_are_loaded_are_the_published_ones(name: str, tmp_path: Path) -> None:
    """A size read wrong, or a default that is another one, would show: each has its own number."""
    spec = spec_of(name, tmp_path)
    seeing = CONFIGS[name]["model_type"] == "gemma3"
    assert spec.n_parameters == PUBLISHED[name] - seeing * (TOWER + TOWER_WIDTH * spec.d_model)


@pytest.mark.parametrize(
    ("name", "layers", "d_sae", "fits"),
    [
        ("gemma-2-2b", 26, 16_384, {"L4", "A100-40G", "H100", "H200"}),
        ("gemma-2-9b", 42, 16_384, {"A100-40G", "H100", "H200"}),
        ("gemma-2-27b", 3, 131_072, {"H100", "H200"}),
        ("gemma-3-27b-pt", 4, 262_144, {"H100", "H200"}),  # beside four SAEs of 5.6 GB each, on the one card
        ("gemma-3-27b-pt", 62, 65_536, {"H200"}),
        ("gemma-3-27b-pt", 62, 262_144, set()),
        ("gemma-3-27b-pt", 4, 16_384, {"H100", "H200"}),
    ],
)
def test_a_plan_says_which_card_holds_a_model_and_its_saes(
    name: str, layers: int, d_sae: int, fits: set[str], tmp_path: Path
) -> None:
    spec = spec_of(name, tmp_path)
    for card, room in CARDS.items():
        node = Node("one", 16, 256 * GIB, (Gpu(card, int(room * GIB)),))
        config, needs = settled(spec, node, layers, d_sae)
        if card in fits:
            assert place(settle_crew(config, [node], spec.d_model), [node], needs).lines
            continue
        with pytest.raises(LayerscopeError) as refusal:
            place(settle_crew(config, [node], spec.d_model), [node], needs)
        assert f"of its {room:.1f} GiB" in str(refusal.value)
        assert needs.card in str(refusal.value)
        assert len(str(refusal.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("name", "card", "gib"),
    [
        ("gemma-2-2b", "24 GB", (4.9, 8)),
        ("gemma-2-9b", "24 GB", (17.2, 21)),
        ("gemma-2-27b", "80 GB", (50.7, 56)),
        ("gemma-3-27b-pt", "80 GB", (50.3, 56)),
    ],
)
def test_a_machine_without_gpus_is_told_which_card_holds_a_copy(
    name: str, card: str, gib: tuple[float, float], tmp_path: Path
) -> None:
    """27B on a laptop: refused with the number, and with the card to rent."""
    node = Node("laptop", 8, 8 * GIB)
    spec = spec_of(name, tmp_path)
    config, needs = settled(spec, node, 1, 16_384)
    assert gib[0] < needs.on_a_card / GIB < gib[1]
    with pytest.raises(LayerscopeError) as refusal:
        place(settle_crew(config, [node], spec.d_model), [node], needs)
    assert card in str(refusal.value)
    assert f"{spec.n_parameters * 4 / GIB:.1f} GiB" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 2
