"""The GPUs are those that CUDA gives this process, with what is free of them; where it gives none, it is said why.

A library that stands in for the driver's is compiled and found in its place, so that everything but the cards is real.
"""

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from layerscope.config import Config
from layerscope.errors import LayerscopeError
from layerscope.planning import cards, machine
from layerscope.planning.cards import usable_cards
from layerscope.planning.machine import probe
from layerscope.planning.node import Gpu, Node
from layerscope.planning.settings import settle_crew, settle_numerics
from paths import ROOT

H100, T4 = "NVIDIA H100 80GB HBM3|81559|81000|9|0", "Tesla T4|15360|15000|7|5"
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two libraries."""
    folder = tmp_path_factory.mktemp("driver")
    source = ROOT / "tests" / "support" / "fake_cuda.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)
    shutil.copy(folder / "libcuda.so.1", folder / "libnvidia-ml.so.1")
    return folder


@pytest.fixture
def with_cards(driver: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This machine with a driver, two cards of different types, and a torch for CUDA."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("FAKE_CARDS", f"{H100}\n{T4}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "_torch_has_cuda", lambda: True)
    return monkeypatch


@needs_compiler
@pytest.mark.usefixtures("with_cards")
def test_cards_come_with_memory_what_is_free_and_their_number() -> None:
    h100, t4 = probe().gpus
    assert h100 == Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, 81000 << 20, h100.uuid, (9, 0))
    assert (t4.name, t4.room, t4.capability) == ("Tesla T4", 15000 << 20, (7, 5))
    assert h100.uuid != t4.uuid


@needs_compiler
@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0", ["NVIDIA H100 80GB HBM3"]),
        ("1,0", ["Tesla T4", "NVIDIA H100 80GB HBM3"]),
        ("GPU-00000001-0000-0000-0000-000000000000", ["Tesla T4"]),
        ("", []),
        ("7", []),
    ],
)
def test_what_a_process_sees_is_cudas_to_say(with_cards: pytest.MonkeyPatch, visible: str, names: list[str]) -> None:
    with_cards.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in probe().gpus] == names
    assert len(probe(all_cards=True).gpus) == 2, "Ray hides all from a task that asks for none"


@needs_compiler
def test_a_slice_of_a_card_has_its_own_number_and_memory(with_cards: pytest.MonkeyPatch) -> None:
    with_cards.setenv("FAKE_KIND", "MIG")
    assert probe().gpus[1].free == 15000 << 20
    assert probe().gpus[1].uuid != "ffffffff-ffff-ffff-ffff-ffffffffffff", "which is the whole card's"


@needs_compiler
def test_what_is_free_may_be_unknown_and_the_whole_is_counted_on(with_cards: pytest.MonkeyPatch) -> None:
    """nvidia-smi's `[N/A]`: of some cards no tool can say it, and they are no less GPUs."""
    with_cards.setenv("FAKE_NVML_SILENT", "1")
    assert [(gpu.free, gpu.room) for gpu in probe().gpus] == [(None, gpu.memory) for gpu in probe().gpus]


@needs_compiler
@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FAKE_CUDA_ERROR", "803", "CUDA answers: system has unsupported display driver / cuda driver combination"),
        ("FAKE_CUDA_HANGS", "1", "CUDA has not answered for 1 s"),
    ],
)
def test_a_driver_that_fails_or_hangs_is_told_and_keeps_nobody_waiting(
    with_cards: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    with_cards.setenv(variable, value)
    with_cards.setattr(cards, "_SECONDS", 1.0)
    node = probe()
    assert node.gpus == ()
    assert told in node.trouble
    assert settle_crew(Config(), [node], 2304).device == "cpu"
    with pytest.raises(LayerscopeError, match="No node has a GPU that can be used") as caught:
        settle_crew(Config(device="cuda"), [node], 2304)
    assert told in str(caught.value)


@needs_compiler
def test_a_torch_for_cpus_beside_a_card_is_told(with_cards: pytest.MonkeyPatch) -> None:
    """It would raise an AssertionError in every actor."""
    with_cards.setattr(machine, "_torch_has_cuda", lambda: False)
    node = probe()
    assert node.gpus == ()
    assert "there is a NVIDIA H100 80GB HBM3, but torch" in node.trouble
    assert "is built for CPUs alone" in node.trouble


def test_whether_torch_has_cuda_is_read_from_its_files() -> None:
    build = version("torch").partition("+")[2]  # of PyTorch's own packages: cpu, cu130, …
    if not build:
        pytest.skip("this torch does not say in its version what it was built for")
    assert machine._torch_has_cuda() == build.startswith("cu")


def test_a_machine_without_a_driver_has_no_gpu_and_nothing_to_tell(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    found = usable_cards({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert (found.cards, found.trouble) == ([], "")


# --- bfloat16 ---------------------------------------------------------------------------------------------------------


def on_card(capability: tuple[int, int]) -> Node:
    return Node("node", 16, 1 << 38, (Gpu("card", 80 << 30, capability=capability),))


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_auto_is_bfloat16_only_where_the_card_computes_it(capability: tuple[int, int], dtype: str) -> None:
    nodes = [on_card((9, 0)), on_card(capability)]
    assert settle_numerics(Config(), nodes, settle_crew(Config(), nodes, 2304)).dtype == dtype


@pytest.mark.parametrize("name", ["dtype", "sae_dtype"])
def test_bfloat16_that_a_card_has_not_is_refused(name: str) -> None:
    config, nodes = Config(**{name: "bfloat16"}), [on_card((7, 0))]  # type: ignore[arg-type]
    with pytest.raises(LayerscopeError, match=rf"{name.replace('_', '-')} is bfloat16, and card has no .*7\.0"):
        settle_numerics(config, nodes, settle_crew(config, nodes, 2304))
    on_cpu = Config(**{name: "bfloat16", "device": "cpu"})  # type: ignore[arg-type]
    settle_numerics(on_cpu, nodes, settle_crew(on_cpu, nodes, 2304))
