"""A repository that holds no model as it was trained is refused by its kind, before anything is started."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from layerscope.errors import UsageError
from layerscope.hub.repository import open_repository
from layerscope.models.family import Shape
from layerscope.models.gemma2 import GEMMA_2
from layerscope.models.spec import read_spec

CONFIG: dict[str, Any] = {
    "model_type": "gemma2",
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "intermediate_size": 8,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 8,
    "max_position_embeddings": 16,
    "bos_token_id": 2,
}
INDEX = "model.safetensors.index.json"
SIZES = {name: value for name, value in CONFIG.items() if isinstance(value, int)}
TENSORS = GEMMA_2.tensors(SIZES, True)
WEIGHTS: dict[str, Shape] = {
    **{name: shape for name, shape in TENSORS.outer.items() if name != "lm_head.weight"},
    **{f"model.layers.0.{name}": shape for name, shape in TENSORS.of_layer.items()},
}


def header(shapes: Mapping[str, Shape], **formats: str) -> bytes:
    """What a safetensors file with some tensors in bfloat16, and some of no size in other formats, begins with."""
    told: dict[str, Any] = {name: {"dtype": "BF16", "shape": shape} for name, shape in shapes.items()}
    told |= {name.replace("__", "."): {"dtype": kind, "shape": [0]} for name, kind in formats.items()}
    content = json.dumps(told | {"__metadata__": {"format": "pt"}}).encode()
    return struct.pack("<Q", len(content)) + content


def tensors(**formats: str) -> bytes:
    return header({}, **formats)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, as far as is looked at before it is loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(header(WEIGHTS))
    return folder


def configured(folder: Path, **more: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | more))


def bitsandbytes(folder: Path) -> None:
    configured(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})


def gptq(folder: Path) -> None:
    configured(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def mlx(folder: Path) -> None:
    configured(folder, quantization={"group_size": 64, "bits": 4})


def packed_in_silence(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(tensors(layer__qweight="I32", layer__scales="F16"))


def eight_bits_in_silence(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(tensors(layer="F8_E4M3"))


def packed_in_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    names = ("layer.weight", "layer.weight.absmax")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "one.safetensors")}))


def adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(tensors(lora_A="F32"))


def adapter_beside_a_model(folder: Path) -> None:
    """transformers would load it on top without a word."""
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def gguf(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "gemma-2-2b.Q4_K_M.gguf").write_bytes(b"GGUF")


def instead(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (bitsandbytes, "quantised .*bitsandbytes"),
        (gptq, "quantised .*gptq"),
        (mlx, "quantised"),
        (packed_in_silence, "quantised .*qweight"),
        (eight_bits_in_silence, "quantised .*F8_E4M3"),
        (packed_in_shards, "quantised .*absmax"),
        (adapter, "adapter.*\n.*Merge"),
        (adapter_beside_a_model, "adapter.*\n.*Merge"),
        (gguf, "GGUF"),
        (instead("model.q8.gguf"), "GGUF"),
        (instead("pytorch_model.bin"), r"pickles, .*pytorch_model\.bin"),
        (instead("model.ckpt"), "pickles"),
        (instead("flax_model.msgpack"), "another framework"),
        (instead("tf_model.h5"), "another framework"),
    ],
)
def test_weights_that_are_no_models_as_it_was_trained_are_refused_by_their_kind(
    make: Callable[[Path], object], told: str, folder: Path
) -> None:
    make(folder)
    with pytest.raises(UsageError, match=told) as caught:
        read_spec(open_repository(str(folder)))
    assert 2 <= len(str(caught.value).splitlines()) <= 3  # the second says what to use instead


def test_what_lies_beside_whole_weights_is_passed_over(folder: Path) -> None:
    for name in ("pytorch_model.bin", "model.gguf", "flax_model.msgpack"):
        (folder / name).write_bytes(b"")
    configured(folder, quantization_config=None)
    assert read_spec(open_repository(str(folder))).d_model == 4


def test_a_setting_that_stands_twice_is_refused_by_name(folder: Path) -> None:
    text = json.dumps(CONFIG)
    (folder / "config.json").write_text(text[:-1] + ', "hidden_size": 8}')
    with pytest.raises(UsageError, match=r"config\.json of .* the key 'hidden_size' twice"):
        read_spec(open_repository(str(folder)))


def repeated(folder: Path) -> None:
    """The second says that it is of another size; a library takes one of the two without a word."""
    content = json.dumps({name: {"dtype": "BF16", "shape": shape} for name, shape in WEIGHTS.items()})
    content = content[:-1] + ', "model.norm.weight": {"dtype": "BF16", "shape": [8]}}'
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content.encode())


def in_two_files(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "two.safetensors").write_bytes(header({"model.norm.weight": (4,)}))
    files = {**dict.fromkeys(WEIGHTS, "one.safetensors"), "model.norm.weight": "two.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (repeated, "model.safetensors of .* the key 'model.norm.weight' twice"),
        (in_two_files, "two.safetensors of .* holds model.norm.weight, and so does another"),
        (lambda folder: configured(folder, transformers_weights="other.safetensors"), "names its weights itself"),
    ],
)
def test_weights_of_which_a_library_would_take_others_are_refused(
    make: Callable[[Path], object], told: str, folder: Path
) -> None:
    make(folder)
    with pytest.raises(UsageError, match=told):
        read_spec(open_repository(str(folder)))


def test_the_files_that_are_hashed_are_those_that_are_loaded(folder: Path) -> None:
    """Beside one file of weights an index of others, from an older save: transformers loads the one file."""
    (folder / "old.safetensors").write_bytes(header(WEIGHTS))
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(WEIGHTS, "old.safetensors")}))
    assert read_spec(open_repository(str(folder))).files == ("config.json", "tokenizer.json", "model.safetensors")
