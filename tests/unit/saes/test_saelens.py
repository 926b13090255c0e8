"""SAEs as SAELens saves them give its own features, and what is not known is refused by name; nothing is unpickled.

`saelens/` under the tests' data was made with SAELens 6.54.12: each folder by its own `save_model` or, for those from
before version 6 and those of batch top-k, read back by its own `load_from_disk`; `expected.npz` has what its `encode`
and `decode` give of the same rows.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from layerscope.errors import LayerscopeError, UsageError
from layerscope.hub.repository import open_repository
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice
from layerscope.saes.choosing import choose_saes
from layerscope.saes.encoder import encode_layers, encode_top_k, scale
from layerscope.saes.suites import open_shelf
from layerscope.saes.weights import read_d_sae, read_decoder
from paths import DATA
from plain import DEVICES

FOLDER = DATA / "saelens"
EXPECTED = np.load(FOLDER / "expected.npz")
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/cfg.json"))
D_IN, D_SAE = 12, 40
ROWS = torch.from_numpy(EXPECTED["x"])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))


def the_sae(folder: Path) -> SaeChoice:
    (sae,) = open_shelf(open_repository(str(folder))).saes
    return sae


def activations(folder: Path, device: torch.device = DEVICES[0]) -> NDArray[Any]:
    """[R, F] of the rows, through the cache."""
    encoder = load_encoder(open_repository(str(folder)), the_sae(folder), D_IN, torch.float32, device)
    dense = np.zeros((len(ROWS), D_SAE), np.float32)
    found = encode_top_k(ROWS.to(device), encoder, None)
    rows = np.repeat(np.arange(len(ROWS)), np.diff(found.starts))
    dense[rows, found.feature_ids] = found.activations
    (together,) = encode_layers(ROWS[None].to(device), [encoder], None)
    assert np.array_equal(together.feature_ids, found.feature_ids)
    return dense


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_saelens(name: str) -> None:
    for device in DEVICES:
        found = activations(FOLDER / name, device)
        assert np.array_equal(found > 0, EXPECTED[name] > 0)
        np.testing.assert_allclose(found, EXPECTED[name], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_they_decode_to_is_that_of_saelens(name: str) -> None:
    """Attribution takes a row apart into features: with another decoder its terms do not add up."""
    sae = the_sae(FOLDER / name)
    decoder = read_decoder(open_repository(str(FOLDER / name)), sae, D_IN)
    decoded = EXPECTED[name] @ decoder.w_dec + decoder.b_dec
    if decoder.scaling != "none":
        decoded = decoded / scale(ROWS, decoder.scaling).numpy()
    if decoder.scaling == "deviation":
        decoded = decoded + ROWS.numpy().mean(axis=1, keepdims=True)
    np.testing.assert_allclose(decoded, EXPECTED[f"dec_{name}"], rtol=1e-4, atol=1e-4)


def test_a_repository_of_many_folders_lists_them_by_layer_and_site() -> None:
    shelf = open_shelf(open_repository(str(FOLDER)))
    assert len(shelf.saes) == len(NAMES)
    assert shelf.passed_over == ()
    by_name = {sae.l0_name: sae for sae in shelf.saes}
    assert by_name["old_hook_point"].layer == 34
    assert (by_name["transcoder"].site, by_name["standard"].site) == ("transcoder", "resid_post")
    assert {sae.width for sae in shelf.saes} == {str(D_SAE)}
    assert by_name["topk"].l0 == 5
    assert set(shelf.canonical.values()) == set(by_name)  # one a layer: each is the one to take


def test_one_sae_a_layer_needs_neither_width_nor_l0() -> None:
    chosen, missing = choose_saes(open_repository(str(FOLDER / "gated")), 26, None, "auto", "canonical")
    assert [sae.path for sae in chosen] == ["sae_weights.safetensors"]
    assert missing == [layer for layer in range(26) if layer != 8]
    assert chosen[0].files == ("sae_weights.safetensors", "cfg.json")
    assert read_d_sae(open_repository(str(FOLDER / "gated")), chosen[0], D_IN) == D_SAE


def test_of_several_of_a_layer_one_is_to_be_named(tmp_path: Path) -> None:
    """The first in some order would be taken for the one that is meant."""
    for name, k in (("few", 5), ("many", 20)):
        made(tmp_path / name, "topk", k=k)
    repository = open_repository(str(tmp_path))
    with pytest.raises(UsageError, match=r"is canonical\.\n.*few, many"):
        choose_saes(repository, 26, frozenset({5}), "auto", "canonical")
    for asked, k in (("many", 20), ("20", 20), ("min", 5), ("nearest:15", 20), ("few", 5)):
        ((sae,), _) = choose_saes(repository, 26, frozenset({5}), "auto", asked)
        assert sae.recipe.k == k


def test_a_width_has_its_name_in_either_way_of_counting(tmp_path: Path) -> None:
    """65,536 features are 64k where they are counted in powers of two, and Gemma Scope's 65k."""
    made(tmp_path / "sae", d_sae=1 << 16)
    repository = open_repository(str(tmp_path))
    for asked in ("auto", "64k", "65k"):
        ((sae,), _) = choose_saes(repository, 26, None, asked, "canonical")
        assert sae.width == "64k"
    with pytest.raises(UsageError, match="no SAEs of width 66k; it has 64k"):
        choose_saes(repository, 26, None, "66k", "canonical")


