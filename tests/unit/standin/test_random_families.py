"""Random stand-ins of every family and site are in the real layouts, and a run reads each at its site."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from huggingface_hub import constants

from conftest import actors_here, called
from hub_server import HubServer, Repository, point_to
from layerscope.config import Config, Site
from layerscope.errors import LayerscopeError, UsageError
from layerscope.planning.describe import describe
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.standin.build import Family, StandinSpec, build, main
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
    """Their thresholds were set at that site to let 60 features fire: at another tensor other numbers would.

    And what a margin is attributed to there is complete.
    """
    affine = site == "transcoder"
    folder = made("gemma3", site, tmp_path / "standin", affine=affine)
    which: Any = {"sae_l0": "medium_affine" if affine else "canonical", "attribution": "gradient"}
    config = config_of(folder, site, **which)
    assert f"(gradient at {'mlp_out' if affine else site})" in describe(prepare(config, [probe()]))
    records = [json.loads(line) for line in plain_run(config).splitlines()]
    counts = [
        record[f"{side}_solution_details"]["active_feature_count_by_layer"][layer]
        for record in records
        for side in ("positive", "negative")
        for layer in ("0", "1")
    ]
    assert len(records) == 4
    assert 25 < sum(counts) / len(counts) < 150
    terms = [
        of_layer
        for record in records
        for of in (record, record["positive_solution_details"], record["negative_solution_details"])
        for name, by_layer in of.items()
        if name.endswith("attribution_terms_by_layer")
        for of_layer in by_layer.values()
    ]
    assert len(terms) == 4 * 4 * 2
    for each in terms:
        parts = [each[name] for name in ("features", "bias", "error", *(["skip"] if affine else []))]
        assert len(each) == len(parts) + 1
        assert sum(parts) == pytest.approx(each["total"], abs=1e-4 * sum(map(abs, parts)))
    assert any(each["features"] for each in terms)
    assert not affine or any(each["skip"] for each in terms)


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


@dataclass(frozen=True)
class OnTheHub:
    """What `standin.build` is told, and the names under which the hub has what it makes."""

    told: str
    model: str
    saes: str
    choose: str = ""
    site: Site = "resid_post"
    """`auto` takes the suite that belongs to the model."""

    @property
    def belongs(self) -> bool:
        return self.saes.startswith("google/")


SUITES = (
    OnTheHub("--suite gemma-scope", "google/gemma-2-2b", "google/gemma-scope-2b-pt-res"),
    OnTheHub("--site transcoder", "google/gemma-2-2b", "google/gemma-scope-2b-pt-transcoders", site="transcoder"),
    OnTheHub("--family gemma3", "google/gemma-3-270m", "google/gemma-scope-2-270m-pt"),
    OnTheHub(
        "--family gemma3 --vision --site mlp_out", "google/gemma-3-4b-it", "google/gemma-scope-2-4b-it", site="mlp_out"
    ),
    OnTheHub("--suite saelens --site attn_out", "google/gemma-2-2b", "somebody/heads", site="attn_out"),
    OnTheHub("--suite saelens --family gemma3 --site transcoder", "me/mine", "somebody/saes", site="transcoder"),
)


@pytest.mark.parametrize("case", SUITES, ids=lambda case: case.told.replace("--", ""))
def test_a_run_over_http_takes_each_suite_as_the_hub_has_it(
    case: OnTheHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite that belongs to the model is found by the model's name; what it encodes is as it would be from folders.

    Of the half that sees pictures there are tensors of NaN: whoever loaded them would have no finite number.
    """
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    main([str(tmp_path / "standin"), *case.told.split(), *["--layers", "2", "--d-model", "32", "--d-sae", "512"]])
    folders = {case.model: tmp_path / "standin" / "model", case.saes: tmp_path / "standin" / "saes"}
    local = Config(
        model=str(folders[case.model]),
        sae_repo=str(folders[case.saes]),
        site=case.site,
        dataset="bundled",
        num_samples=3,
        output_file=str(tmp_path / "records.jsonl"),
    )
    options = ["--model", case.model, "--site", case.site, "--dataset", "bundled", "--num-samples", "3"]
    with HubServer() as hub, actors_here():
        for name, folder in folders.items():
            files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            hub.add(Repository("model", name, files))
        point_to(hub.endpoint, monkeypatch)
        ended = called("run", *options, *([] if case.belongs else ["--sae-repo", case.saes]), cwd=tmp_path)
        got = [request.path for request in hub.requests if request.method == "GET" and "/resolve/" in request.path]
    assert ended.returncode == 0, ended.stderr
    (written,) = tmp_path.glob("*.jsonl")
    assert any(case.saes in path and path.endswith((".npz", ".safetensors")) for path in got)
    lines = written.read_bytes()
    assert lines == plain_run(local)
    records = [json.loads(line) for line in lines.splitlines()]
    assert len(records) == 3
    counts = [record["positive_solution_details"]["active_feature_count_by_layer"] for record in records]
    assert all(10 < count["0"] < 250 for count in counts)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("--vision", "--vision is of --family gemma3"),
        ("--d-model 12", "a multiple of 8"),
        ("--layers 0", "at least 1 layer"),
        ("--d-sae 100", "at least 256 features"),
    ],
)
def test_what_can_be_no_stand_in_is_refused(
    told: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "standin"), *told.split()])
    assert ended.value.code == UsageError.exit_code
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
