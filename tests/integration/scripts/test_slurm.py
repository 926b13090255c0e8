"""The Slurm recipe: its own steps with made-up commands, and all of it on two nodes.

These are namespaces of this machine: own addresses, processes and temporary files. `ray symmetric-run` tells the head
by its address and ends with `ray stop`, so two of it need two network and process namespaces. Slurm itself is not
there: `srun` starts its command on every node, as Slurm would, and no more.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerscope.config import Config
from paths import ROOT
from plain import plain_run

SETTINGS = {"sae_width": "1k", "dataset": "bundled", "num_samples": 30, "batch_tokens": 200, "top_k": 10}

# Whatever is started within ends with the first process.
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
# Two machines on one wire, known to each other by name.
WIRE = """set -e
mount -t tmpfs none /run
mkdir -p /tmp/ray
ip link add eth1 type veth peer name eth2
for node in 1 2; do
  ip netns add node$node
  ip link set eth$node netns node$node
  ip -n node$node address add 10.9.0.$node/24 dev eth$node
  ip -n node$node link set eth$node up
  ip -n node$node link set lo up
done
mount --bind hosts /etc/hosts
exec "$@"
"""
HOSTS = "127.0.0.1 localhost\n10.9.0.1 node1\n10.9.0.2 node2\n"
SRUN = """#!/bin/sh
for node in node1 node2; do
  ip netns exec $node NAMESPACES --uts sh -c '
    hostname '$node' && mount -t tmpfs none /tmp/ray && "$@"; exit $?' sh "$@" > $node.log 2>&1 &
  tasks="$tasks $!"
  export RAY_gcs_rpc_server_reconnect_timeout_s=8 # how long the second looks for a head that is gone; else a minute
done
for task in $tasks; do wait $task || code=$?; done
exit ${code:-0}
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"
"""


def on_two_nodes(folder: Path, *command: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """Runs a command beside the two nodes, with Slurm's commands on its path."""
    commands = folder / "slurm"
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        commands.mkdir(exist_ok=True)
        (commands / name).write_text(text.replace("NAMESPACES", " ".join(NAMESPACES)))
        (commands / name).chmod(0o755)
    (folder / "hosts").write_text(HOSTS)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"}
    slurm |= {"RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "100"}
    environment = {**os.environ, **slurm, "HOME": str(folder), "SCRATCH": str(folder)}
    environment["PATH"] = f"{commands}:{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(
        [*NAMESPACES, "--net", "--map-root-user", "bash", "-c", WIRE, "bash", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


RAY = """#!/bin/sh
case $1 in
  get-auth-token) mkdir -p ~/.ray && echo secret > ~/.ray/auth_token ;;
  symmetric-run)
    echo "$@" > ray-words
    while [ "$1" != -- ]; do shift; done
    shift
    "$@"
    exit 1 ;;
esac
"""
PYTHON = """#!/bin/sh
echo "$RAY_AUTH_MODE $HF_HOME $@" > python-words
exit $CODE
"""


@pytest.mark.parametrize("code", [0, 3])
def test_its_exit_code_is_the_runs_whatever_ray_ends_with(code: int, tmp_path: Path) -> None:
    """A requeued job would run for ever, or a failed one pass for done; and every step gets the words it needs."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in {"srun": '#!/bin/sh\nexec "$@"\n', "scontrol": SCONTROL, "ray": RAY, "python": PYTHON}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("")
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SCRATCH": "/every/node"}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/slurm.sbatch"), "--top-k", "5", "--dataset", "my own.jsonl"],
        cwd=tmp_path,
        env={"PATH": f"{commands}:/usr/bin:/bin", "HOME": str(tmp_path), "CODE": str(code), **slurm},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    ray, python = ((tmp_path / f"{name}-words").read_text() for name in ("ray", "python"))
    assert ray.startswith("symmetric-run --address node1:6379 --min-nodes 2 -- ")
    script = "scripts/run_sae_feature_extraction_all_layers.py"
    assert python == f"token /every/node/huggingface {script} --address node1:6379 --top-k 5 --dataset my own.jsonl\n"
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o77 == 0
    assert not list(tmp_path.glob("*.exit"))


@pytest.mark.nightly
def test_the_slurm_recipe_runs_on_two_nodes_and_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    """The recipe as it is, from the login to the exit code; the file is what one process makes from plain functions."""
    if on_two_nodes(tmp_path, "true", timeout=20).returncode:
        pytest.skip("this machine does not give its users network namespaces")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    settings = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), **SETTINGS}
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--output-file", str(tmp_path / "records.jsonl")]
    words += ["--gemma-actors", "1", "--layer-blocks", "1", "--encoders-per-block", "1"]
    done = on_two_nodes(tmp_path, "bash", str(ROOT / "scripts/slurm.sbatch"), *words)
    head, other = (tmp_path / "node1.log").read_text(), (tmp_path / "node2.log").read_text()
    assert done.returncode == 0, done.stderr + head + other
    expected = plain_run(Config(**settings))  # type: ignore[arg-type]
    assert (tmp_path / "records.jsonl").read_bytes() == expected
    assert "questions             30" in head
    assert not list(tmp_path.glob("*.exit"))
    assert "On worker node" in other
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o77 == 0
