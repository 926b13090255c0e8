"""Users without a home that can be written: what is used in its place, and that caches there are still read."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from layerscope.process import provide_home
from paths import ROOT


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("HOME", "/no/such/folder")
    monkeypatch.delenv("HF_HOME", raising=False)
    return folder


def test_a_home_that_can_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert provide_home() == ""
    assert os.environ["HOME"] == str(tmp_path)


@pytest.mark.parametrize("home", ["/no/such/folder", "relative", "/dev/null"])
def test_another_is_used_and_told_and_is_the_same_the_next_time(
    home: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    for _ in range(2):
        monkeypatch.setenv("HOME", home)
        told = provide_home()
        used.append(os.environ["HOME"])
        assert used[0] in told
        assert "HF_HOME" in told
    assert used == [str(temporary / f"layerscope-home-{os.getuid()}")] * 2
    assert Path(used[0]).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("planted", ["link", "file", "writable to all"])
def test_a_folder_that_others_can_write_is_not_taken_for_ones_own(planted: str, temporary: Path) -> None:
    name = temporary / f"layerscope-home-{os.getuid()}"
    if planted == "link":
        (temporary / "elsewhere").mkdir()
        name.symlink_to(temporary / "elsewhere")
    elif planted == "file":
        name.touch()
    else:
        name.mkdir()
        name.chmod(0o777)
    provide_home()
    assert Path(os.environ["HOME"]).parent == temporary
    assert Path(os.environ["HOME"]) != name


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="takes another user's id")
@pytest.mark.parametrize("home", ["", "/"])
def test_a_user_without_a_passwd_entry_makes_no_folder_called_tilde(home: str, temporary: Path) -> None:
    """`docker run -u 4711`: the hub's client keeps its cache in `~`, and Ray does not start."""
    code = (
        "from layerscope.__main__ import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
        "from huggingface_hub import constants; print(constants.HF_HOME)"
    )
    able = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]  # what root has installed
    environment = {key: value for key, value in os.environ.items() if key != "HOME"} | ({"HOME": home} if home else {})
    environment |= {"PYTHONPATH": str(ROOT / "distributed"), "TMPDIR": str(temporary)}
    temporary.chmod(0o777)
    done = subprocess.run(
        ["setpriv", "--reuid", "4711", "--regid", "4711", "--clear-groups", *able, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=temporary,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{temporary}/layerscope-home-4711/.cache/huggingface"
    assert "HOME: " in done.stderr
