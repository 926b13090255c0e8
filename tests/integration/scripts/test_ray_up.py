"""The first way onto a cluster: `cluster.yaml`, `ray up`, `ray submit` and `ray rsync-down`.

A real cluster of two nodes on loopback addresses of this machine, behind a real sshd, in namespaces of its own: no
other Ray is seen or touched, and nothing is left behind.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from paths import FAULTS, ROOT

SCRIPT = ROOT / "scripts/run_sae_feature_extraction_all_layers.py"
CLUSTER = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
SECRETS = {"hub": "hf_secret_of_the_hub_1234567890", "ray": "5ec2e7" * 10 + "abcd"}
PROGRAMS = ("sshd", "ssh", "ssh-keygen", "rsync", "unshare", "nsenter", "ip")
NAMESPACES = ["unshare", "--kill-child", "--pid", "--fork", "--net", "--mount", "--mount-proc"]
# What is written below /tmp, where Ray keeps its files, stays in memory and ends with the namespaces.
WORLD = """
set -e
ip link set lo up
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay none -o "lowerdir=/tmp,upperdir=$1/upper,workdir=$1/work" /tmp
mkdir -p /tmp/ray
mount -t tmpfs none /tmp/ray
mount -t tmpfs none /run
mkdir /run/sshd
mount --bind "$2" /etc/passwd
shift 2
exec "$@"
"""


def test_the_cluster_file_passes_rays_validator_and_keeps_its_promises() -> None:
    cluster = prepare_config(yaml.safe_load(CLUSTER))
    validate_config(cluster)
    types = cluster["available_node_types"]
    head, (gpu,) = (
        types[cluster["head_node_type"]],
        [types[name] for name in types if name != cluster["head_node_type"]],
    )
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] == cluster["max_workers"] > 0

    (volume,) = head["node_config"]["BlockDeviceMappings"]
    assert volume["Ebs"]["DeleteOnTermination"] is False
    environment = dict(re.findall(r"-e (\w+)=(\S+)", " ".join(cluster["docker"]["run_options"])))
    assert "-v /data:/data" in " ".join(cluster["docker"]["run_options"])
    assert environment["HF_HOME"] == "/data/huggingface"
    assert cluster["initialization_commands"][-1] == cluster["metadata"]["mount"]
    assert " /data/huggingface " in cluster["metadata"]["mount"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] in cluster["file_mounts"]
    assert environment["HF_TOKEN_PATH"] in cluster["file_mounts"]
    assert not {"HF_TOKEN", "RAY_AUTH_TOKEN"} & set(environment)
    assert any("--dashboard-host=127.0.0.1" in command for command in cluster["head_start_ray_commands"])


def test_the_cluster_file_has_two_places_to_edit() -> None:
    before, where, how_large = re.split(r"# ==== EDIT \d of 2", CLUSTER)
    assert "EDIT" not in before
    edited = {"region": where, "ami": where, "mount": where, "InstanceType": how_large, "max_workers": how_large}
    assert all(re.search(rf"^ *{name}: ", section, re.MULTILINE) for name, section in edited.items())
    assert CLUSTER.count("us-west-2") == where.count("us-west-2")
    assert len(re.findall(r"(?:ami|fs)-\w{17}", CLUSTER)) == len(re.findall(r"(?:ami|fs)-\w{17}", where)) == 2


def test_the_script_says_where_the_package_is_missing(tmp_path: Path) -> None:
    alone = shutil.copy(SCRIPT, tmp_path)
    done = subprocess.run([sys.executable, "-S", alone], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "layerscope is not installed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--layers no such layer --standin", "--layers is 'no such layer'"),
        ("--standin --layers=no such layer", "--layers is 'no such layer'"),
        ("--standin stray --top-k 1", "stray"),
    ],
)
def test_the_script_rejoins_a_value_that_arrives_in_words(arguments: str, told: str) -> None:
    """And nothing else: a word after a flag is refused as ever."""
    done = subprocess.run([sys.executable, SCRIPT, *arguments.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.fixture(scope="module")
def options(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The questions of `expected`, in a file with blanks in its name."""
    questions = tmp_path_factory.mktemp("with blanks") / "my own questions.jsonl"
    shutil.copy(settings["dataset"], questions)
    return {**settings, "dataset": str(questions)}


