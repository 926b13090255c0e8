"""Random stand-ins of every family and site are in the real layouts, and a run reads each at its site."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from layerscope.config import Config, Site
from layerscope.errors import LayerscopeError, UsageError
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.standin.build import Family, StandinSpec, build
from plain import plain_run

SIZES: dict[str, Any] = {"n_layers": 2, "d_model": 32, "vocabulary": 900, "sliding_window": 12, "width": "1k"}


def made(family: Family, site: Site, folder: Path, **more: Any) -> Path:
    build(StandinSpec(**SIZES | more, d_sae=1024, l0s=((20, 60),) * 2, family=family, site=site), folder)
    return folder


def config_of(folder: Path, site: Site, **more: Any) -> Config:
    return Config(
        model=str(folder / "model"),
        sae_repo=str(folder / "saes"),
        sae_width="1k",
        site=site,
        dataset="bundled",
        num_samples=4,
        output_file=str(folder / "records.jsonl"),
        **more,
    )


@pytest.mark.parametrize("site", get_args(Site))
def test_a_run_reads_a_gemma_3_at_the_site_of_its_saes(site: Site, tmp_path: Path) -> None:
    """Their thresholds were set at that site to let 60 features fire: at another tensor other numbers would."""
    folder = made("gemma3", site, tmp_path / "standin")
    records = [json.loads(line) for line in plain_run(config_of(folder, site)).splitlines()]
    counts = [
        record[f"{side}_solution_details"]["active_feature_count_by_layer"][layer]
        for record in records
        for side in ("positive", "negative")
        for layer in ("0", "1")
    ]
    assert len(records) == 4
    assert 25 < sum(counts) / len(counts) < 150


def test_saes_of_another_width_or_site_are_refused(tmp_path: Path) -> None:
    folder = made("gemma3", "mlp_out", tmp_path / "standin")
    with pytest.raises(UsageError, match="attn_out"):
        prepare(config_of(folder, "attn_out"), [probe()])
    config = json.loads((folder / "model" / "config.json").read_text())
    assert prepare(config_of(folder, "mlp_out"), [probe()]).d_read == config["hidden_size"]
    (folder / "saes" / "mlp_out").rename(folder / "saes" / "attn_out")
    other = made("gemma3", "attn_out", tmp_path / "other", d_model=64)
    (other / "saes").rename(folder / "wider")
    with pytest.raises(LayerscopeError, match="64"):
        prepare(replace(config_of(folder, "attn_out"), sae_repo=str(folder / "wider")), [probe()])
