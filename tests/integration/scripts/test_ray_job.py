"""The main job, sent to a running cluster with `ray job submit`: what travels, where records may go, stop and resume.

One cluster with token authentication, on the loopback, for all of it. Its node is logged in to a hub (a local one) that
gives the weights to that login only. What is sent is `scripts/runtime_env.yaml` without its `pip`, as on an image that
has every dependency: installing them takes a minute or two per node. With `pip` it was run by hand, over a Python with
torch and over one without.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from ray._private.ray_constants import RAY_RUNTIME_ENV_CREATE_WORKING_DIR_ENV_VAR

from hub_server import HubServer, Repository
from layerscope.config import Config
from paths import FAULTS, ROOT
from plain import plain_run

pytestmark = pytest.mark.slow
RAY = str(Path(sys.executable).parent / "ray")
HUB_TOKEN = "hf_plantedLoginThatMustStayHidden"
SENT_VERSION = "0.1.0+sent"
LOADED = "loaded_by_an_actor"
PACE = "pace"  # how slow the model is, as `faults` reads it
SETTINGS = {"sae_width": "1k", "dataset": "bundled", "num_samples": 40, "batch_tokens": 60, "top_k": 10}
PAGES = "distributed/docs/"
TRAVELS = ("distributed", "scripts", "pyproject.toml", "README.md", "LICENSE")
STAYS = (".env", ".venv/bin/python", "records.jsonl", "out/records.jsonl", "distributed/layerscope/__pycache__/x.pyc")


@dataclass
class JobCluster:
    """A cluster of one node, and the checkout that jobs are submitted from."""

    address: str
    folder: Path
    """Everything that the node writes, its home included; a short path, because Ray's sockets lie below it."""
    checkout: Path
    hub: HubServer
    environment: dict[str, str]
    """Of whoever submits: the address and Ray's own token, nothing of the hub."""
    told: list[str] = field(default_factory=list)
    """What every command printed."""
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def submit(self, submission_id: str, output: str) -> subprocess.Popen[str]:
        """Submits the job and follows it, in the background."""
        settings = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        script = ["python", "scripts/run_sae_feature_extraction_all_layers.py", *settings, "--output-file", output]
        runtime_env = ["--runtime-env", "scripts/runtime_env.yaml"]
        return self._start("submit", *runtime_env, "--submission-id", submission_id, "--", *script)

    def stop(self, submission_id: str) -> None:
        code, told = self.finish(self._start("stop", submission_id))
        assert code == 0, told

    def _start(self, *words: str) -> subprocess.Popen[str]:
        command = subprocess.Popen(
            [RAY, "job", *words],
            cwd=self.checkout,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.commands.append(command)
        return command

    def finish(self, command: subprocess.Popen[str]) -> tuple[int, str]:
        """The exit code of a command, which is the job's for a submission, and what it printed."""
        out, _ = command.communicate(timeout=200)
        self.told.append(out)
        return command.returncode, out

    def get(self, path: str) -> str:
        """What the dashboard's API answers to `curl`."""
        address = self.environment["RAY_API_SERVER_ADDRESS"] + path
        asked = urllib.request.Request(address)
        asked.add_header("Authorization", f"Bearer {Path(self.environment['RAY_AUTH_TOKEN_PATH']).read_text()}")
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return str(answer.read().decode())


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def make_checkout(folder: Path) -> None:
    """A copy of the repository that can be told from it, with what lies about in one that is worked in."""
    for name in (*TRAVELS, ".gitignore"):
        if (ROOT / name).is_dir():  # without what an installation from here has left there, which git ignores
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    for name in STAYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(HUB_TOKEN)
    (folder / "distributed/layerscope/__init__.py").write_text(f'__version__ = "{SENT_VERSION}"\n')
    batch = folder / "distributed/layerscope/engine/batches/batch.py"  # which only the actors import
    with batch.open("r+") as stream:
        stream.seek(0, os.SEEK_END)
        stream.write(f"import pathlib; pathlib.Path({str(folder / LOADED)!r}).touch()\n")
    recipe = folder / "scripts/runtime_env.yaml"
    runtime_env = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    del runtime_env["pip"]
    recipe.write_text(yaml.safe_dump(runtime_env), encoding="utf-8")


@pytest.fixture(scope="module")
def cluster(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ls", dir="/tmp"))
    checkout = tmp_path_factory.mktemp("checkout")
    make_checkout(checkout)
    gcs, dashboard, client, agent = free_ports(4)
    ray_token = folder / "ray_token"
    ray_token.write_text(secrets.token_hex(32))
    login = folder / "hf_home" / "token"
    login.parent.mkdir()
    login.write_text(HUB_TOKEN)
    everyone = {**os.environ, "HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    everyone.pop("PYTHONPATH", None)
    everyone |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(ray_token), "RAY_TMPDIR": str(folder)}
    start = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2"]
    start += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--disable-usage-stats"]
    start += [f"--dashboard-agent-listen-port={agent}", "--object-store-memory=200000000", f"--temp-dir={folder}"]
    with HubServer() as hub:
        hub.tokens, hub.licensed = {HUB_TOKEN: "alice"}, {HUB_TOKEN}
        for name, part in (("google/gemma-2-2b", "model"), ("google/gemma-scope-2b-pt-res", "saes")):
            files = {path.relative_to(tiny / part).as_posix(): path for path in (tiny / part).rglob("*.*")}
            hub.add(Repository("model", name, {key: path for key, path in files.items() if path.is_file()}, gated=True))
        node = {"HF_HOME": str(login.parent), "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
        # Ray listens on every interface of a Linux machine; this is how it keeps to the loopback.
        node |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        node |= {"PYTHONPATH": str(FAULTS), "LAYERSCOPE_FAULT": str(folder / PACE)}
        node["RAY_JOB_STOP_WAIT_TIME_S"] = "30"  # until it kills: a busy machine may take more than its 3 s
        (folder / PACE).write_text("slow:0.1")
        with (folder / "head.log").open("w") as log:
            head = subprocess.Popen(start, env={**everyone, **node}, stdout=log, stderr=log)
        submitter = {**everyone, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        cluster = JobCluster(f"127.0.0.1:{gcs}", folder, checkout, hub, submitter)
        try:
            wait_until(lambda: head.poll() is not None or answers(cluster), 90)
            assert head.poll() is None, (folder / "head.log").read_text()
            yield cluster
        finally:
            processes = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
            for process in [head, *processes, *cluster.commands]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            for command in [head, *cluster.commands]:
                command.communicate()
            psutil.wait_procs(processes, 10)
            shutil.rmtree(folder, ignore_errors=True)


def answers(cluster: JobCluster) -> bool:
    try:
        return cluster.get("/api/jobs/") == "[]"
    except OSError:
        return False


def wait_until(happened: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@dataclass(frozen=True)
class Runs:
    """Two submissions: one stopped half-way, and the same again."""

    output: Path
    stopped: bytes
    """The output file after `ray job stop`."""
    first: str
    second: tuple[int, str]


@pytest.fixture(scope="module")
def runs(cluster: JobCluster, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    output = tmp_path_factory.mktemp("shared") / "records.jsonl"
    first = cluster.submit("first", str(output))
    wait_until(lambda: first.poll() is not None or (output.exists() and output.stat().st_size), 90)
    assert first.poll() is None, cluster.finish(first)[1] + (cluster.folder / "head.log").read_text()
    (cluster.folder / PACE).write_text("slow:2")  # or it may be done before a busy machine has begun to stop it
    cluster.stop("first")
    cluster.finish(first)
    (cluster.folder / PACE).write_text("")
    told = cluster.get("/api/jobs/first/logs")  # whoever follows a job that is stopped may miss its last lines
    stopped = output.read_bytes()
    second = cluster.finish(cluster.submit("second", str(output)))
    return Runs(output, stopped, told, second)


def test_a_stopped_job_leaves_whole_lines_and_submitted_again_ends_with_the_same_bytes(runs: Runs, tiny: Path) -> None:
    """Byte for byte what one process makes from the plain functions."""
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes")}
    expected = plain_run(Config(**sources, **SETTINGS))  # type: ignore[arg-type]
    assert "Stopped by SIGTERM" in runs.first
    # It knew that it was a job, which is also why it would have refused a relative path.
    assert "To go on: ray job submit --runtime-env THE_SAME.yaml -- python scripts/run_sae" in runs.first
    assert runs.stopped.endswith(b"\n")
    assert len(runs.stopped) < len(expected)
    assert expected.startswith(runs.stopped)
    code, told = runs.second
    assert code == 0, told
    assert f"Going on after {len(runs.stopped.splitlines())} of" in told
    assert runs.output.read_bytes() == expected


def test_the_job_runs_on_the_cluster_it_was_submitted_to_with_the_code_that_was_sent(
    runs: Runs, cluster: JobCluster
) -> None:
    """Another cluster on the machine is joined, or a layerscope that is installed there computes instead."""
    jobs = {job["submission_id"]: job for job in json.loads(cluster.get("/api/jobs/"))}
    assert {name: job["status"] for name, job in jobs.items()} == {
        "first": "STOPPED",
        "second": "SUCCEEDED",
    }
    assert all(job["driver_info"] for job in jobs.values()), "a driver never connected to this cluster"
    manifest = json.loads(runs.output.with_name("records.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert manifest["identity"]["software"]["layerscope"] == SENT_VERSION
    assert (cluster.checkout / LOADED).exists()


def test_only_what_the_job_needs_travels(runs: Runs, cluster: JobCluster) -> None:  # noqa: ARG001
    """A few megabytes, the stand-in most of them; an environment, records or secrets that lie about stay."""
    (package,) = (cluster.folder / "session_latest/runtime_resources/working_dir_files").glob("_ray_pkg_*[!k]")
    sent = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    made = {path for path in sent if path.endswith(".pyc")}
    there = {path for path in cluster.checkout.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    names = {path.relative_to(cluster.checkout).as_posix() for path in there}
    assert sent - made == {name for name in names if name.startswith(TRAVELS) and not name.startswith(PAGES)}
    assert not sent & set(STAYS)
    assert sum((package / name).stat().st_size for name in sent - made) < 8_000_000


def test_the_token_of_the_nodes_login_is_written_nowhere(runs: Runs, cluster: JobCluster) -> None:
    """Greps what Ray wrote (logs, the jobs' metadata, runtime environments), what it tells, and what the job wrote."""
    assert any(request.has_token and "/resolve/" in request.path for request in cluster.hub.requests)
    written = [path for folder in (cluster.folder, runs.output.parent) for path in folder.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in written if path != cluster.folder / "hf_home/token"}
    logs = [path.name for path in contents if "logs" in path.parts]
    assert {"job-driver-second.log", "runtime_env_agent.log"} <= set(logs), "Ray's logs were not where the test looks"
    assert runs.output in contents
    assert [path for path, content in contents.items() if HUB_TOKEN.encode() in content] == []
    told = "\n".join([*cluster.told, cluster.get("/api/jobs/")])
    assert "second" in told
    assert HUB_TOKEN not in told


def test_pip_finds_what_was_sent() -> None:
    """Ray names the folder of what was sent by this variable; under another name pip would install something else."""
    packages = yaml.safe_load((ROOT / "scripts/runtime_env.yaml").read_text(encoding="utf-8"))["pip"]["packages"]
    folder = f"${{{RAY_RUNTIME_ENV_CREATE_WORKING_DIR_ENV_VAR}}}"
    assert packages == [f"-c {folder}/scripts/constraints.txt", folder]


def test_a_cluster_that_wants_its_token_gets_it_unasked_or_is_named(cluster: JobCluster, tmp_path: Path) -> None:
    """Whoever joins by an address: the token is looked for where `ray start` looks, and the mode needs no variable."""
    unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in cluster.environment.items() if name not in unset}
    environment |= {"HOME": str(tmp_path), "HF_HOME": str(tmp_path), "RAY_ADDRESS": cluster.address}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
        "0"  # the head listens on the loopback alone, so it is sought there
    )
    command = [sys.executable, "-m", "layerscope", "plan", "--standin", "--output-file", str(tmp_path / "o.jsonl")]

    def plan() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)

    refused = plan()
    assert refused.returncode == 1
    assert "wants its token" in refused.stderr
    assert "Traceback" not in refused.stderr
    (tmp_path / ".ray").mkdir()
    shutil.copy(cluster.environment["RAY_AUTH_TOKEN_PATH"], tmp_path / ".ray" / "auth_token")
    joined = plan()
    assert joined.returncode == 0, joined.stderr
    assert "1 Gemma" in joined.stdout
