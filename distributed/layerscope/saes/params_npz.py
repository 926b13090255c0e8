"""The encoder's arrays in an SAE's `params.npz`: names, shapes and bytes, read with bounds and never unpickled.

No torch: the driver checks shapes with it before anything is started.
"""

import errno
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError

ENCODER_ARRAYS = ("W_enc", "b_enc", "threshold")
_DEFLATE_RATIO = 1032  # no deflated data unpacks to more
MAX_D_SAE = 1 << 21  # twice the widest SAE there is: a header that claims more is broken, not wide


def read_encoder(stream: IO[bytes], d_model: int, name: str) -> dict[str, NDArray[np.float32]]:
    """The encoder's arrays of a `params.npz`: W_enc [D, F], b_enc [F], threshold [F], float32.

    Reads only these, never pickles, and no more than the shapes allow.

    Raises:
        LayerscopeError: what is wrong with the file.
    """
    with _open_zip(stream, name) as archive:
        shapes = check_shapes(_headers(archive, name), d_model, name)
        arrays = {key: _read_array(archive, key, shapes[key], name) for key in ENCODER_ARRAYS}
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise LayerscopeError(f"{name} is broken: {key} holds NaN or infinity. Get the file again.")
    return arrays


def read_shapes(stream: IO[bytes], d_model: int, name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the encoder's arrays, from the headers alone: a few kilobytes of a file of hundreds of megabytes.

    Raises:
        LayerscopeError: the file is broken, or not an SAE of a model with this d_model.
    """
    with _open_zip(stream, name) as archive:
        return check_shapes(_headers(archive, name), d_model, name)


def check_shapes(headers: Mapping[str, tuple[int, ...]], d_model: int, name: str) -> dict[str, tuple[int, ...]]:
    """The encoder's shapes, if they fit one another and the model."""
    missing = [key for key in ENCODER_ARRAYS if key not in headers]
    if missing:
        raise LayerscopeError(
            f"{name} has no {' and no '.join(missing)}: not a JumpReLU SAE as Gemma Scope stores it. "
            f"It holds {', '.join(sorted(headers)) or 'nothing'}."
        )
    w_enc = headers["W_enc"]
    if len(w_enc) == 2 and w_enc[0] != d_model:
        raise LayerscopeError(
            f"{name} encodes vectors of {w_enc[0]} numbers; the model's residual stream has {d_model} (d_model).\n"
            "Take the SAEs that were trained on this model: --model and --sae-repo must belong together."
        )
    expected = {"W_enc": (d_model, w_enc[-1]), "b_enc": (w_enc[-1],), "threshold": (w_enc[-1],)} if w_enc else {}
    shapes = {key: headers[key] for key in ENCODER_ARRAYS}
    if shapes != expected or not 1 <= w_enc[-1] <= MAX_D_SAE:
        told = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise LayerscopeError(f"{name} is broken: the shapes {told} do not make an encoder. Get the file again.")
    return shapes


def _open_zip(stream: IO[bytes], name: str) -> zipfile.ZipFile:
    with _broken(name, "it is cut short or no npz archive"):
        return zipfile.ZipFile(stream)


def _headers(archive: zipfile.ZipFile, name: str) -> dict[str, tuple[int, ...]]:
    """Shape of every float32 array that the encoder needs, after checking that the archive's sizes agree with it."""
    shapes = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key not in ENCODER_ARRAYS:
            continue
        with _broken(name, key), archive.open(info) as member:
            shape, fortran_order, dtype = _read_header(member)
            if dtype != np.dtype("<f4") or fortran_order:
                raise ValueError(f"it is {dtype}{' in Fortran order' if fortran_order else ''}, not plain float32")
            data_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if info.file_size > _DEFLATE_RATIO * info.compress_size:
                raise ValueError(f"{info.compress_size} bytes cannot unpack to {info.file_size}")
            if info.file_size != member.tell() + data_bytes:
                raise ValueError(f"{info.file_size} bytes do not hold the shape {list(shape)}")
        shapes[key] = shape
    return shapes


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    raise ValueError(f"npy format version {version}")


def _read_array(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    array = np.empty(shape, dtype=np.float32)
    view = array.data.cast("B")
    with _broken(name, key), archive.open(f"{key}.npy") as member:
        _read_header(member)
        filled = 0
        while filled < len(view):
            count = member.readinto(view[filled : filled + (1 << 24)])  # type: ignore[attr-defined]
            if not count:
                raise ValueError("the data ends early")
            filled += count
        if member.read(1):  # reaches the end, where zipfile checks the CRC
            raise ValueError("there is more data than the shape says")
    return array


@contextmanager
def _broken(name: str, what: str) -> Iterator[None]:
    """Turns whatever reading a damaged archive raises into a known error that names the file and the array."""
    try:
        yield
    except Exception as error:  # zlib.error is a plain Exception; odd or encrypted members raise others
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a damaged offset seeks before the start
            raise  # a fault of the disk or the line, which says nothing about the file
        raise LayerscopeError(f"{name} is broken: {what}: {str(error)[:200]}. Get the file again.") from error
