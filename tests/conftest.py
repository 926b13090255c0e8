"""Fixtures that the tests share: a tiny stand-in, and the real command in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

# The tests' own process and every one it starts: no stray hub settings of the machine, one thread a process.
for name in [name for name in os.environ if name.startswith(("HF_", "RAY_", "HUGGING"))]:
    del os.environ[name]
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for a GPU run on the CPU; read when Triton is imported

# Whoever starts the tests in the background may have these ignored, which a run under test would inherit and respect.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

from background import FAULTS, OUTPUT, Run, Start  # noqa: E402 - Ray reads the environment when it is imported

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`HF_HOME` of the commands that the tests start."""
    return tmp_path_factory.mktemp("hf_home")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/` and `saes/`: three layers, SAEs of 1,024 features named `1k`, a window of 12 tokens."""
    from layerscope.standin.build import StandinSpec, build

    folder = tmp_path_factory.mktemp("tiny") / "standin"
    sizes = {"n_layers": 3, "d_model": 32, "vocabulary": 900, "sliding_window": 12, "width": "1k", "d_sae": 1024}
    build(StandinSpec(**sizes, l0s=((8, 60), (20, 110), (40,))), folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="session")
def tiny_options(tiny: Path) -> list[str]:
    """Options of a run on the tiny stand-in and the bundled questions, in a Ray of its own."""
    sources = ["--model", str(tiny / "model"), "--sae-repo", str(tiny / "saes"), "--sae-width", "1k"]
    return [*sources, "--dataset", "bundled", "--address", "local", "--num-samples", "30", "--batch-tokens", "200"]


@pytest.fixture(scope="session")
def layerscope(hub_home: Path) -> Command:
    """Runs `layerscope ARGUMENTS…` as a user would; `cwd` and `env` (added to the tests' own) may be given."""

    def run(
        *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "layerscope", *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "HF_HOME": str(hub_home), **(env or {})},
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def settings(tiny: Path) -> dict[str, str]:
    """Many small batches, so that there is much to interrupt."""
    numbers = {"num_samples": "60", "batch_tokens": "60", "top_k": "10", "layer_blocks": "2"}
    return {
        "model": str(tiny / "model"),
        "sae_repo": str(tiny / "saes"),
        "sae_width": "1k",
        "dataset": "bundled",
        **numbers,
    }


@pytest.fixture(scope="session")
def expected(settings: dict[str, str], hub_home: Path) -> bytes:
    """The finished file of a run that nothing interrupts."""
    from huggingface_hub import constants

    from layerscope.config import Config
    from plain import plain_run

    numbers = {name: int(value) for name, value in settings.items() if value.isdigit()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(hub_home / "hub"))
        return plain_run(Config(**{**settings, **numbers}))  # type: ignore[arg-type]


@pytest.fixture
def start(settings: dict[str, str], hub_home: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `layerscope run`; what is still alive at the end of the test is killed."""
    runs: list[Run] = []

    def begin(*more: str, fault: str | None = None, address: str = "local") -> Run:
        words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        environment = {**os.environ, "HF_HOME": str(hub_home)}
        if fault:
            environment |= {"PYTHONPATH": str(FAULTS), "LAYERSCOPE_FAULT": fault}
        process = subprocess.Popen(
            [sys.executable, "-m", "layerscope", "run", *words, "--output-file", OUTPUT, "--address", address, *more],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        runs.append(Run(process, tmp_path))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()
