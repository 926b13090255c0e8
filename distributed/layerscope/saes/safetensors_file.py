"""Arrays of a safetensors file: names, shapes and bytes, read with bounds and without torch."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.saes.stored import Stored, named
from layerscope.strict_json import RepeatedKeyError, parse_object

_MAX_HEADER_BYTES = 1 << 24
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_METADATA = "__metadata__"
_READ_AT_ONCE = 1 << 24


class _Tensor(NamedTuple):
    """What the header says of one."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Of its bytes, in the file."""
    end: int


@contextmanager
def opened(stream: IO[bytes], name: str, wanted: Collection[str]) -> Iterator[Stored]:
    """The arrays of a file that are wanted; float64, float16 and bfloat16 are read as what they mean.

    Raises:
        LayerscopeError: what is wrong with the file.
    """
    tensors = _read_header(stream, name)
    keys = named(tensors, wanted, name)
    for key, stored_as in keys.items():
        if tensors[stored_as].dtype not in _FLOATS:
            raise LayerscopeError(
                f"{name} stores {key} as {tensors[stored_as].dtype[:20]}; expected is F32 (F64, F16 and BF16 are read "
                "too).\nSave the array as float32."
            )
    yield Stored(
        {key: tensors[stored_as].shape for key, stored_as in keys.items()},
        lambda key: _read_tensor(stream, tensors[keys[key]], key, name),
    )


def _read_header(stream: IO[bytes], name: str) -> dict[str, _Tensor]:
    """The tensors of a file by their names, those of no float dtype too."""
    size = int.from_bytes(stream.read(8), "little")
    if not 2 <= size <= _MAX_HEADER_BYTES:
        raise _broken(name, f"its header is said to have {size} bytes")
    try:
        header: Any = parse_object(stream.read(size))
        return {key: _tensor(told, 8 + size) for key, told in header.items() if key != _METADATA}
    except RepeatedKeyError as error:
        raise LayerscopeError(
            f"{name}: {error}, and nobody can say which one counts. Save it with each array once."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(name, f"its header tells of no tensors ({str(error)[:100]})") from error


def _tensor(told: Mapping[str, Any], data: int) -> _Tensor:
    shape, (start, end) = told["shape"], told["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)) or end < start:
        raise ValueError(f"the numbers {shape}, {start} and {end}")
    return _Tensor(str(told["dtype"]), tuple(shape), data + start, data + end)


def _read_tensor(stream: IO[bytes], tensor: _Tensor, key: str, name: str) -> NDArray[np.float32]:
    dtype = np.dtype(_FLOATS[tensor.dtype])
    if tensor.end - tensor.start != dtype.itemsize * int(np.prod(tensor.shape, dtype=object)):
        raise _broken(name, f"{tensor.end - tensor.start} bytes do not hold {key} {list(tensor.shape)}")
    if tensor.end > stream.seek(0, 2):
        raise _broken(name, f"it ends before {key} does")
    stream.seek(tensor.start)
    stored = np.empty(tensor.shape, dtype)
    view, filled = stored.reshape(-1).view(np.uint8).data, 0
    while filled < len(view):
        count = stream.readinto(view[filled : filled + _READ_AT_ONCE])  # type: ignore[attr-defined]
        if not count:
            raise _broken(name, f"it ends before {key} does")
        filled += count
    if tensor.dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        return np.ascontiguousarray(stored, dtype=np.float32)


def _broken(name: str, what: str) -> LayerscopeError:
    return LayerscopeError(f"{name} is broken: {what}. Get the file again.")
