"""The bits of a small fixed computation: the same wherever the records are, and others where those are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layerscope.config import FIRST
from layerscope.engine.batches.encoding import Encoders
from layerscope.engine.batches.probes import encoder_fingerprint, model_fingerprint
from layerscope.hub.repository import open_repository
from layerscope.models.loading import load_language_model
from layerscope.records.manifest.fingerprints import Fingerprint
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice

LAYERS = [0, 1, 2]
IN_A_PROCESS = """
import sys
from pathlib import Path
from layerscope.models.lean_import import import_transformers
import_transformers()
from test_fingerprint import taken
print(taken(Path(sys.argv[1]), sys.argv[2]))
"""


def taken(tiny: Path, dtype: str) -> Fingerprint:
    """Of the tiny stand-in's model in a number format and of its encoders in float32, on one thread."""
    torch.set_num_threads(1)
    number_format, cpu = getattr(torch, dtype), torch.device("cpu")
    model = load_language_model(tiny / "model", number_format, cpu)
    repository = open_repository(str(tiny / "saes"))
    paths = [next(path for path in repository.files if path.startswith(f"layer_{layer}/")) for layer in LAYERS]
    encoders = [load_encoder(repository, SaeChoice(0, "", None, path, None), 32, torch.float32, cpu) for path in paths]
    of_model, of_encoders = (
        model_fingerprint(model, LAYERS),
        encoder_fingerprint([Encoders(FIRST, slice(0, 32), encoders)], LAYERS, number_format),
    )
    return Fingerprint(digests={**of_model.digests, **of_encoders.digests}, circumstances=of_model.circumstances)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_same_each_time_and_names_what_is_known(tiny: Path, dtype: str) -> None:
    first = taken(tiny, dtype)
    assert first.digests.keys() == {"model", "sae 0", "sae 1", "sae 2"}
    assert len(set(first.digests.values())) == 4
    assert taken(tiny, dtype) == first
    assert {"torch's instruction set", "float32_products", "bfloat16_sums"} <= first.circumstances.keys()


def test_an_encoder_s_does_not_depend_on_the_block_it_is_in(tiny: Path) -> None:
    """Blocks are no part of a run's identity: a file may be gone on with in others."""
    repository = open_repository(str(tiny / "saes"))
    path = next(path for path in repository.files if path.startswith("layer_1/"))
    encoder = load_encoder(repository, SaeChoice(0, "", None, path, None), 32, torch.float32, torch.device("cpu"))
    alone = encoder_fingerprint([Encoders(FIRST, slice(0, 32), [encoder])], [1], torch.float32).digests
    assert alone.items() <= taken(tiny, "float32").digests.items()


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="nothing slower to choose")
def test_another_instruction_set_gives_other_bits_and_is_named(tiny: Path) -> None:
    """What a manifest that lists versions and the processor's name takes for the same."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    )
    told = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, str(tiny), "float32"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    ).stdout
    assert f"'model': '{taken(tiny, 'float32').digests['model']}'" not in told
    assert "\"torch's instruction set\": 'DEFAULT'" in told
    assert "'ATEN_CPU_CAPABILITY': 'default'" in told