@pytest.mark.parametrize("prefix", ["", "model.", "language_model.", "model.language_model.", "language_model.model."])
def test_what_reads_text_is_the_model_however_it_is_wrapped(prefix: str, tmp_path: Path) -> None:
    made(tmp_path / "sae", hook_name=f"{prefix}layers.3")
    (sae,) = open_shelf(open_repository(str(tmp_path))).saes
    assert (sae.layer, sae.site) == (3, "resid_post")


def made(folder: Path, like: str = "standard", arrays: Mapping[str, Any] = {}, **changes: Any) -> Path:
    """A folder like one of SAELens's, with some of its configuration and arrays changed; None leaves one out."""
    folder.mkdir(parents=True)
    config = json.loads((FOLDER / like / "cfg.json").read_text())
    for key, value in changes.items():
        place = config["metadata"] if key in ("hook_name", "model_name", "hook_head_index") else config
        place[key] = value
    (folder / "cfg.json").write_text(json.dumps(config))
    stored = {**load_file(FOLDER / like / "sae_weights.safetensors"), **arrays}
    save_file({key: array for key, array in stored.items() if array is not None}, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize(
    ("like", "changes", "told"),
    [
        ("standard", {"architecture": "temporal"}, "architecture is 'temporal'"),
        ("standard", {"architecture": "matching_pursuit"}, "architecture is 'matching_pursuit'"),
        ("topk", {"architecture": "abstopk"}, "architecture is 'abstopk'"),
        ("standard", {"normalize_activations": "covariance_whitening"}, "'covariance_whitening'"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "fold it into the weights"),
        ("standard", {"activation_fn": "tanh-relu"}, "'tanh-relu'"),
        ("gated", {"activation_fn": "topk", "activation_fn_kwargs": {"k": 5}}, "'topk' in the architecture 'gated'"),
        ("topk", {"k": None}, "its k is None"),
        ("topk", {"k": True}, "its k is True"),
        ("standard", {"d_sae": "40"}, "its d_sae is '40'"),
        ("standard", {"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes'"),
        ("standard", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ("standard", {"hook_name": "blocks.0.hook_resid_pre"}, "'blocks.0.hook_resid_pre', which is no site"),
        ("standard", {"hook_name": "blocks.3.hook_resid_mid"}, "'blocks.3.hook_resid_mid', which is no site"),
        ("standard", {"hook_name": "blocks.3.hook_attn_out"}, "no site"),
        ("standard", {"hook_name": None}, "no hook_name"),
        ("standard", {"hook_name": "model.vision_tower.vision_model.encoder.layers.3"}, "no site"),
        ("standard", {"hook_name": "vision_tower.vision_model.encoder.layers.3.input"}, "no site"),
        ("standard", {"hook_head_index": 2}, "one head of attention"),
        # Without the gain of the norm for Gemma 2, with it for Gemma 3: 287 active features instead of 170.
        ("transcoder", {"model_name": "gemma-3-1b-pt"}, "no site"),
        ("transcoder", {"hook_name": "model.layers.3.pre_feedforward_layernorm.output"}, "no site"),
    ],
)
def test_what_is_not_known_is_refused_by_name(like: str, changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_shelf(open_repository(str(made(tmp_path / "sae", like, **changes))))
    message = str(caught.value)
    assert told in message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize("hook", ["blocks.3.hook_resid_pre", "model.layers.3.input"])
def test_what_a_layer_gets_is_what_the_one_before_it_gave(hook: str, tmp_path: Path) -> None:
    """Layer 3's input is layer 2's output, and is named so; beside one of layer 2's own, neither is the only one."""
    made(tmp_path / "before", hook_name=hook)
    (sae,) = open_shelf(open_repository(str(tmp_path))).saes
    assert (sae.layer, sae.site, sae.l0_name) == (2, "resid_post", "before")
    np.testing.assert_array_equal(activations(tmp_path / "before"), activations(FOLDER / "standard"))
    made(tmp_path / "own", hook_name="blocks.2.hook_resid_post")
    with pytest.raises(UsageError, match=r"Name one with --sae-l0: before, own"):
        choose_saes(open_repository(str(tmp_path)), 26, None, "auto", "canonical")


def test_an_unknown_one_beside_others_is_passed_over_and_told(tmp_path: Path) -> None:
    made(tmp_path / "good")
    made(tmp_path / "odd", hook_name="blocks.3.hook_resid_mid")
    repository = open_repository(str(tmp_path))
    assert [sae.l0_name for sae in open_shelf(repository).saes] == ["good"]
    with pytest.raises(UsageError, match=r"for layer 3.*\nPassed over: odd/cfg.json: .*resid_mid"):
        choose_saes(repository, 26, frozenset({3}), "auto", "canonical")


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text((FOLDER / "standard" / "cfg.json").read_text())
    (tmp_path / "sae_weights.pt").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(UsageError, match=r"sae_weights\.pt is a pickle.*\n.*safetensors"):
        open_shelf(open_repository(str(tmp_path)))


W = load_file(FOLDER / "standard" / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("like", "arrays", "told"),
    [
        ("standard", {"b_enc": None}, "has no b_enc: not a standard SAE"),
        ("gated", {"b_gate": None, "r_mag": None}, "has no b_gate and no r_mag: not a gated SAE"),
        ("jumprelu", {"threshold": None}, "has no threshold"),
        ("standard", {"W_enc": W["W_enc"][:-1]}, "encodes vectors of 11 numbers"),
        ("standard", {"W_enc": W["W_enc"].T.copy()}, "the other way round"),
        ("standard", {"b_dec": np.zeros(9, np.float32)}, "b_dec [9]"),
        ("topk_rescaled", {"W_dec": W["W_dec"][:, :-1].copy()}, "W_dec [40, 11]"),
        ("standard", {"b_enc": np.zeros(40, np.int32)}, "stores b_enc as I32"),
        ("standard", {"b_enc": np.full(40, np.inf, np.float32)}, "b_enc holds NaN or infinity"),
        ("gated", {"r_mag": np.full(40, 200, np.float32)}, "W_enc holds NaN or infinity"),
        ("standard", {"w_enc": W["W_enc"]}, "holds W_enc twice"),
        ("standard", {"scaling_factor": np.full(40, 2, np.float32)}, "scaling_factor that is not 1"),
    ],
)
def test_weights_that_do_not_make_an_encoder_are_refused(
    like: str, arrays: dict[str, Any], told: str, tmp_path: Path
) -> None:
    made(tmp_path / "sae", like, arrays)
    with np.errstate(over="ignore"), pytest.raises(LayerscopeError) as caught:
        activations(tmp_path / "sae")
    assert told in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_float_dtype_is_read_as_the_numbers_it_holds(dtype: torch.dtype, tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_torch

    made(tmp_path / "sae", "jumprelu")
    halves = {key: torch.from_numpy(array).to(dtype) for key, array in load_arrays("jumprelu").items()}
    save_torch(halves, tmp_path / "sae" / "sae_weights.safetensors")
    same = {key: array.float().numpy() for key, array in halves.items()}
    made(tmp_path / "same", "jumprelu", same)
    assert np.array_equal(activations(tmp_path / "sae"), activations(tmp_path / "same"))


def test_an_array_that_stands_twice_in_the_header_is_refused(tmp_path: Path) -> None:
    """Of two places in the file a reader takes the last in silence; the first may be what was meant."""
    path = made(tmp_path / "sae") / "sae_weights.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].rstrip()
    again = header[:-1] + b',"W_enc":' + json.dumps(json.loads(header)["W_enc"]).encode() + b"}"
    path.write_bytes(len(again).to_bytes(8, "little") + again + content[8 + size :])
    with pytest.raises(LayerscopeError, match=r"sae_weights\.safetensors of .* the key 'W_enc' twice"):
        activations(tmp_path / "sae")


def load_arrays(name: str) -> dict[str, NDArray[Any]]:
    return dict(load_file(FOLDER / name / "sae_weights.safetensors"))


@pytest.mark.parametrize("cut", [0, 4, 100, -1, -2000])
def test_a_file_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    path = made(tmp_path / "sae") / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(LayerscopeError, match=r"sae_weights\.safetensors of .* is broken"):
        activations(tmp_path / "sae")


def test_the_same_weights_under_another_configuration_are_another_encoder(tmp_path: Path) -> None:
    """The cache goes by the weights' content: the second would get the first one's bias."""
    first = activations(FOLDER / "standard")
    made(tmp_path / "sae", apply_b_dec_to_input=False)
    second = activations(tmp_path / "sae")
    arrays = load_arrays("standard")
    plain = np.maximum(ROWS.numpy() @ arrays["W_enc"] + arrays["b_enc"], 0)
    np.testing.assert_allclose(second, plain, rtol=1e-5, atol=1e-5)
    assert not np.allclose(first, second)


def test_of_equal_ones_a_top_k_takes_the_lowest_ids(tmp_path: Path) -> None:
    """Which of them a library takes is nobody's rule, and a resumed run would have other bytes."""
    zeros = {"W_enc": np.zeros((D_IN, D_SAE), np.float32), "b_enc": np.repeat(np.float32([1, 2]), [30, 10])}
    found = activations(made(tmp_path / "sae", "topk", zeros, k=12, apply_b_dec_to_input=False))
    assert [np.flatnonzero(row).tolist() for row in found] == [[0, 1, *range(30, 40)]] * len(ROWS)
