"""The README is run, not believed."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from conftest import Command
from layerscope.config import Config, option
from paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(section: str) -> list[str]:
    """The lines of the bash blocks of a section."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def demo(layerscope: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's output, and one question with an error line in it."""
    folder = tmp_path_factory.mktemp("demo")
    questions = (ROOT / "distributed/layerscope/standin/questions.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    questions.append('{"goal": "nothing", "sol1": "", "sol2": "x", "label": 0}')
    (folder / "few.jsonl").write_text("\n".join(questions), encoding="utf-8")
    arguments = ["--standin", "--dataset", "few.jsonl", "--output-file", "demo.jsonl", "--address", "local"]
    done = layerscope("run", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Nothing here says anything about Gemma" in done.stdout
    return folder


@pytest.mark.parametrize("command", commands("Read it"))
def test_every_command_that_reads_the_records_works(command: str, demo: Path, tmp_path: Path) -> None:
    if command.startswith("jq") and shutil.which("jq") is None:
        pytest.skip("jq is not on this machine")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=demo,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def examples(section: str) -> list[str]:
    """The Python blocks of a section."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("example", examples("Read it"))
def test_every_example_for_notebooks_works(example: str, demo: Path) -> None:
    done = subprocess.run([sys.executable, "-c", example], cwd=demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_option_is_explained() -> None:
    table = README.split("\n## Options\n")[1].split("\n## ")[0]
    assert [name for name in map(option, [field.name for field in fields(Config)]) if f"`{name}`" not in table] == []


def test_the_tree_names_every_module() -> None:
    tree = README.split("\n## Where things are\n")[1]
    package = ROOT / "distributed/layerscope"
    modules = [path.name for path in (*package.glob("*.py"), *package.glob("analysis/*.py")) if path.stem[0] != "_"]
    assert [name for name in modules if name not in tree] == []


def test_the_two_commands_are_scripts_that_can_be_run() -> None:
    for line in commands("Two commands")[:2]:
        assert os.access(ROOT / line.split()[0], os.X_OK)
