"""Actors killed in mid-batch, and what the run's metrics say of that. The file ends the same."""

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Set

import pytest

from background import SharedRay, Start
from layerscope.engine.metrics import Metrics
from paths import ROOT

EXPORTED = {"Counter": "_total", "Gauge": "", "Histogram": "_count"}
DRAWN = {**EXPORTED, "Histogram": "_bucket"}


def exported_names(suffixes: dict[str, str]) -> set[str]:
    """Every metric of a run, under the name that Ray's exporter gives it."""
    metrics = Metrics()._metrics.values()
    return {metric.info["name"] + suffixes[type(metric).__name__] for metric in metrics}


def test_the_dashboard_draws_every_metric_and_no_other() -> None:
    panels = json.loads((ROOT / "scripts/grafana_dashboard.json").read_text(encoding="utf-8"))["panels"]
    drawn = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"ray_(layerscope_\w+)", target["expr"])
    }
    assert drawn == exported_names(DRAWN)


@pytest.mark.slow
def test_actors_killed_in_mid_batch_do_not_change_a_byte_and_prometheus_sees_it_all(
    start: Start, expected: bytes, cluster_for_all: SharedRay
) -> None:
    """Every metric that there is moves: one that nobody updates would show a run that has stopped, or none."""
    wanted = exported_names(EXPORTED)

    def exported() -> Counter[tuple[str, str]]:
        """By metric and labels; the cluster's earlier runs are among them."""
        text = urllib.request.urlopen(cluster_for_all.metrics, timeout=10).read().decode()
        found = re.findall(r"^ray_(layerscope_\w+)((?:\{.*\})?) ([\d.e+]+)$", text, re.MULTILINE)
        return Counter({(name, labels): float(value) for name, labels, value in found})  # type: ignore[misc]

    before = exported()
    run = start(fault="slow:0.1")
    for actor in ("ray::GemmaActor.score", "ray::EncoderActor"):
        size = run.size()
        assert run.wait_until(lambda size=size: run.size() > size)  # type: ignore[misc]
        assert run.wait_until(lambda actor=actor: bool(run.actors(actor)))  # type: ignore[misc]
        run.actors(actor)[0].kill()
    cluster_for_all.set_fault("slow:1")  # the run outlasts the exporter
    seen: dict[str, float] = {}

    def told(missing: Set[str]) -> bool:
        for (name, labels), value in exported().items():
            if value > before[name, labels]:
                seen[name] = value - before[name, labels]
        return wanted <= seen.keys() | missing

    assert run.wait_until(lambda: told({"layerscope_error_lines_total"})), wanted - seen.keys()
    cluster_for_all.set_fault("")
    code, _, errors = run.finish()
    assert code == 0, errors
    assert run.output.read_bytes() == expected
    assert told(set()), "the last line is an error line"
    assert seen["layerscope_questions_total"] == len(expected.splitlines())
    assert seen["layerscope_bytes_total"] == len(expected)
    lines = [
        json.loads(line)
        for log in cluster_for_all.logs.glob("worker-*.err")
        for line in log.read_text().splitlines()
        if line.startswith("{")
    ]
    roles = {line["role"] for line in lines if line["event"] in ("score", "encode") and line["batch"] >= 0}
    assert {"gemma", "encoder 0-2"} <= roles
    assert all(line["node"] and line["pid"] and line["seconds"] >= 0 for line in lines)
