"""CPUs and memory are those that this process is allowed: more would be refused or killed by whoever set the limit.

Each case is a machine's files as its kernel shows them, under a folder of their own.
"""

import os
from pathlib import Path

import pytest

from layerscope.planning.limits import limits

GIB = 1 << 30
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "34 25 0:30 {root} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct"
V1_SET = "35 25 0:31 / /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset"
V1_MEMORY = "36 25 0:32 {root} /sys/fs/cgroup/memory ro master:15 - cgroup cgroup rw,memory"
STEP = "system.slice/slurmstepd.scope/job_7"

CASES = {
    "docker run --cpus 2 --memory 4g, v2": (
        [V2],
        "0::/",
        {"cpu.max": "200000 100000", "memory.max": str(4 * GIB)},
        (2, 4 * GIB),
    ),
    "docker run --cpus 2.5, v2: a third thread would wait": ([V2], "0::/", {"cpu.max": "250000 100000"}, (2, None)),
    "docker run --cpus 0.5, v2: one there is": ([V2], "0::/", {"cpu.max": "50000 100000"}, (1, None)),
    "no limit, v2": ([V2], "0::/user.slice", {"user.slice/cpu.max": "max 100000", "user.slice/memory.max": "max"}, ()),
    "Slurm, v2: the job holds its step": (
        [V2],
        f"0::/{STEP}/step_0/user/task_0",
        {
            f"{STEP}/memory.max": str(4 * GIB),
            f"{STEP}/step_0/memory.max": "max",
            f"{STEP}/step_0/user/task_0/memory.max": str(8 * GIB),
            f"{STEP}/cpu.max": "300000 100000",
        },
        (3, 4 * GIB),
    ),
    "docker, v1: the mount is the group": (
        [V1_CPU.format(root="/docker/f00"), V1_SET, V1_MEMORY.format(root="/docker/f00")],
        "5:cpuset:/\n4:cpu,cpuacct:/docker/f00\n3:memory:/docker/f00",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "200000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": str(4 * GIB),
        },
        (2, 4 * GIB),
    ),
    "docker, v1: the host's name of the group leads nowhere": (
        [V1_MEMORY.format(root="/")],
        "3:memory:/docker/f00",
        {"memory/memory.limit_in_bytes": str(4 * GIB)},
        (None, 4 * GIB),
    ),
    "Slurm, v1, nested, on a machine without limits of its own": (
        [V1_CPU.format(root="/"), V1_MEMORY.format(root="/")],
        "4:cpu,cpuacct:/slurm/uid_1/job_7\n3:memory:/slurm/uid_1/job_7/step_0\n0::/",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/slurm/uid_1/job_7/cpu.cfs_quota_us": "300000",
            "cpu,cpuacct/slurm/uid_1/job_7/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "9223372036854771712",  # v1's word for no limit
            "memory/slurm/uid_1/job_7/memory.limit_in_bytes": str(4 * GIB),
            "memory/slurm/uid_1/job_7/step_0/memory.limit_in_bytes": str(6 * GIB),
        },
        (3, 4 * GIB),
    ),
    "no control groups at all": ([], "", {}, ()),
    "systemd's MemoryHigh, above which a process all but stands still": (
        [V2],
        "0::/user.slice",
        {"user.slice/memory.max": "max", "user.slice/memory.high": str(4 * GIB)},
        (None, 4 * GIB),
    ),
    "a disk whose name is none in UTF-8": (
        ["29 23 8:1 / /media/Donn\udce9es rw - ext4 /dev/sdb1 rw", V2],
        "0::/",
        {"memory.max": str(4 * GIB)},
        (None, 4 * GIB),
    ),
    "a mount with a blank in its path": (
        [V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/of\\040mine")],
        "0::/",
        {"of mine/memory.max": str(4 * GIB)},
        (None, 4 * GIB),
    ),
}
SLURM_WITHOUT_GROUPS = {
    "all that is there": ({"SLURM_CPUS_ON_NODE": "64", "SLURM_MEM_PER_NODE": "0"}, ()),
    "-c 4 --mem 8G": ({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "8192"}, (4, 8 * GIB)),
    "-c 4 --mem-per-cpu 2G": ({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "2048"}, (4, 8 * GIB)),
    "no job": ({"SLURM_CPUS_ON_NODE": "", "SLURM_MEM_PER_CPU": "2048"}, ()),
}


@pytest.fixture(autouse=True)
def _a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256 * GIB // 4096}.__getitem__)


@pytest.mark.parametrize("case", CASES)
def test_the_tightest_limit_around_this_process_holds(case: str, tmp_path: Path) -> None:
    mounts, groups, files, expected = CASES[case]
    told = {"proc/self/mountinfo": "\n".join(mounts), "proc/self/cgroup": groups}
    for name, text in {**told, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text and text + "\n", errors="surrogateescape")
    cpus, memory = expected or (None, None)
    assert limits(tmp_path) == (cpus or 64, memory or 256 * GIB)


def test_the_cpus_a_process_is_bound_to_are_all_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm and taskset bind; four threads on two CPUs would take turns."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 17})
    assert limits(tmp_path).cpus == 2


@pytest.mark.parametrize("case", SLURM_WITHOUT_GROUPS)
def test_what_slurm_gave_a_job_is_all_it_has_where_nothing_holds_it_to_that(case: str, tmp_path: Path) -> None:
    """Without groups and binding, 64 threads would take the CPUs of other people's jobs."""
    environment, expected = SLURM_WITHOUT_GROUPS[case]
    cpus, memory = expected or (64, 256 * GIB)
    assert limits(tmp_path, environment) == (cpus, memory)


def test_a_machine_without_such_files_has_what_the_system_says(tmp_path: Path) -> None:
    assert limits(tmp_path / "nowhere") == (64, 256 * GIB)
