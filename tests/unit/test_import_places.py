"""A user's file in the working folder that is called like a library is not executed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

LIBRARIES = ("transformers", "numpy", "ray", "orjson", "filelock", "msgspec", "layerscope_addon")

OF_PYTHON = ("typing", "pathlib", "tempfile", "random", "stat", "logging")  # which the first import would bring
PROGRAMS = (["layerscope", "--version"], ["layerscope.standin.build", "--help"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with files that must not be imported; each says so by ending the process."""
    for name in LIBRARIES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was executed')")
    return tmp_path


@pytest.mark.parametrize("path", ["{sources}", ":{sources}", "{sources}::", ".:{sources}", "{here}:{sources}"])
def test_the_command_imports_nothing_from_the_working_folder(path: str, folder: Path) -> None:
    """An empty entry of PYTHONPATH is the working folder, as `python -m` puts it there too."""
    told = path.format(sources=ROOT / "distributed", here=folder)
    code = (
        "import runpy, sys; sys.argv = ['layerscope', '--version']\n"
        "try: runpy.run_module('layerscope', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "import os; print(os.environ['PYTHONPATH'])\n"
        "try: import layerscope_addon\n"
        "except ModuleNotFoundError: print('not there')"
    )
    for words in (["-m", "layerscope", "--version"], ["-c", code]):
        environment = {**os.environ, "PYTHONPATH": told}
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [str(ROOT / "distributed"), "not there"]


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_a_program_finds_no_module_of_pythons_own_there_either(program: list[str], folder: Path) -> None:
    """`python -m` imports the package, and what that imports, before it comes to the program itself."""
    for name in OF_PYTHON:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py was executed')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "distributed")}
    words = [sys.executable, "-m", *program]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_layerscope_itself_may_lie_in_the_working_folder() -> None:
    """`cd distributed; python -m layerscope` finds nothing of itself, or its actors do not."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-S", "-c", "import sys; sys.path.append(''); import layerscope.process as i; "]
    words[-1] += "i.leave_working_folder(); import layerscope.streams; print(sys.path[0] == '')"
    done = subprocess.run(words, cwd=ROOT / "distributed", env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_actors_are_not_told_of_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives them the driver's working folder, first of all places to import from."""
    from ray.core.generated.common_pb2 import JobConfig

    from layerscope.engine.cluster.connecting import _Job

    monkeypatch.chdir(folder)
    job = _Job()
    job._py_driver_sys_path.extend([str(folder), "/somewhere"])
    assert list(JobConfig.FromString(job._serialize()).py_driver_sys_path) == [str(ROOT / "distributed")]
    assert list(JobConfig.FromString(_Job()._serialize()).py_driver_sys_path) == []
