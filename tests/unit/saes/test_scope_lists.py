"""Of every release of Gemma Scope 1 and 2 the lists are those of SAELens's own loader and `encode`.

`gemma_scope/` under the tests' data was made by `tests/support/make_scope_lists.py` with SAELens 6.54.12, from the very
files that are written here again.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numpy.typing import NDArray

from layerscope.config import Site
from layerscope.hub.repository import Repository, open_repository
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice
from layerscope.saes.choosing import choose_saes
from layerscope.saes.encoder import encode_top_k
from layerscope.saes.gemma_scope import releases
from layerscope.saes.weights import read_decoder
from paths import DATA
from plain import DEVICES
from scope_files import D_IN, files, rows

TOP = 100
TOLD: list[dict[str, Any]] = json.loads((DATA / "gemma_scope" / "saes.json").read_text(encoding="utf-8"))
LISTS = np.load(DATA / "gemma_scope" / "lists.npz")
REPOSITORIES = list(dict.fromkeys(sae["repository"] for sae in TOLD))
ROWS = rows()
SITES: dict[str, Site] = {
    "hook_resid_post": "resid_post",
    "attn.hook_z": "attn_out",
    "hook_mlp_out": "mlp_out",
    "ln2.hook_normalized": "transcoder",
    "hook_mlp_in": "transcoder",
}
"""By SAELens's hooks; what it calls so of a Gemma 3's transcoder is the input of no MLP of that name."""


class Lists(NamedTuple):
    """What SAELens gives of one SAE: of every row its strongest features, and how many are active; what is decoded."""

    ids: list[NDArray[Any]]
    activations: list[NDArray[Any]]
    counts: NDArray[Any]
    output: NDArray[Any]


def lists_of(number: int) -> Lists:
    counts = LISTS["counts"].reshape(len(TOLD), len(ROWS))
    ends = np.minimum(counts, TOP).reshape(-1).cumsum()
    places = range(number * len(ROWS), (number + 1) * len(ROWS))
    spans = [slice(int(ends[place - 1]) if place else 0, int(ends[place])) for place in places]
    return Lists(
        [LISTS["ids"][span] for span in spans],
        [LISTS["activations"][span] for span in spans],
        counts[number],
        LISTS["outputs"][number],
    )


def taken(told: dict[str, Any], number: int, folder: Path) -> tuple[Repository, SaeChoice]:
    """The SAE as a run finds it in a folder with its files, that is said to be a copy of its repository."""
    for path, content in files(told["repository"], told["folder"], number).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    hook = re.fullmatch(r"blocks\.(\d+)\.(.+)", told["hook"])
    parts = re.search(r"width_([^/_]+)(?:/average_l0_|_l0_)(.+)", told["folder"])
    assert hook is not None
    assert parts is not None
    repository, layers = open_repository(str(folder)), frozenset({int(hook[1])})
    ((sae,), _) = choose_saes(repository, 99, layers, parts[1], parts[2], told["repository"], SITES[hook[2]])
    return repository, sae


@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_release_has_the_lists_of_saelens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, the site, the page and the model that it names; all lists; and what attribution adds up with."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    for number, told in enumerate(TOLD):
        if told["repository"] != name:
            continue
        repository, sae = taken(told, number, tmp_path / str(number))
        assert sae.path.rpartition("/")[0] == told["folder"]
        assert sae.neuronpedia_id == told["neuronpedia"]
        assert sae.model.split("/")[-1] == told["model"].split("/")[-1]
        assert sae.recipe.transcodes == ("transcoder" in told["architecture"])
        expected = lists_of(number)
        for device in DEVICES:
            encoder = load_encoder(repository, sae, D_IN, torch.float32, device)
            found = encode_top_k(torch.from_numpy(ROWS).to(device), encoder, TOP)
            assert found.active_counts.tolist() == expected.counts.tolist()
            for row, (start, end) in enumerate(zip(found.starts[:-1], found.starts[1:], strict=True)):
                mine = dict(zip(found.feature_ids[start:end].tolist(), found.activations[start:end], strict=True))
                theirs = dict(zip(expected.ids[row].tolist(), expected.activations[row], strict=True))
                assert mine.keys() == theirs.keys(), (told, row)
                np.testing.assert_allclose([mine[each] for each in theirs], list(theirs.values()), 1e-5, 1e-5)
                # In their order, but for two that are as strong as each other to rounding.
                assert (np.diff([theirs[each] for each in mine]) < 1e-5).all(), (told, row)
        whole = encode_top_k(
            torch.from_numpy(ROWS), load_encoder(repository, sae, D_IN, torch.float32, DEVICES[0]), None
        )
        decoder = read_decoder(repository, sae, D_IN)
        assert (decoder.skip is not None) == ("skip" in told["architecture"])
        for row, (start, end) in enumerate(zip(whole.starts[:-1], whole.starts[1:], strict=True)):
            output = whole.activations[start:end] @ decoder.w_dec[whole.feature_ids[start:end]] + decoder.b_dec
            if decoder.skip is not None:
                output = output + ROWS[row] @ decoder.skip
            np.testing.assert_allclose(output, expected.output[row][: len(output)], rtol=1e-4, atol=1e-4)


def test_every_release_of_gemma_scope_is_among_them() -> None:
    """All nine of Gemma Scope, every model of Gemma Scope 2, and whatever lies at each of its sites."""
    assert set(releases()) < set(REPOSITORIES)
    sizes = {
        f"google/gemma-scope-2-{size}-{kind}" for size in ("270m", "1b", "4b", "12b", "27b") for kind in ("pt", "it")
    }
    assert set(REPOSITORIES) == {*releases(), *sizes}
    folders = {told["folder"].split("/")[0] for told in TOLD if told["repository"] in sizes}
    assert folders == {f"{site}{more}" for site in set(SITES.values()) for more in ("", "_all")}
