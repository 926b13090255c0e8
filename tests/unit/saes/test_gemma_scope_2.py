"""Of Gemma Scope 2 the right SAE is taken, with its own page or none, and the formula is the one of its makers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.numpy import save_file

from layerscope.config import Site, parse_layers
from layerscope.errors import UsageError
from layerscope.formatting import ranges
from layerscope.hub.repository import FileInfo, Repository, open_repository
from layerscope.saes.cache import load_encoder
from layerscope.saes.choosing import choose_saes
from layerscope.saes.encoder import encode_top_k
from layerscope.saes.suites import open_shelf, suite_of
from layerscope.saes.weights import read_decoder
from paths import DATA

# What the public repositories hold, and which have pages, as SAELens tables it.
RELEASES: dict[str, dict[str, Any]] = json.loads((DATA / "gemma_scope_2_index.json").read_text(encoding="utf-8"))[
    "releases"
]
ONE_B = "google/gemma-scope-2-1b-pt"
N_LAYERS = {"270m": 18, "1b": 26, "4b": 34, "12b": 48, "27b": 62}
FOUR = {"270m": "5,9,12,15", "1b": "7,13,17,22", "4b": "9,17,22,29", "12b": "12,24,31,41", "27b": "16,31,40,53"}


def size(release: str) -> str:
    return release.split("-")[3]


def paths(release: str) -> list[str]:
    return [
        f"{folder}/layer_{layer}_width_{width}_l0_{l0}/params.safetensors"
        for folder, widths in RELEASES[release]["variants"].items()
        for width, by_l0 in widths.items()
        for l0, layers in by_l0.items()
        for layer in parse_layers(layers) or ()
    ]


def repository(release: str) -> Repository:
    odd = [
        "README.md",
        "clt/width_262k/params.safetensors",
        "crosscoder/layer_7_width_65k_l0_medium/params.safetensors",
    ]
    return Repository(release, "0" * 40, {path: FileInfo(1) for path in [*odd, *paths(release)]})


def choose(release: str, width: str = "auto", l0: str = "canonical", layers: str = "all", site: str = "auto") -> Any:
    return choose_saes(repository(release), N_LAYERS[size(release)], parse_layers(layers), width, l0, "", site)


@pytest.mark.parametrize("release", RELEASES)
def test_every_sae_is_listed_and_has_the_page_of_the_table_or_none(release: str) -> None:
    """Of two of a name one has pages, and the other's features are other features under the same numbers."""
    pages = {}
    for name, (template, layers) in RELEASES[release]["pages"].items():
        folder, width, l0 = name.split()
        for layer in parse_layers(layers) or ():
            path = f"{folder}/layer_{layer}_width_{width}_l0_{l0}/params.safetensors"
            pages[path] = template.format(layer=layer)
    held = open_shelf(repository(release)).saes
    assert {sae.path: sae.neuronpedia_id for sae in held if sae.neuronpedia_id} == pages
    both = {path.replace("_all/", "/") for path in paths(release)}
    assert len(held) == len(both)
    for sae in held:
        assert sae.path.startswith(sae.site)
        assert f"/layer_{sae.layer}_width_{sae.width}_l0_{sae.l0_name}/" in sae.path
        assert "_all/" not in sae.path or sae.path.replace("_all/", "/") not in paths(release) or sae.neuronpedia_id


@pytest.mark.parametrize("release", RELEASES)
def test_canonical_is_medium_of_the_four_layers(release: str) -> None:
    chosen, missing = choose(release)
    assert ranges(sae.layer for sae in chosen) == FOUR[size(release)]
    assert {(sae.l0_name, sae.width, sae.site) for sae in chosen} == {("medium", "16k", "resid_post")}
    assert len(missing) == N_LAYERS[size(release)] - 4


def test_all_layers_are_there_by_name() -> None:
    chosen, missing = choose(ONE_B, l0="big")
    assert ([sae.layer for sae in chosen], missing) == (list(range(26)), [])
    folders = {sae.layer: sae.path.split("/")[0] for sae in chosen}
    assert {layer for layer, folder in folders.items() if folder == "resid_post"} == {7, 13, 17, 22}
    assert set(folders.values()) == {"resid_post", "resid_post_all"}


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "transcoder"])
def test_every_site_is_there(site: Site) -> None:
    chosen, _ = choose(ONE_B, site=site, l0="small", width="262k")
    assert {sae.site for sae in chosen} == {site}
    assert len(chosen) == 26


