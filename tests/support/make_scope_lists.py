#!/usr/bin/env python3
"""Makes `tests/support/data/gemma_scope/`: what SAELens itself lists for SAEs in the files of Gemma Scope 1 and 2.

    python3 -m venv /tmp/saelens && /tmp/saelens/bin/pip install sae-lens==6.54.12 torch==2.13.0 pytest
    /tmp/saelens/bin/python tests/support/make_scope_lists.py

Of every release of the two suites in its table it is asked for one SAE by its name there (of transcoders for one with
an affine connection too). Its own loader finds the folder, fetches the file from a local hub, whose SAEs are small ones
from a seed, and encodes; only the sizes, which the one for Gemma Scope 1 knows by heart, are told to it.
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ["HF_HOME"] = tempfile.mkdtemp()
os.environ["HF_HUB_DISABLE_XET"] = "1"

import numpy as np
from huggingface_hub import constants

from hub_server import HubServer, Repository
from scope_files import D_IN, D_OUT, D_SAE, files, rows

DATA = Path(__file__).parent / "data/gemma_scope"
TOP = 100
HEADS = 4


def main() -> None:
    warnings.simplefilter("ignore")
    with HubServer() as hub:
        constants.ENDPOINT = hub.endpoint
        constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

        asked, by_repository = [], dict[str, dict[str, bytes]]()
        table = get_pretrained_saes_directory()
        for release in sorted(name for name in table if name.startswith("gemma-scope-")):
            for sae_id in wanted(table[release]):
                repository, folder = table[release].repo_id, table[release].saes_map[sae_id]
                held = by_repository.setdefault(repository, {})
                if f"{folder}/params.npz" not in held and f"{folder}/params.safetensors" not in held:
                    held |= files(repository, folder, len(asked))
                    asked.append((release, sae_id, repository, folder))
        for name, held in by_repository.items():
            hub.add(Repository("model", name, held))
        told, arrays = listed(asked, table)
    DATA.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(sae) for sae in told)
    (DATA / "saes.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    np.savez_compressed(DATA / "lists.npz", **arrays)


def wanted(release: Any) -> list[str]:
    """The SAEs of a release that are taken: one in the middle of its layers, and of transcoders one of each kind.

    With a page where any has one.
    """
    names = sorted(release.saes_map, key=lambda name: release.neuronpedia_id[name] is None)  # those with pages first
    affine = [name for name in names if name.endswith("_affine")]
    plain = [name for name in names if name not in affine and "embedding" not in name]
    with_pages = sum(release.neuronpedia_id[name] is not None for name in plain)
    return [kind[(with_pages or len(kind)) // 2] for kind in (plain, affine) if kind]


def listed(asked: list[tuple[str, str, str, str]], table: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What SAELens says of each SAE, and its lists: the strongest features of every row, and what they decode to."""
    import torch
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

    x = torch.from_numpy(rows())
    told, ids, activations, counts, outputs = [], [], [], [], []
    for release, sae_id, repository, folder in asked:
        loader = NAMED_PRETRAINED_SAE_LOADERS[table[release].conversion_func]

        def small(cfg_overrides: dict[str, Any], loader: Any = loader, **more: Any) -> Any:
            sizes = {"d_in": D_IN, "d_sae": D_SAE}
            if loader.__name__ == "gemma_2_transcoder_huggingface_loader":
                sizes["d_out"] = D_IN
            own = sizes if "gemma_2" in loader.__name__ else {}  # the other one reads them in the file
            return loader(cfg_overrides={**cfg_overrides, **own}, **more)

        sae = SAE.from_pretrained(release, sae_id, converter=small)
        # At hook_z it takes the heads apart from one another, and puts them one behind the other.
        taken = x.reshape(len(x), HEADS, -1) if sae.cfg.reshape_activations == "hook_z" else x
        with torch.inference_mode():
            encoded, output = sae.encode(taken), sae(taken).reshape(len(x), -1)
        for row in encoded:
            active = torch.nonzero(row > 0)[:, 0]
            strongest = active[torch.argsort(-row[active], stable=True)][:TOP]
            ids.append(strongest.numpy().astype(np.int16))
            activations.append(row[strongest].numpy())
            counts.append(len(active))
        outputs.append(np.pad(output.numpy(), ((0, 0), (0, D_IN - output.shape[1]))))
        metadata = sae.cfg.metadata
        told.append(
            {
                "release": release,
                "id": sae_id,
                "repository": repository,
                "folder": folder,
                "architecture": sae.cfg.architecture(),
                "model": metadata.model_name,
                "hook": metadata.hook_name,
                "neuronpedia": metadata.neuronpedia_id,
            }
        )
    assert {output.shape for output in outputs} == {(len(x), D_IN)}
    assert D_OUT < D_IN
    return told, {
        "ids": np.concatenate(ids),
        "activations": np.concatenate(activations),
        "counts": np.array(counts, np.int16),
        "outputs": np.array(outputs),
    }


if __name__ == "__main__":
    main()
