"""Fixtures that the tests share: a tiny stand-in, the commands, a Ray cluster to send runs to, and those runs.

What is dear is made once per session (of each worker, where the tests run side by side): the stand-in, the file that a
run must give, and the cluster. A test starts processes of its own where only they can show what it says.
"""

import atexit
import contextlib
import gc
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# The tests' own process and every one it starts: no stray hub settings of the machine, one thread a process, and no
# Python that Ray starts for every CPU before anybody asks: our actors have an environment, so none of them is for us.
# Nor do these step back behind the tests of other files, which compute beside them.
for name in [name for name in os.environ if name.startswith(("HF_", "RAY_", "HUGGING"))]:
    del os.environ[name]
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ |= {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0", "RAY_worker_niceness": "0"}
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for a GPU run on the CPU; read when Triton is imported
# What is compiled is kept: else every worker translates all test modules again, and every process the whole package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # until all is imported: it would walk again and again through modules that stay
SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ
if SIDE_BY_SIDE:  # to take all modules apart at the end takes seconds; what others do at the end they do before this
    atexit.register(os._exit, 0)

# Whoever starts the tests in the background may have these ignored, which a run under test would inherit and respect.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

from background import METRICS_EACH_SECOND, OUTPUT, Run, SharedRay, Start, faulty, shared_ray  # noqa: E402 - Ray reads the environment
from faults import sitecustomize as faults  # noqa: E402
from in_process import OneProcess, WriterHere  # noqa: E402
from paths import ROOT  # noqa: E402

if TYPE_CHECKING:
    from layerscope.config import Config

Command = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class Browser:
    """The one that runs, if one does."""

    wanted: set[Path] = field(default_factory=set)
    """The files of tests that want one."""
    browser: Any = None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_hub_home = pytest.StashKey[Path]()
_browser = pytest.StashKey[Browser]()

DEAREST = (
    "test_kills.py",
    "test_ray_job.py",
    "test_cluster.py",
    "test_run.py",
    "test_package.py",
    "test_gpus_of_ray.py",
    "test_object_faults.py",
    "test_promises.py",
    "test_journal.py",
    "test_finished_pages.py",
    "test_page.py",
    "test_panel.py",
    "test_page_of_readings.py",
    "test_page_of_causes.py",
    "test_sides.py",
    "test_mean_section.py",
    "test_page_of_dictionaries.py",
    "test_folder_page.py",
    "test_tokens.py",
    "test_groups.py",
    "test_writers_of_a_run.py",
    "test_repository.py",
    "test_standin.py",
    "test_readme.py",
    "test_deaths.py",
    "test_object_storage.py",
    "test_faults.py",
)
"""Files of tests that go first, the longest before the others: a long one begun last is waited for alone. Those with a
browser follow one another, so that it is begun once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="how often the driver is killed; scripts/soak: 25 times")
    parser.addoption("--nightly", action="store_true", help="run what is marked so too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.get_closest_marker("nightly") and not config.getoption("--nightly")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    config.stash[_browser].wanted = {item.path for item in items if "chromium" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: DEAREST.index(item.path.name) if item.path.name in DEAREST else len(DEAREST))


def pytest_configure(config: pytest.Config) -> None:
    """The hub's client reads where its cache is when it is imported, in this process too."""
    config.stash[_browser] = Browser()
    config.stash[_hub_home] = Path(tempfile.mkdtemp(prefix="tests-of-layerscope-"))
    os.environ["HF_HOME"] = str(config.stash[_hub_home])


def pytest_collection() -> None:
    """Whoever has all tests before it needs transformers, and gets it as an actor imports it: without its compiler."""
    if SIDE_BY_SIDE:
        from layerscope.models.lean_import import import_transformers

        import_transformers()


def pytest_collection_finish() -> None:
    """What was imported stays, and the collector leaves it alone."""
    gc.enable()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not SIDE_BY_SIDE:
        gc.unfreeze()  # else libraries that count what they leave behind complain at the end
    shutil.rmtree(config.stash[_hub_home], ignore_errors=True)


@pytest.fixture(scope="session")
def hub_home(pytestconfig: pytest.Config) -> Path:
    """`HF_HOME` of the tests' process and of what it starts."""
    return pytestconfig.stash[_hub_home]


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
def layerscope() -> Command:
    """Runs `layerscope ARGUMENTS…` as a user would; `cwd` and `env` (added to the tests' own) may be given.

    Without the lines of what it waits for, which a machine that has much to do makes it say.
    """

    def run(
        *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "layerscope", *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=timeout,
            check=False,
        )
        done.stderr = re.sub(r"^layerscope waits for .*\n", "", done.stderr, flags=re.MULTILINE)
        return done

    return run


def called(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `layerscope ARGUMENTS…` says and ends with, called in this process: a new one would import for seconds."""
    from layerscope.cli import main

    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["layerscope", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    if "ray" in sys.modules:  # a command that joined a cluster leaves it by ending its process
        sys.modules["ray"].shutdown()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def command() -> Command:
    return called


@contextlib.contextmanager
def actors_here() -> Iterator[pytest.MonkeyPatch]:
    """Runs that are called in this process have their actors here too."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.MonkeyPatch.context() as patch:
        for command_of in ("run", "ablate"):
            patch.setattr(f"layerscope.commands.{command_of}.Cluster", OneProcess)
        patch.setattr("layerscope.commands.run_parts.start_writer", lambda _: WriterHere())
        yield patch
    for number, handler in handlers.items():  # a run that was stopped leaves its own
        signal.signal(number, handler)


@pytest.fixture
def one_process() -> Iterator[Callable[[str], None]]:
    """Runs of `command` have their actors in this process; what it gives sets what is wrong with their model."""
    from layerscope.models import attribution, language_model

    with actors_here() as patch:
        patch.setattr(language_model.LanguageModel, "forward", language_model.LanguageModel.forward)
        patch.setattr(attribution, "differentiate", attribution.differentiate)
        patch.setenv("LAYERSCOPE_FAULT", "")
        faults.spoil(language_model)
        faults.slowing("differentiate")(attribution)
        yield lambda fault: patch.setenv("LAYERSCOPE_FAULT", fault)


@pytest.fixture
def run_here(
    settings: dict[str, str], command: Command, one_process: Callable[[str], None], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A run as `start` has it, from beginning to end in this process, with a fault."""

    def run(*more: str, fault: str = "") -> subprocess.CompletedProcess[str]:
        one_process(fault)
        return command("run", *words(settings), "--output-file", OUTPUT, *more, cwd=tmp_path)

    return run


@pytest.fixture
def notes_are_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run notes in the manifest what it has written at its end alone, and not every few seconds."""
    monkeypatch.setattr("layerscope.records.writing.journal._CHECKPOINT_SECONDS", 1e9)


@pytest.fixture(scope="session")
def settings(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Many small batches, so that there is much to interrupt, of two dictionaries; one question cannot be scored."""
    questions = (ROOT / "distributed/layerscope/standin/questions.jsonl").read_text(encoding="utf-8").splitlines()[:59]
    questions.insert(30, '{"goal": "nothing to say", "sol1": "", "sol2": "x", "label": 0}')
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("\n".join(questions), encoding="utf-8")
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "dataset": str(path)}
    crew = {"gemma_actors": "1", "layer_blocks": "1", "encoders_per_block": "1"}
    sources["dictionary"] = "few=auto,width=1k,l0=min"
    return {**sources, "num_samples": "60", "batch_tokens": "60", "top_k": "10", **crew}


def words(settings: Mapping[str, str]) -> list[str]:
    """Settings as they are written on the command line."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]


def config_of(settings: Mapping[str, str], **others: Any) -> "Config":
    """Settings as Python takes them."""
    from layerscope.config import Config

    numbers = {name: int(value) for name, value in settings.items() if value.isdigit()}
    several = {"dictionary": (settings["dictionary"],)} if "dictionary" in settings else {}
    return Config(**{**settings, **numbers, **several, **others})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def expected(settings: dict[str, str]) -> bytes:
    """The finished file of a run that nothing interrupts."""
    from plain import plain_run

    return plain_run(config_of(settings))


@pytest.fixture(scope="session")
def cluster_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRay]:
    """A Ray of one node with four CPUs, for every run that need not have one of its own."""
    with shared_ray(tmp_path_factory.mktemp("ray") / "fault") as ray:
        yield ray


@pytest.fixture
def start(settings: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts `layerscope run`, or what `of` says, on the cluster for all unless told where; what is alive when the test
    ends is killed.

    `fault` is done to the model's forward pass, as `faults/sitecustomize.py` says; on a cluster of the test's own it
    is the cluster that must be given it. What it says is kept for `Run.finish`, unless it has a terminal.
    """
    runs: list[Run] = []

    def begin(
        *more: str,
        fault: str = "",
        address: str = "",
        terminal: int = subprocess.PIPE,
        output: str = OUTPUT,
        of: Sequence[str] = (),
    ) -> Run:
        shared: SharedRay | None = None if address else request.getfixturevalue("cluster_for_all")
        if shared:
            address = shared.address
            shared.set_fault(fault)
        command = of or ["run", *words(settings)]
        process = subprocess.Popen(
            [sys.executable, "-m", "layerscope", *command, "--output-file", output, "--address", address, *more],
            cwd=tmp_path,
            env={**os.environ, **METRICS_EACH_SECOND, **(faulty(fault) if fault and not shared else {})},
            stdin=terminal if terminal >= 0 else None,
            stdout=terminal,
            stderr=terminal,
            text=True,
        )
        runs.append(Run(process, tmp_path / output, shared.raylet if shared else None))
        return runs[-1]

    yield begin
    for one in runs:
        one.end()


@pytest.fixture
def chromium(pytestconfig: pytest.Config) -> Any:
    """A browser, which is begun once for the files of tests that follow one another and want it."""
    from browsing import chromium_running

    running = pytestconfig.stash[_browser]
    if running.browser is None:
        running.browser = running.stack.enter_context(chromium_running())
    return running.browser


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A browser has an event loop, which the tests that begin one of their own cannot have beside it."""
    yield
    running = item.config.stash[_browser]
    if nextitem is None or nextitem.path not in running.wanted:
        running.browser = None
        running.stack.close()
