"""Where a dictionary's features write is known, or refused by name; a run that does not ask reads them all the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from layerscope.errors import UsageError
from layerscope.hub.repository import open_repository
from layerscope.saes.choice import Recipe, SaeChoice
from layerscope.saes.suites import open_shelf
from layerscope.saes.writing import written_site

POST_NORM = "model.layers.5.post_feedforward_layernorm.output"


def sae(folder: Path, told: str | None, **more: Any) -> tuple[Any, SaeChoice]:
    for name, text in {"config.json": told, "params.npz": ""}.items():
        if text is not None:
            (folder / name).write_text(text)
    config = None if told is None else "config.json"
    recipe = Recipe(transcodes=True)
    given: dict[str, Any] = {"site": "transcoder", "recipe": recipe, "config": config, "model": "gemma-3-1b", **more}
    return open_repository(str(folder)), SaeChoice(5, "16k", None, "params.npz", None, **given)


@pytest.mark.parametrize(
    "told",
    [
        None,  # as of Gemma Scope, all of which write there
        {"architecture": "jump_relu"},
        {"hf_hook_point_out": POST_NORM, "hook_point_out": "blocks.5.hook_mlp_in"},
        {"metadata": {"hook_name": "blocks.5.ln2.hook_normalized", "hook_name_out": "blocks.5.hook_mlp_out"}},
    ],
)
def test_transcoders_write_what_the_mlp_adds(told: dict[str, Any] | None, tmp_path: Path) -> None:
    assert written_site(*sae(tmp_path, None if told is None else json.dumps(told))) == "mlp_out"


def test_an_sae_writes_where_it_reads(tmp_path: Path) -> None:
    told = json.dumps({"hook_name_out": "blocks.7.hook_nowhere"})
    assert written_site(*sae(tmp_path, told, site="attn_out", recipe=Recipe())) == "attn_out"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (json.dumps({"hf_hook_point_out": "model.layers.5.mlp.output"}), "write at 'model.layers.5.mlp.output'"),
        (
            json.dumps({"hook_name_out": "blocks.6.hook_mlp_out"}),
            "'blocks.6.hook_mlp_out', which is no site of layer 5",
        ),
        ("{", "is not JSON"),
    ],
)
def test_another_place_is_refused_by_name(told: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        written_site(*sae(tmp_path, told))
    assert len(str(refused.value).splitlines()) == 2
    assert "config.json of" in str(refused.value)


def test_what_writes_at_another_place_is_read_all_the_same(tmp_path: Path) -> None:
    """Which features fire has nothing to do with where they write."""
    metadata = {"model_name": "gemma-2-2b", "hook_name": "blocks.5.ln2.hook_normalized", "hook_name_out": "elsewhere"}
    told = {"architecture": "jumprelu_transcoder", "d_in": 8, "d_sae": 16, "d_out": 8, "metadata": metadata}
    (tmp_path / "cfg.json").write_text(json.dumps(told))
    (tmp_path / "sae_weights.safetensors").write_bytes(b"")
    repository = open_repository(str(tmp_path))
    (found,) = open_shelf(repository).saes
    assert found.site == "transcoder"
    with pytest.raises(UsageError, match="'elsewhere'"):
        written_site(repository, found)
