"""The simulation of a cluster, small: it survives its own deaths, and a wrong file does not pass for a right one."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "simulate_cluster.py"
SMALL = ["--actors", "3", "--gpus-per-node", "2", "--questions-per-second-per-gpu", "20", "--seconds", "4", "--top-k", "5"]
DISTURBED = ["--batch-tokens", "200", "--deaths", "0.05", "--stragglers", "0.4", "--late", "0.5", "--seed", "1"]


def test_every_line_is_written_in_order_under_deaths_stragglers_and_a_late_node(tmp_path: Path) -> None:
    """The script compares every line with the plain functions' and stops where one differs."""
    report = tmp_path / "report.json"
    where = ["--folder", str(tmp_path), "--json", str(report)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALL, *DISTURBED, *where], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(report.read_text(encoding="utf-8"))["runs"]
    assert (run["gemma_actors"], run["questions"], run["nodes"]) == (3, 240, 3)
    assert run["deaths"] > 0
    assert run["actors_lost"] >= run["deaths"]
    assert run["ideal"] == 60
    assert 0 < run["questions"] / run["wall"] < run["ideal"]
    assert run["append_cpu"] + run["ray_cpu"] < run["cpu"] < run["wall"]
    assert 0 <= run["head_of_line_mean"] < run["head_of_line_max"]
    assert run["bytes"] / run["questions"] > 26 * 2 * 5 * 40  # layers, solutions, features, bytes of one
    assert "derived questions/s" in done.stdout
    assert os.listdir(tmp_path) == ["report.json"]
