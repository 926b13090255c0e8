"""Arrays of an SAE's `params.npz`: names, shapes and bytes, read with bounds and never unpickled; no torch."""

import errno
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.saes.stored import Stored, named

_FLOAT_BYTES = (2, 4, 8)
_DEFLATE_RATIO = 1032  # no deflated data unpacks to more


class _Header(NamedTuple):
    """What an array's header says."""

    member: str
    """The array's name in the archive."""
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[np.generic]


@contextmanager
def opened(stream: IO[bytes], name: str, wanted: Collection[str]) -> Iterator[Stored]:
    """The arrays of an archive that are wanted.

    Reads only these, never pickles, and no more than their shapes allow. Arrays in Fortran order, of any end first, as
    float16 or float64 are read as what they mean.

    Raises:
        LayerscopeError: what is wrong with the file.
    """
    with _open_zip(stream, name) as archive:
        headers = _headers(archive, name, wanted)
        yield Stored(
            {key: header.shape for key, header in headers.items()},
            lambda key: _read_array(archive, headers[key], name),
        )


def _open_zip(stream: IO[bytes], name: str) -> zipfile.ZipFile:
    with _broken(name, "it is cut short or no npz archive"):
        return zipfile.ZipFile(stream)


def _headers(archive: zipfile.ZipFile, name: str, wanted: Collection[str]) -> dict[str, _Header]:
    """The header of every array that is wanted, after checking that the archive's sizes agree with it."""
    headers: dict[str, _Header] = {}
    keys = named([info.filename.removesuffix(".npy") for info in archive.infolist()], wanted, name)
    ours = {stored_as: key for key, stored_as in keys.items()}
    for info in archive.infolist():
        key = ours.get(info.filename.removesuffix(".npy"))
        if key is None:
            continue
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
        headers[key] = _Header(info.filename, shape, fortran_order, dtype)
    return headers


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    raise ValueError(f"npy format version {version}")


def _read_array(archive: zipfile.ZipFile, header: _Header, name: str) -> NDArray[np.float32]:
    """An array as float32 in C order; what is stored so is not copied."""
    array = np.empty(header.shape[::-1] if header.fortran_order else header.shape, dtype=header.dtype)
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
