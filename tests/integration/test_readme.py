"""README and pages are run, not believed: every command and every example in them, in a folder like a checkout.

Blocks marked `bash` and `python` are executed. What needs a cloud, the hub or minutes stands in blocks without a mark.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from make_docs import DOCS, generated
from nbclient import NotebookClient

from conftest import Command, actors_here, called
from paths import ROOT

PAGES = [ROOT / "README.md", ROOT / ".github/CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
PACKAGE = ROOT / "distributed/layerscope"
CHECKOUT = ("distributed", "scripts", "tests", "pyproject.toml", "cluster.yaml", "README.md", "LICENSE")
NOT_HERE = {"scripts/test": "it is what runs this", "tests": "these run already", "scripts/setup": "downloads"}
NOT_HERE |= {"scripts/demo": "test_package.py runs it"}
"""Commands that are looked at and not run, by their first word or by what they run."""


class Block(NamedTuple):
    page: Path
    language: str
    text: str


BLOCKS = [
    Block(page, *found)
    for page in PAGES
    for found in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]
COMMANDS = [
    pytest.param(line, id=f"{block.page.stem}: {line.split('  ')[0][:60]}")
    for block in BLOCKS
    if block.language == "bash"
    for line in block.text.strip().splitlines()
]
OPTIONS: dict[str, set[str]] = {}
"""Of each command of ours, the options that some page or form gives it."""
for _text in (path.read_text(encoding="utf-8") for path in (*PAGES, *ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))):
    for _name, _words in re.findall(r"(?:layerscope (\w+)|_all_layers\.py)\b((?: [^ `#\n][^ `\n]*)*)", _text):
        OPTIONS.setdefault(_name or "run", set()).update(re.findall(r"--[a-z-]+", _words))
SHOWN = (ROOT / "tests/support/made_up_family.py").read_text(encoding="utf-8")
"""A file that the tests have, which is on a page to be copied."""
EXAMPLES = [
    pytest.param(block.text, id=block.page.stem)
    for block in BLOCKS
    if block.language == "python" and block.text != SHOWN
]


def as_a_checkout(folder: Path) -> Path:
    """Fills a folder so that it looks like a checkout that is set up, without a second environment."""
    for name in CHECKOUT:
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name, command in {"python": sys.executable, "layerscope": f"{sys.executable} -m layerscope"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n', encoding="utf-8")
    state = "cat scripts/constraints.txt pyproject.toml scripts/setup | sha256sum > .venv/setup-done"
    subprocess.run(["bash", "-c", state], cwd=folder, check=True)
    return folder


def shell(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PATH": f"{folder / '.venv/bin'}:{os.environ['PATH']}", "HF_HOME": str(folder / "hf")}
    words = ["bash", "-euo", "pipefail", "-c", command]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the demo's output, shorter and with an error line in it."""
    folder = as_a_checkout(tmp_path_factory.mktemp("demo"))
    questions = (PACKAGE / "standin/questions.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    questions.append('{"goal": "nothing", "sol1": "", "sol2": "x", "label": 0}')
    (folder / "few.jsonl").write_text("\n".join(questions), encoding="utf-8")
    rows = [
        f"{each['goal']};{each['sol1']};{each['sol2']};{'AB'[each['label']]}" for each in map(json.loads, questions)
    ]
    (folder / "tasks.csv").write_text("\n".join(["how to;A;B;right", *rows[:-1]]), encoding="utf-8")
    words = ["run", "--standin", "--dataset", "few.jsonl", "--output-file", "demo.jsonl", "--address", "local"]
    with actors_here():
        done = called(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_works(line: str, demo: Path, command: Command, one_process: Callable[[str], None]) -> None:
    """Ours in this process, a run's actors too, if no shell has to be there."""
    one_process("")
    program, *words = line.split()
    for name in NOT_HERE:
        if program == name or any(word.startswith(f"{name}/") for word in words):
            assert os.access(ROOT / name, os.X_OK)
            assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
            return
    if program == "jq" and shutil.which("jq") is None:
        pytest.skip("jq is not on this machine")
    ours = program in ("layerscope", ".venv/bin/layerscope") and not set("|<>;&$*") & set(line)
    done = command(*shlex.split(line, comments=True)[1:], cwd=demo) if ours else shell(line, demo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or program == "."


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_for_notebooks_works(example: str, demo: Path) -> None:
    """In this process: a new one would import for seconds."""
    told = io.StringIO()
    with contextlib.chdir(demo), contextlib.redirect_stdout(told):
        exec(compile(example, "example", "exec"), {"__name__": "__main__"})
    assert told.getvalue().strip()


def test_the_notebook_works_and_holds_its_pictures(demo: Path) -> None:
    """Executed whole, as a reader would; what it shows is of the kind that it was stored with."""
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    stored = [[sorted(shown.data) for shown in cell.get("outputs", [])] for cell in notebook.cells]
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(demo)}}).execute()
    assert [[sorted(shown.get("data", ())) for shown in cell.get("outputs", [])] for cell in notebook.cells] == stored
    assert sum("image/svg+xml" in shown for cell in stored for shown in cell) == 2
    assert (demo / "depth.svg").is_file()


def test_nothing_that_is_run_is_left_out() -> None:
    """A block with another mark, or a page that nobody collects, would be believed."""
    assert {block.language for block in BLOCKS} <= {"", "bash", "python", "json", "diff"}
    assert len(COMMANDS) > 12
    assert len(EXAMPLES) >= 2


def test_the_readme_can_be_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_what_is_made_from_the_code_is_not_stale() -> None:
    stale = [path.name for path, made in generated().items() if path.read_text(encoding="utf-8") != made]
    assert stale == [], "run .venv/bin/python scripts/make_docs.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:srcset|src)=\"([^\"]+)\"", text)
    targets = [one or other for one, other in links if not (one or other).startswith(("http", "mailto", "#"))]
    assert [target for target in targets if not (page.parent / target.split("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_is_named_exists(page: Path) -> None:
    """As it stands in the checkout, or in the package: a module that moves takes its name on the pages with it."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:/|\.py|\.yaml|\.md))`", text)
    named += re.findall(r"(?<![\w/.])(?:scripts|distributed|tests)/[\w./-]*\w", text)
    assert [name for name in named if not ((ROOT / name).exists() or (PACKAGE / name).exists())] == []


@pytest.mark.parametrize("name", sorted(name for name in OPTIONS if OPTIONS[name] and name.islower()))
def test_every_option_that_is_named_exists(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """To run it may take the hub, a cloud or an hour; to see that its options are there takes a moment."""
    monkeypatch.setenv("COLUMNS", "300")
    known = command(name, "--help").stdout
    assert "usage" in known
    assert {option for option in OPTIONS[name] if f" {option}" not in known} == set()


def test_every_page_is_in_the_index_and_in_the_readme() -> None:
    for index, folder in ((ROOT / "README.md", "distributed/docs/"), (DOCS / "README.md", "")):
        text = index.read_text(encoding="utf-8")
        assert [
            page.name for page in DOCS.glob("*.md") if page.stem != "README" and f"({folder}{page.name})" not in text
        ] == []


def test_the_pictures_are_small_and_come_in_light_and_dark() -> None:
    pictures = {picture.name: picture.stat().st_size for picture in (DOCS / "pictures").iterdir()}
    kinds = {"report": "png", "architecture": "svg"}
    assert set(pictures) == {f"{name}-{scheme}.{end}" for name, end in kinds.items() for scheme in ("light", "dark")}
    assert all(size < 200_000 for size in pictures.values())
