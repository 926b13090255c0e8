"""What `python -m build` makes is whole: installed where no checkout is, it runs the demo's job and makes the report.

The environment is empty but for what the tests themselves run with, which lies on its path; so seconds, not minutes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from layerscope import __version__
from paths import ROOT

pytestmark = pytest.mark.slow
SET_UP = ("scripts/setup", "scripts/constraints.txt", "pyproject.toml")


def call(*words: str | Path, cwd: Path) -> str:
    """Runs a program that knows nothing of this checkout, and gives its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HOME"] = str(cwd / "hf")
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with sdist and wheel, made from the tracked files as a release would be; the wheel from the sdist."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "made", source, cwd=source)
    return source / "made"


def installed(distribution: Path, folder: Path) -> Path:
    """An environment with one distribution in it and our own dependencies on its path; gives its folder of programs."""
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    call(*pip, "--quiet", "--ignore-installed", distribution, cwd=folder)
    where = call(python, "-c", "import layerscope; print(layerscope.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(packages)
    return python.parent


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """A stray `docs` in site-packages would be every package's."""
    with zipfile.ZipFile(built / f"layerscope-{__version__}-py3-none-any.whl") as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"layerscope", f"layerscope-{__version__}.dist-info"}
    package = ROOT / "distributed"
    files = [path for path in (package / "layerscope").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {str(path.relative_to(package)) for path in files} <= set(names)
    # The wheel is made from the sdist: a glob for data that misses a folder there would show above.
    with tarfile.open(built / f"layerscope-{__version__}.tar.gz") as sdist:
        assert any(name.endswith("standin/model/model.safetensors") for name in sdist.getnames())


def test_the_demo_leads_from_a_wheel_to_a_report_where_no_checkout_is(built: Path, tmp_path: Path) -> None:
    """In the README's words: it runs the job, shows a record and makes the report."""
    (tmp_path / ".venv").symlink_to(installed(built / f"layerscope-{__version__}-py3-none-any.whl", tmp_path).parent)
    for name in SET_UP:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    state = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in (*SET_UP[1:], SET_UP[0]))).hexdigest()
    (tmp_path / ".venv/setup-done").write_text(f"{state}  -\n", encoding="utf-8")
    shutil.copy(ROOT / "scripts/demo", tmp_path / "scripts")
    told = call(tmp_path / "scripts/demo", cwd=tmp_path)
    assert "Nothing here says anything about Gemma" in told
    assert "positive_solution_details: " in told
    assert "<svg" in (tmp_path / "demo.html").read_text(encoding="utf-8")
