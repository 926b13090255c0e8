"""The encoder's arrays in an SAE's `params.npz`: names, shapes and bytes, read with bounds and never unpickled.

No torch: the driver checks shapes with it before anything is started.
"""

import errno
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError

ENCODER_ARRAYS = ("W_enc", "b_enc", "threshold")
_DIMENSIONS = {"W_enc": 2, "b_enc": 1, "threshold": 1}
_FLOAT_BYTES = (2, 4, 8)
_DEFLATE_RATIO = 1032  # no deflated data unpacks to more
MAX_D_SAE = 1 << 21  # twice the widest SAE there is: a header that claims more is broken, not wide


class _Header(NamedTuple):
    """What an array's header says."""

    member: str
    """The array's name in the archive."""
    stored: tuple[int, ...]
    """Its shape in the file."""
    fortran_order: bool
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    """That shape without dimensions of size 1 beyond those that the array has by right."""


def read_encoder(stream: IO[bytes], d_model: int, name: str) -> dict[str, NDArray[np.float32]]:
    """The encoder's arrays of a `params.npz`: W_enc [D, F], b_enc [F], threshold [F], float32.

    Reads only these, never pickles, and no more than the shapes allow. Arrays in Fortran order, of any end first, as
    float16 or float64, or with further dimensions of size 1 are read as what they mean.

    Raises:
        LayerscopeError: what is wrong with the file.
    """
    with _open_zip(stream, name) as archive:
        headers = _headers(archive, name)
        shapes = check_shapes({key: header.shape for key, header in headers.items()}, d_model, name)
        arrays = {key: _read_array(archive, headers[key], name).reshape(shapes[key]) for key in ENCODER_ARRAYS}
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise LayerscopeError(f"{name} is broken: {key} holds NaN or infinity (as float32). Get the file again.")
    return arrays


def read_shapes(stream: IO[bytes], d_model: int, name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the encoder's arrays, from the headers alone: a few kilobytes of a file of hundreds of megabytes.

    Raises:
        LayerscopeError: the file is broken, or not an SAE of a model with this d_model.
    """
    with _open_zip(stream, name) as archive:
        return check_shapes({key: header.shape for key, header in _headers(archive, name).items()}, d_model, name)


def check_shapes(headers: Mapping[str, tuple[int, ...]], d_model: int, name: str) -> dict[str, tuple[int, ...]]:
    """The encoder's shapes, if they fit one another and the model."""
    missing = [key for key in ENCODER_ARRAYS if key not in headers]
    if missing:
        raise LayerscopeError(
            f"{name} has no {' and no '.join(missing)}: not a JumpReLU SAE as Gemma Scope stores it. "
            f"It holds {', '.join(sorted(headers)) or 'nothing of one'}."
        )
    w_enc = headers["W_enc"]
    if len(w_enc) == 2 and w_enc[0] != d_model:
        turned = " It may be stored the other way round: W_enc is [d_model, d_sae]." if w_enc[1] == d_model else ""
        raise LayerscopeError(
            f"{name} encodes vectors of {w_enc[0]} numbers; the model's residual stream has {d_model} (d_model).\n"
            f"Take the SAEs that were trained on this model: --model and --sae-repo must belong together.{turned}"
        )
    expected = {"W_enc": (d_model, w_enc[-1]), "b_enc": (w_enc[-1],), "threshold": (w_enc[-1],)} if w_enc else {}
    shapes = {key: headers[key] for key in ENCODER_ARRAYS}
    if shapes != expected or not 1 <= w_enc[-1] <= MAX_D_SAE:
        told = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise LayerscopeError(
            f"{name} has the shapes {told}, which do not make an encoder.\n"
            f"Expected are W_enc [{d_model}, F], b_enc [F] and threshold [F], F from 1 to {MAX_D_SAE}."
        )
    return shapes


def _open_zip(stream: IO[bytes], name: str) -> zipfile.ZipFile:
    with _broken(name, "it is cut short or no npz archive"):
        return zipfile.ZipFile(stream)


def _headers(archive: zipfile.ZipFile, name: str) -> dict[str, _Header]:
    """The header of every array that the encoder needs, after checking that the archive's sizes agree with it."""
    headers: dict[str, _Header] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key not in ENCODER_ARRAYS:
            continue
        if key in headers:
            raise LayerscopeError(
                f"{name} holds {key} twice, and nobody can say which one counts. Save it with each array once."
            )
        with _broken(name, key), archive.open(info) as member:
            shape, fortran_order, dtype = _read_header(member)
            data_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if info.file_size > _DEFLATE_RATIO * info.compress_size:
                raise ValueError(f"{info.compress_size} bytes cannot unpack to {info.file_size}")
            if not dtype.hasobject and info.file_size != member.tell() + data_bytes:
                raise ValueError(f"{info.file_size} bytes do not hold the shape {list(shape)}")
        if dtype.kind != "f" or dtype.itemsize not in _FLOAT_BYTES:
            raise LayerscopeError(
                f"{name} stores {key} as {dtype.str if dtype.kind == 'V' else dtype}; expected is float32 "
                "(float16 and float64 are read too).\nSave the array as float32."
            )
        wanted = _DIMENSIONS[key]
        headers[key] = _Header(info.filename, shape, fortran_order, dtype, _without_ones(shape, wanted))
    return headers


def _without_ones(shape: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """A shape of more dimensions than are wanted without as many of those of size 1, which hold nothing."""
    sizes = list(shape)
    while len(sizes) > wanted and 1 in sizes:
        sizes.remove(1)
    return tuple(sizes)


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    raise ValueError(f"npy format version {version}")


def _read_array(archive: zipfile.ZipFile, header: _Header, name: str) -> NDArray[np.float32]:
    """An array as float32 in C order; what is stored so is not copied."""
    array = np.empty(header.stored[::-1] if header.fortran_order else header.stored, dtype=header.dtype)
    view = array.reshape(-1).view(np.uint8).data
    with _broken(name, header.member.removesuffix(".npy")), archive.open(header.member) as member:
        _read_header(member)
        filled = 0
        while filled < len(view):
            count = member.readinto(view[filled : filled + (1 << 24)])  # type: ignore[attr-defined]
            if not count:
                raise ValueError("the data ends early")
            filled += count
        if member.read(1):  # reaches the end, where zipfile checks the CRC
            raise ValueError("there is more data than the shape says")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        return np.ascontiguousarray(array.T if header.fortran_order else array, dtype=np.float32)


@contextmanager
def _broken(name: str, what: str) -> Iterator[None]:
    """Turns whatever reading a damaged archive raises into a known error that names the file and the array."""
    try:
        yield
    except Exception as error:  # zlib.error is a plain Exception; odd or encrypted members raise others
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a damaged offset seeks before the start
            raise  # a fault of the disk or the line, which says nothing about the file
        raise LayerscopeError(f"{name} is broken: {what}: {str(error)[:200]}. Get the file again.") from error
