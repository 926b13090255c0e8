"""The dashboard draws every metric there is, under the names that Ray's exporter gives them, and no other."""

import json
import re
from pathlib import Path

from layerscope.engine import metrics
from paths import ROOT

DASHBOARD = ROOT / "scripts" / "grafana_dashboard.json"
SUFFIX = {"Counter": "_total", "Gauge": "", "Histogram": "_bucket"}


def test_the_dashboard_draws_every_metric_by_its_exported_name() -> None:
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    made = re.findall(r"(Counter|Gauge|Histogram)\(\s*\"(layerscope_\w+)\"", source)
    assert len(made) >= 10
    exported = {f"ray_{name}{SUFFIX[kind]}" for kind, name in made}
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    drawn = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"ray_layerscope_\w+", target["expr"])
    }
    assert drawn == exported
