"""Encoders are those of the file that is there now, whatever the cache holds, and the cache stays small."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.hub import cache as hub_cache
from layerscope.hub.cache import MOST_BYTES, make_room, told
from layerscope.hub.repository import Repository, open_repository
from layerscope.saes import cache as sae_cache
from layerscope.saes import decoders
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice
from layerscope.saes.decoders import load_decoder

Arrays = dict[str, NDArray[Any]]

PATH = "layer_3/width_16k/average_l0_59/params.npz"
SAE = SaeChoice(3, "16k", 59, PATH, None)
D_MODEL, D_SAE = 4, 6
WHOLE: Arrays = {
    "W_enc": np.arange(-12, 12, dtype=np.float32).reshape(D_MODEL, D_SAE),
    "b_enc": np.linspace(-1, 1, D_SAE, dtype=np.float32),
    "threshold": np.linspace(0, 1, D_SAE, dtype=np.float32),
}
OTHER = {**WHOLE, "threshold": WHOLE["threshold"] + 1}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `HF_HOME`."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


@pytest.fixture
def source(home: Path) -> Path:
    """The params.npz of a repository in a folder, as old as any that was not just made."""
    path = home.parent / "saes" / PATH
    path.parent.mkdir(parents=True)
    np.savez(path, **WHOLE)
    return path


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were made a moment ago count as old, so that their hashes are kept."""
    monkeypatch.setattr(hub_cache, "_SETTLED_NS", 0)


def repository(source: Path) -> Repository:
    return open_repository(str(source.parents[3]))


def load(source: Path, d_model: int = D_MODEL, dtype: torch.dtype = torch.float32) -> Arrays:
    sae = load_encoder(repository(source), SAE, d_model, dtype, torch.device("cpu"))
    # Copies: the tensors are the mapped file.
    return {
        "W_enc": sae.w_enc.float().numpy().copy(),
        "b_enc": sae.b_enc.numpy().copy(),
        "threshold": sae.threshold.numpy().copy(),
    }


def is_(arrays: Arrays, expected: Arrays) -> bool:
    return all(np.array_equal(arrays[name], array) for name, array in expected.items())


def encoders(home: Path) -> list[Path]:
    return sorted((home / "layerscope" / "encoders").glob("*"))


def test_an_sae_is_loaded_in_the_dtype_that_is_asked_for(source: Path, home: Path) -> None:
    """The product in bfloat16, everything behind it in float32; the other format is not taken for it."""
    assert is_(load(source), WHOLE)
    sae = load_encoder(repository(source), SAE, D_MODEL, torch.bfloat16, torch.device("cpu"))
    assert (sae.w_enc.dtype, sae.b_enc.dtype, sae.threshold.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert torch.equal(sae.w_enc.float(), torch.from_numpy(WHOLE["W_enc"]))
    assert len(encoders(home)) == 2


def test_the_second_load_does_not_unpack_the_npz(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking takes seconds a layer, and every actor of a node would do it again."""
    assert is_(load(source), WHOLE)
    monkeypatch.setattr(sae_cache, "ENCODER", sae_cache.ENCODER._replace(read=_unpacked))
    assert is_(load(source), WHOLE)


def _unpacked(*_: object) -> Arrays:
    raise AssertionError("it is unpacked again")


def test_decoders_are_mapped_from_the_cache_as_encoders_are(
    source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a node's encoders of one block each would have its own copy: 4 GB of Gemma-2-2B's 26 layers."""
    w_dec, b_dec = np.arange(24, dtype=np.float32).reshape(D_SAE, D_MODEL), np.ones(D_MODEL, np.float32)
    np.savez(source, **WHOLE, W_dec=w_dec, b_dec=b_dec)
    for _ in range(2):
        decoder = load_decoder(repository(source), SAE, (D_MODEL, D_MODEL), torch.float32, torch.device("cpu"))
        assert np.array_equal(decoder.w_dec.numpy(), w_dec)
        assert np.array_equal(decoder.b_dec.numpy(), b_dec)
        (file,) = (home / "layerscope" / "decoders").glob("*")
        mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(file) in line]
        spans = [[int(end, 16) for end in line[0].split("-")] for line in mapped]
        assert any(start <= decoder.w_dec.data_ptr() < end for start, end in spans), "it is a copy"
        monkeypatch.setattr(decoders, "DECODER", decoders.DECODER._replace(read=_unpacked))
    assert encoders(home) == []


def test_the_same_file_elsewhere_is_the_same_encoder(source: Path, home: Path) -> None:
    """A folder that is moved, copied or reached by a link is converted once more, 150 MB each time."""
    assert is_(load(source), WHOLE)
    root = source.parents[3]
    link = root.with_name("link")
    link.symlink_to(root)
    assert is_(load(link / PATH), WHOLE)
    assert is_(load(root.rename(root.with_name("moved")) / PATH), WHOLE)
    assert len(encoders(home)) == 1


@pytest.mark.parametrize("in_place", [True, False])
def test_a_source_that_was_replaced_with_its_size_and_time_kept_is_read_anew(source: Path, in_place: bool) -> None:
    """The manifest has the hash of the new file and the numbers are of the old one (`rsync -t`, `tar`, `touch`)."""
    assert is_(load(source), WHOLE)
    status = source.stat()
    target = source if in_place else source.with_name("new.npz")
    np.savez(target, **OTHER)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    target.replace(source)
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert is_(load(source), OTHER)


def test_a_cached_file_that_is_not_as_it_was_written_is_made_again(source: Path, home: Path) -> None:
    """A machine that lost its power, a disk that loses bits, a program that writes: wrong weights without a word."""
    load(source)
    (cached,) = encoders(home)
    whole = cached.read_bytes()
    spoilt = [whole[:size] for size in range(0, len(whole), 37)]
    spoilt += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(8, len(whole), 11)]
    spoilt.append(whole[:-100] + bytes(100))
    for content in spoilt:
        cached.write_bytes(content)
        assert is_(load(source), WHOLE)
    assert cached.read_bytes() == whole


