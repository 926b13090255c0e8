"""Versions that stand in several files say the same in all of them, and recipes fit what they build on."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from layerscope import __version__
from paths import ROOT

RECIPES = [
    path
    for pattern in ("*.md", "*.yaml", "*.toml", ".github/**/*", "distributed/docs/*.md", "scripts/*")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file() and path.name != "changelog.md"
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in RECIPES}
PROJECT = tomllib.loads(TEXTS[ROOT / "pyproject.toml"])
PINS = dict(re.findall(r"^(\S+)==(\S+)$", TEXTS[ROOT / "scripts/constraints.txt"], re.MULTILINE))
PYTHONS = re.findall(r"Python :: (3\.\d+)", TEXTS[ROOT / "pyproject.toml"])


def named(pattern: str) -> dict[str, set[str]]:
    """What a pattern's group is in each file that has it."""
    found = {str(path.relative_to(ROOT)): set(re.findall(pattern, text)) for path, text in TEXTS.items()}
    return {path: values for path, values in found.items() if values}


def test_ray_is_one_version_everywhere() -> None:
    """Nodes with another Ray than the driver's cannot join it."""
    stands = named(r"(?:\bray(?:\[\w+\])?==|rayproject/ray:|rayVersion: \")(\d+\.\d+\.\d+)")
    assert {"cluster.yaml", "scripts/Dockerfile", "scripts/constraints.txt", "scripts/rayjob.yaml"} <= set(stands)
    assert set.union(*stands.values()) == {PINS["ray"]}, stands
    assert version("ray") == PINS["ray"]


def test_cuda_is_one_version_everywhere_and_torch_is_built_for_it() -> None:
    """A torch for another CUDA than the image's may find no driver that is new enough."""
    images, indexes = named(r"rayproject/ray:\S+-cu(\d+)"), named(r"download\.pytorch\.org/whl/cu(\d+)")
    assert {"cluster.yaml", "scripts/Dockerfile"} <= set(images)
    assert images == indexes, "an image without the index of torch's builds for its CUDA"
    assert len(set.union(*images.values(), *named(r"\+cu(\d+)").values())) == 1


def test_python_is_one_range_everywhere() -> None:
    lowest, highest = (int(PYTHONS[end].split(".")[1]) for end in (0, -1))
    assert [f"3.{minor}" for minor in range(lowest, highest + 1)] == PYTHONS
    assert PROJECT["project"]["requires-python"] == f">=3.{lowest},<3.{highest + 1}"
    assert PROJECT["tool"]["mypy"]["python_version"] == f"3.{lowest}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{lowest}"
    *others, last = PYTHONS
    assert f"Python {', '.join(others)} or {last}" in TEXTS[ROOT / "README.md"]
    jobs = yaml.safe_load(TEXTS[ROOT / ".github/workflows/tests.yml"])["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
    in_images = set.union(*named(r"rayproject/ray:\S+-py(\d+)").values())
    assert in_images <= {name.replace(".", "") for name in PYTHONS}


def test_our_version_is_one_everywhere() -> None:
    assert PROJECT["project"]["version"] == __version__
    images = named(r"/layerscope:(\d+\.\d+\.\d+)")
    assert {"distributed/docs/cluster.md", "scripts/Dockerfile", "scripts/rayjob.yaml"} <= set(images)
    assert set.union(*images.values()) == {__version__}, images


@pytest.mark.parametrize("dependency", PROJECT["project"]["dependencies"])
def test_every_dependency_is_pinned_above_its_lower_bound(dependency: str) -> None:
    """Else setup takes whatever is newest today, or cannot be resolved."""
    name, bound = re.match(r"([\w.-]+)>=([\d.]+)", dependency).groups()  # type: ignore[union-attr]
    pins = {pinned.lower().replace("_", "-"): pin for pinned, pin in PINS.items()}

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(".")]

    assert numbers(pins[name.lower().replace("_", "-")]) >= numbers(bound)


def test_the_hooks_are_what_the_test_command_runs() -> None:
    """Else what passes at a commit fails in CI, or the other way round."""
    lines = TEXTS[ROOT / "scripts/test"].splitlines()
    checks = [line.partition(" &>")[0] for line in lines if line.startswith(".venv/bin/") and "pytest" not in line]
    (repository,) = yaml.safe_load(TEXTS[ROOT / ".pre-commit-config.yaml"])["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == checks
    assert len(checks) == 3


def test_the_workflow_runs_the_test_command_and_builds() -> None:
    jobs = yaml.safe_load(TEXTS[ROOT / ".github/workflows/tests.yml"])["jobs"]
    commands = {step.get("run") for job in jobs.values() for step in job["steps"]}
    assert {"scripts/test", "python -m build"} <= commands


def test_what_the_test_command_leaves_out_runs_every_night() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text(encoding="utf-8"))
    commands = [step.get("run", "").split() for step in workflow["jobs"]["test"]["steps"]]
    assert [words[-2:] for words in commands if "scripts/test" in words] == [["scripts/test", "--nightly"]]
    assert [words[-1] for words in commands if "scripts/soak" in words] == ["scripts/soak"]
    assert "schedule" in workflow[True]  # YAML's word for `on`


def test_setup_says_which_python_it_wants(tmp_path: Path) -> None:
    """The first thing that a newcomer may meet."""
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "scripts/setup", "scripts/constraints.txt"):
        (tmp_path / name).write_text(TEXTS[ROOT / name], encoding="utf-8")
    command = ["env", "PYTHON=python2.7", "bash", "scripts/setup"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert all(name in done.stderr for name in (*PYTHONS, "python2.7"))
