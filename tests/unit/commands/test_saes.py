"""`layerscope saes` says what there is to choose from, without weights."""

from pathlib import Path

import orjson
import pytest
from huggingface_hub import constants

from layerscope.commands import saes
from layerscope.errors import LayerscopeError, UsageError
from layerscope.hub.repository import FileInfo, Repository
from layerscope.standin import standin_folder
from paths import DATA


def test_a_folder_of_gemma_scope_s_layout() -> None:
    found = saes.shelves(str(standin_folder() / "saes"))
    told = saes.as_text(found)
    assert "Gemma Scope, 18 SAEs held, 18 of them on this machine" in told
    assert "resid_post, width 512: layers 0-5, L0 " in told
    assert "where they read no name says: --site does" in told
    (listed,) = orjson.loads(saes.as_json(found))
    assert len(listed["saes"]) == 18
    canonical = [sae["layer"] for sae in listed["saes"] if sae["canonical"]]
    assert canonical == [0, 1, 2, 3, 4, 5]
    assert all(sae["bytes"] and sae["on_this_machine"] for sae in listed["saes"])


def test_a_folder_of_saelens_s_layout() -> None:
    told = saes.as_text(saes.shelves(str(DATA / "saelens")))
    assert "SAELens" in told
    assert "canonical takes the only one of its layer and width" in told
    assert "L0 standard (layer 0), standard_no_b_dec (layer 1), standard_norm (layer 2), jumprelu (layer 3)" in told
    assert told.count("    canonical each of them (") == 2


def test_a_model_of_the_hub_has_its_suites_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model itself may be gated; the SAEs are not."""
    opened = []

    def lists(name: str, *_: str) -> Repository:
        opened.append(name)
        folder = "" if name.startswith("google/gemma-scope-2b") else "resid_post/"
        path = "layer_0/width_16k/average_l0_105/params.npz"
        path = "layer_7_width_16k_l0_medium/params.safetensors" if folder else path
        return Repository(name, "0" * 40, {folder + path: FileInfo(5)})

    monkeypatch.setattr(saes, "open_repository", lists)
    told = saes.as_text(saes.shelves("google/gemma-2-2b"))
    assert [name.split("-")[-1] for name in opened] == ["res", "att", "mlp", "transcoders"]
    assert "canonical 0: 105 (5 bytes)" in told
    assert "--site does" not in told
    assert "Neuronpedia has pages for 1, such as gemma-2-2b/0-gemmascope-res-16k" in told
    opened.clear()
    told = saes.as_text(saes.shelves("google/gemma-3-1b-pt"))
    assert opened == ["google/gemma-scope-2-1b-pt"]
    assert "resid_post, width 16k: layer 7, L0 medium (layer 7)" in told
    assert "such as gemma-3-1b/7-gemmascope-2-res-16k" in told


def test_offline_a_model_s_suites_are_those_that_the_cache_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def lists(name: str, *_: str) -> Repository:
        if name != "google/gemma-scope-2b-pt-att":
            raise LayerscopeError(f"{name} is not in the hub's cache")
        files = {"layer_0/width_16k/average_l0_104/params.npz": FileInfo(5)}
        return Repository(name, "0" * 40, files, partial=True)

    monkeypatch.setattr(saes, "open_repository", lists)
    with pytest.raises(LayerscopeError, match="-res is not in the hub's cache"):  # the hub that cannot be reached
        saes.shelves("google/gemma-2-2b")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = saes.shelves("google/gemma-2-2b")
    told = saes.as_text(found).splitlines()
    assert told[0] == "google/gemma-scope-2b-pt-res: not in the cache here (HF_HUB_OFFLINE is set)"
    assert told[1].startswith("google/gemma-scope-2b-pt-att 0000")
    assert [len(listed["saes"]) for listed in orjson.loads(saes.as_json(found))] == [0, 1, 0, 0]
    with pytest.raises(LayerscopeError, match="scope-9b-pt-res is not in the hub's cache"):
        saes.shelves("google/gemma-2-9b")


def test_a_repository_without_saes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no SAEs: it has no files\.\nRead are layer_N.*\(SAELens\)\.$"):
        saes.shelves(str(tmp_path))
    (tmp_path / "notes.md").touch()
    with pytest.raises(UsageError, match=r"holds no SAEs: it has notes\.md\."):
        saes.shelves(str(tmp_path))