def words(options: dict[str, str], output: str) -> list[str]:
    spelled = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return [*spelled, "--output-file", output]


def poll(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # a look through all processes takes some of their time


class World:
    """Namespaces with a loopback, a `/tmp`, a home and an sshd of their own; ended with all that runs in them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        (folder / "overlay").mkdir()
        users = f"tester:*:0:0::{self.home}:/bin/bash\nsshd:*:65534:65534::/run/sshd:/usr/sbin/nologin\n"
        (folder / "passwd").write_text(users, encoding="utf-8")
        inside = [*NAMESPACES, "sh", "-c", WORLD, "world", str(folder / "overlay"), str(folder / "passwd")]
        probe = subprocess.run([*inside, "true"], capture_output=True, text=True, check=False)
        if probe.returncode:
            pytest.skip(f"this machine gives no namespaces: {probe.stderr.strip()}")
        for name in ("host-key", "key"):
            subprocess.run(["ssh-keygen", "-qN", "", "-t", "ed25519", "-f", str(folder / name)], check=True)
        settings = [
            f"HostKey={folder}/host-key",
            f"AuthorizedKeysFile={folder}/key.pub",
            "PidFile=none",
            "StrictModes=no",
        ]
        sshd = [str(shutil.which("sshd")), "-D", "-e", "-f", os.devnull, *(f"-o{setting}" for setting in settings)]
        log = folder / "sshd.log"
        with log.open("wb") as stream:
            self._unshare = subprocess.Popen([*inside, *sshd], stdout=stream, stderr=stream)
        try:
            poll(lambda: b"Server listening" in log.read_bytes())
            (self._init,) = psutil.Process(self._unshare.pid).children()
        except BaseException:
            self.end()
            raise

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command in there, as from a laptop that has nothing but Ray and a way to the head."""
        enter = ["nsenter", f"--target={self._init.pid}", "--pid", "--net", "--mount"]
        return subprocess.Popen(
            [*enter, *command],
            # Under the newer autoscaler this provider never adds a node.
            env={"PATH": PATH, "HOME": str(self.home), "TERM": "dumb", "RAY_UP_enable_autoscaler_v2": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> str:
        """What a command told, which must succeed."""
        process = self.start(*command)
        told, _ = process.communicate(timeout=200)
        assert process.returncode == 0, told
        return told

    def path(self, inside: Path) -> Path:
        """How a file in there is reached from here."""
        return Path(f"/proc/{self._init.pid}/root{inside}")

    def processes(self, command: str, *entered: int) -> list[psutil.Process]:
        """Those whose command line begins so, of all in there and of those below processes that entered."""
        found = []
        for root in (self._init, *map(psutil.Process, entered)):
            for process in root.children(recursive=True):
                with suppress(psutil.Error):
                    if " ".join(process.cmdline()).startswith(command):
                        found.append(process)
        return found

    def end(self) -> None:
        self._unshare.kill()
        self._unshare.wait()


@pytest.fixture(scope="module")
def world(hub_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster that `ray up` made: the head, which takes no actors, and a node that its autoscaler adds."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on this machine")
    world = World(tmp_path_factory.mktemp("world"))
    try:
        up(world, hub_home)
        yield world
    finally:
        world.end()


def up(world: World, hub_home: Path) -> None:
    """`ray up`, with the start commands of `cluster.yaml`."""
    secrets = {name: f"~/secrets/{name}-token" for name in SECRETS}
    for name, secret in SECRETS.items():
        (world.folder / f"{name}-token").write_text(secret, encoding="utf-8")
    shell = {
        "PATH": PATH,
        "PYTHONPATH": f"{world.home}/layerscope:{world.home}/faults",
        "LAYERSCOPE_FAULT": "slow:0.1",
        "HF_HOME": str(hub_home),
        "HF_TOKEN_PATH": secrets["hub"].replace("~", str(world.home)),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": secrets["ray"].replace("~", str(world.home)),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
    }
    lines = [f"export {name}={shlex.quote(text)}\n" for name, text in shell.items()]
    (world.home / ".bashrc").write_text("".join(lines), encoding="utf-8")
    ours, store = yaml.safe_load(CLUSTER), "--object-store-memory=100000000"
    # But for `ray stop`, which would end the other node too: it is on the same machine.
    head, node = ours["head_start_ray_commands"][-1], ours["worker_start_ray_commands"][-1]
    cluster = {
        "cluster_name": "loopback",
        "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2"]},
        "auth": {"ssh_user": "tester", "ssh_private_key": str(world.folder / "key")},
        "file_mounts": {
            "~/layerscope": str(ROOT / "distributed"),
            "~/faults": str(FAULTS),
            **{path: str(world.folder / f"{name}-token") for name, path in secrets.items()},
        },
        "rsync_filter": ours["rsync_filter"],
        "head_start_ray_commands": [
            f"{head} {store} --num-cpus=0 --node-ip-address=127.0.0.1 --include-dashboard=false"
        ],
        "worker_start_ray_commands": [f"{node} {store} --num-cpus=4 --node-ip-address=127.0.0.2"],
    }
    (world.folder / "cluster.yaml").write_text(yaml.safe_dump(cluster), encoding="utf-8")
    world.run("ray", "up", "--yes", f"{world.folder}/cluster.yaml")


def submit(world: World, options: dict[str, str], output: str) -> subprocess.Popen[str]:
    return world.start("ray", "submit", f"{world.folder}/cluster.yaml", str(SCRIPT), "--", *words(options, output))


def fetched(world: World, output: str) -> bytes:
    """The output file, brought from the head."""
    there, here = world.home / output, world.folder / "fetched"
    world.run("ray", "rsync-down", f"{world.folder}/cluster.yaml", str(there), str(here))
    return world.path(here).read_bytes()


@pytest.mark.nightly
def test_a_submission_whose_connection_is_lost_goes_on_when_submitted_again(
    world: World, options: dict[str, str], expected: bytes
) -> None:
    """And what is fetched back in the end equals a plain run."""
    output = world.path(world.home / "cut.jsonl")
    lost = submit(world, options, "cut.jsonl")
    poll(lambda: output.exists() and output.stat().st_size > len(expected) // 3)
    actors = world.processes("ray::GemmaActor")
    assert actors
    assert all("--node_ip_address=127.0.0.2" in actor.parent().cmdline() for actor in actors)
    for client in [*world.processes("ssh ", lost.pid), *world.processes("ssh: ", lost.pid)]:
        client.kill()
    lost.communicate(timeout=60)
    assert lost.returncode != 0
    poll(lambda: not world.processes(f"python {world.home}/{SCRIPT.name}"))
    written = output.read_bytes()
    assert written.endswith(b"\n")
    assert len(written) < len(expected)
    assert expected.startswith(written)

    again = submit(world, options, "cut.jsonl")
    told, _ = again.communicate(timeout=200)
    assert again.returncode == 0, told
    assert re.search(r"Going on after [1-9]\d* of 60 questions", told)
    assert "questions             60" in told
    assert fetched(world, "cut.jsonl") == expected


@pytest.mark.nightly
def test_no_secret_is_in_a_log_of_ray_and_nobody_gets_in_without_the_token(world: World) -> None:
    files = [path for path in world.path(Path("/tmp/ray")).rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not any(secret.encode() in content for secret in SECRETS.values()), path
    refused = world.start("ray", "status", "--address=127.0.0.1:6379")
    told, _ = refused.communicate(timeout=60)
    assert refused.returncode != 0
    assert "token" in told