def test_affine_ones_go_by_their_ending() -> None:
    chosen, _ = choose(ONE_B, site="transcoder", l0="medium_affine")
    assert {sae.path.split("_l0_")[1] for sae in chosen} == {"medium_affine/params.safetensors"}
    chosen, _ = choose(ONE_B, l0="medium_seed_1", width="262k")
    assert {sae.l0_name for sae in chosen} == {"medium_seed_1"}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"layers": "0"},
            "None of the SAEs of layer 0, width 16k in google/gemma-scope-2-1b-pt is canonical.\n.*big, sma",
        ),
        ({"layers": "7,8", "l0": "medium"}, "layer 8, width 16k with an average L0 of medium; it has big, small"),
        ({"layers": "0", "width": "65k"}, "has no SAE of width 65k for layer 0; it has one for 7, 13, 17, 22"),
        ({"l0": "70"}, "an average L0 of 70; it has big, small"),
        ({"width": "32k"}, "no SAEs of width 32k; it has 16k, 65k, 262k, 1m"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(asked: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        choose(ONE_B, **asked)


@pytest.mark.parametrize(
    ("model", "sizes", "site", "suite"),
    [
        ("google/gemma-2-2b", (2304, 26), "resid_post", "google/gemma-scope-2b-pt-res"),
        ("google/gemma-2-2b-it", (2304, 26), "mlp_out", "google/gemma-scope-2b-pt-mlp"),
        ("google/gemma-2-9b-it", (3584, 42), "resid_post", "google/gemma-scope-9b-it-res"),
        ("google/gemma-2-9b-it", (3584, 42), "attn_out", "google/gemma-scope-9b-pt-att"),
        ("google/gemma-2-27b", (4608, 46), "resid_post", "google/gemma-scope-27b-pt-res"),
        ("google/gemma-3-270m", (640, 18), "resid_post", "google/gemma-scope-2-270m-pt"),
        ("google/gemma-3-1b-pt", (1152, 26), "transcoder", "google/gemma-scope-2-1b-pt"),
        ("google/gemma-3-12b-it", (3840, 48), "resid_post", "google/gemma-scope-2-12b-it"),
        ("/data/mine", (5376, 62), "resid_post", "google/gemma-scope-2-27b-pt"),
        ("/data/tuned-it", (2560, 34), "resid_post", "google/gemma-scope-2-4b-it"),
    ],
)
def test_a_model_s_suite_is_known(model: str, sizes: tuple[int, int], site: Site, suite: str) -> None:
    commit = None if model.startswith("/") else "0" * 40
    assert suite_of(Repository(model, commit, {}), *sizes, site) == suite


@pytest.mark.parametrize(
    ("model", "sizes", "site"),
    [
        ("google/gemma-2-27b", (4608, 46), "mlp_out"),
        ("google/gemma-2-9b", (3584, 42), "transcoder"),
        ("/x", (64, 6), "resid_post"),
    ],
)
def test_without_a_suite_one_is_to_be_named(model: str, sizes: tuple[int, int], site: Site) -> None:
    with pytest.raises(UsageError, match="--sae-repo"):
        suite_of(Repository(model, None if model == "/x" else "0" * 40, {}), *sizes, site)


def test_the_model_that_they_were_trained_on_is_named_as_the_hub_names_it() -> None:
    models = {release: {sae.model for sae in open_shelf(repository(release)).saes} for release in RELEASES}
    assert models[ONE_B] == {"google/gemma-3-1b-pt"}
    assert models["google/gemma-scope-2-270m-pt"] == {"google/gemma-3-270m"}
    assert models["google/gemma-scope-2-27b-it"] == {"google/gemma-3-27b-it"}


D_IN, D_SAE, D_OUT = 6, 30, 5


def write(folder: Path, config: dict[str, Any] | None, affine: bool = False) -> dict[str, Any]:
    """An SAE as the repositories have it."""
    dice = np.random.default_rng(3)
    shapes = {
        "w_enc": (D_IN, D_SAE),
        "w_dec": (D_SAE, D_OUT),
        "b_enc": (D_SAE,),
        "b_dec": (D_OUT,),
        "threshold": (D_SAE,),
    }
    shapes |= {"affine_skip_connection": (D_IN, D_OUT)} if affine else {}
    arrays = {key: dice.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    folder.mkdir(parents=True)
    save_file(arrays, folder / "params.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return arrays


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("has_config", [False, True])
def test_features_are_those_of_the_formula(
    affine: bool, has_config: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without a configuration and an affine connection, which the features do not depend on."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    ending = "_affine" if affine else ""
    hook = "model.layers.7.pre_feedforward_layernorm.output"
    config = {"architecture": "jump_relu", "hf_hook_point_in": hook} if has_config else None
    arrays = write(tmp_path / "saes" / "transcoder" / f"layer_7_width_16k_l0_medium{ending}", config, affine)
    held = open_repository(str(tmp_path / "saes"))
    ((sae,), _) = choose_saes(held, 26, frozenset({7}), "auto", f"medium{ending}")
    assert (sae.config is not None) == has_config
    rows = np.random.default_rng(4).standard_normal((5, D_IN)).astype(np.float32)
    pre = rows.astype(np.float64) @ arrays["w_enc"] + arrays["b_enc"]
    expected = np.where(pre > arrays["threshold"], np.maximum(pre, 0), 0)
    encoder = load_encoder(held, sae, D_IN, torch.float32, torch.device("cpu"))
    found = encode_top_k(torch.from_numpy(rows), encoder, None)
    assert found.active_counts.tolist() == np.count_nonzero(expected, axis=1).tolist()
    for row, (start, end) in enumerate(zip(found.starts[:-1], found.starts[1:], strict=True)):
        np.testing.assert_allclose(found.activations[start:end], expected[row, found.feature_ids[start:end]], rtol=1e-5)
    decoder = read_decoder(held, sae, D_IN)
    assert np.array_equal(decoder.w_dec, arrays["w_dec"])
    assert np.array_equal(decoder.b_dec, arrays["b_dec"])
    assert (decoder.skip is not None) == affine
    assert decoder.skip is None or np.array_equal(decoder.skip, arrays["affine_skip_connection"])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"architecture": "topk"}, "architecture 'topk'"),
        ({"hf_hook_point_in": "model.layers.7.output"}, "pre_feedforward_layernorm.output is expected"),
        ({"hf_hook_point_in": "model.layers.8.pre_feedforward_layernorm.output"}, "layers.7"),
    ],
)
def test_a_configuration_that_says_otherwise_is_refused(config: dict[str, Any], told: str, tmp_path: Path) -> None:
    write(tmp_path / "transcoder" / "layer_7_width_16k_l0_medium", config)
    with pytest.raises(UsageError, match=told):
        choose_saes(open_repository(str(tmp_path)), 26, frozenset({7}), "auto", "canonical")