def test_a_broken_or_foreign_source_is_refused_every_time_and_leaves_nothing(source: Path, home: Path) -> None:
    whole = source.read_bytes()
    source.write_bytes(whole[:-30])
    for _ in range(2):
        with pytest.raises(LayerscopeError, match=r"params\.npz of .*saes is broken"):
            load(source)
    assert encoders(home) == []
    source.write_bytes(whole)
    assert is_(load(source), WHOLE)
    for _ in range(2):
        with pytest.raises(LayerscopeError, match=r"vectors of 4 numbers.*has 5"):
            load(source, d_model=5)
    assert is_(load(source), WHOLE)


READER = f"""
import encodings.cp437, os, sys, torch
from layerscope.hub.repository import open_repository
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice
os.setgroups([]); os.setgid(2999); os.setuid(2999)  # after the imports: root's Python may be root's alone
choice = SaeChoice(3, "16k", 59, "{PATH}", None)
sae = load_encoder(open_repository(sys.argv[1]), choice, {D_MODEL}, getattr(torch, sys.argv[2]), torch.device("cpu"))
print(float(sae.threshold[-1]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cache_of_somebody_else_serves_what_it_holds_and_the_rest_is_made(
    dtype: str, source: Path, home: Path, tmp_path: Path
) -> None:
    """A full cache that belongs to root ends in a traceback for everybody else."""
    load(source)
    before = encoders(home)
    temporary = [folder for folder in tmp_path.parents if Path(gettempdir()) in folder.parents]
    for folder in (tmp_path, *temporary, *home.rglob("*")):
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(source.parents[3]), dtype],
        env={**os.environ, "HF_HUB_CACHE": constants.HF_HUB_CACHE, "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "1.0\n", done.stderr
    assert encoders(home) == before


def test_a_disk_without_room_only_costs_time(source: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sae_cache.safetensors.torch, "save_file", full)
    assert is_(load(source), WHOLE)
    assert encoders(home) == []


@pytest.fixture
def small_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache that may hold three blocks of encoders."""
    monkeypatch.setitem(MOST_BYTES, "encoders", 3 * 4096)
    folder = home / "layerscope" / "encoders"
    folder.mkdir(parents=True)
    return folder


def put(folder: Path, name: str, days: float) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(100))
    os.utime(file, (time.time() - days * 86400,) * 2)
    return file


def test_what_nobody_used_for_longest_goes_when_there_is_too_much(small_cache: Path) -> None:
    """3.9 GB for each set of SAEs that was ever tried stay for ever."""
    files = [put(small_cache, f"{number:064x}-float32.safetensors", days=number) for number in range(1, 7)]
    make_room("encoders")
    assert sorted(small_cache.iterdir()) == files[:3]


def test_what_is_in_use_stays_however_much_it_is(small_cache: Path) -> None:
    """A run of wide SAEs removes its own encoders while it loads them."""
    files = [put(small_cache, f"{number:064x}-float32.safetensors", days=number / 24) for number in range(1, 7)]
    make_room("encoders")
    assert sorted(small_cache.iterdir()) == files


def test_what_no_version_finds_again_goes(small_cache: Path) -> None:
    """Files of older versions, locks and leftovers of killed processes stay for ever."""
    old = put(small_cache, "google--gemma-scope-2b-pt-res/layer_0-width_16k-average_l0_105-0123.safetensors", days=2)
    lock = put(small_cache, "google--gemma-scope-2b-pt-res/layer_0.safetensors.lock", days=2)
    leftover = put(small_cache, f".x.safetensors.{0:016x}.tmp", days=2)
    young = put(small_cache, f".x.safetensors.{1:016x}.tmp", days=0)
    kept = put(small_cache, f"{0:064x}-bfloat16.safetensors", days=9)
    make_room("encoders")
    assert not old.parent.exists()
    assert not lock.exists()
    assert not leftover.exists()
    assert young.exists()
    assert kept.exists()
    assert "encoders 200 bytes" in told()


LOADER = f"""
import sys, torch
from layerscope.hub.repository import open_repository
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice
print("ready", flush=True)
sys.stdin.readline()
choice = SaeChoice(3, "16k", 59, "{PATH}", None)
sae = load_encoder(open_repository(sys.argv[1]), choice, 64, torch.float32, torch.device("cpu"))
sys.stdout.buffer.write(b"".join(part.numpy().tobytes() for part in (sae.w_enc, sae.b_enc, sae.threshold)))
"""


def test_two_processes_that_load_at_once_make_one_good_file(source: Path, home: Path) -> None:
    """All encoders of a node start together on an empty cache."""
    noise = np.random.default_rng(0).standard_normal((64, 30_000)).astype(np.float32)
    arrays = {"W_enc": noise, "b_enc": noise[0].copy(), "threshold": noise[1].copy()}
    expected = b"".join(array.tobytes() for array in arrays.values())
    np.savez_compressed(source, **arrays)
    with subprocess.Popen(
        [sys.executable, "-c", LOADER, str(source.parents[3])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HF_HUB_CACHE": constants.HF_HUB_CACHE},
    ) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == b"ready\n"
        other.stdin.write(b"\n")
        other.stdin.flush()
        here = load(source, d_model=64)
        there, _ = other.communicate(timeout=60)
    assert other.returncode == 0
    assert b"".join(array.tobytes() for array in here.values()) == there == expected
    assert [path.suffix for path in encoders(home)] == [".safetensors"]
