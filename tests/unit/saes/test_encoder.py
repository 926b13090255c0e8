"""Features are what the formula says, and a params.npz is read exactly or refused: fast, bounded, never unpickled."""

import errno
import io
import os
import struct
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.saes import encoder
from layerscope.saes.encoder import SaeEncoder, TopK, concatenate, encode_layers, encode_top_k
from layerscope.saes.over_tokens import encode_spans
from layerscope.saes.spans import Spans
from layerscope.saes.weights import ENCODER_ARRAYS, SaeFile
from plain import DEVICES

Arrays = dict[str, NDArray[Any]]

# --- encoding ---------------------------------------------------------------------------------------------------------


def reference(x: NDArray[Any], w_enc: NDArray[Any], b_enc: NDArray[Any], threshold: NDArray[Any]) -> NDArray[Any]:
    """JumpReLU as the paper has it: activations [R, F]."""
    pre = x @ w_enc + b_enc
    return np.where(pre > threshold, np.maximum(pre, 0), 0)


def by_row(found: TopK) -> list[list[tuple[int, float]]]:
    features = list(zip(found.feature_ids.tolist(), found.activations.tolist(), strict=True))
    return [features[start:end] for start, end in zip(found.starts[:-1], found.starts[1:], strict=True)]


def strongest(activations: NDArray[Any], k: int | None) -> list[list[tuple[int, float]]]:
    return [
        [
            (int(feature), float(row[feature]))
            for feature in np.argsort(-row, kind="stable")[: np.count_nonzero(row)][:k]
        ]
        for row in activations
    ]


@st.composite
def encodings(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Whole and quarter numbers: every sum is exact in any order and in bfloat16, and ties are common."""
    n_rows, d_model, d_sae = (draw(st.integers(1, size)) for size in (5, 4, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))

    def numbers(*shape: int, parts: int = 1) -> NDArray[Any]:
        return (generator.integers(-3 * parts, 3 * parts + 1, shape) / parts).astype(np.float32)

    x = numbers(n_rows, d_model) * generator.integers(0, 2, (n_rows, 1))  # rows of zeros among them
    return x, numbers(d_model, d_sae), numbers(d_sae, parts=4), numbers(d_sae, parts=4)


ONE = np.ones((1, 1), dtype=np.float32)
CPU = torch.device("cpu")


@given(
    encodings(),
    st.none() | st.integers(1, 14),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(DEVICES),
)
@example((ONE, ONE, ONE[0] - 1, ONE[0]), None, torch.float32, torch.float32, CPU)  # pre == threshold: does not fire
@example((ONE, -ONE, ONE[0], -ONE[0]), None, torch.float32, torch.float32, CPU)  # 0 > threshold: an activation of 0
@example((ONE, -ONE, ONE[0] / 2, -ONE[0]), None, torch.float32, torch.float32, CPU)  # pre < 0: likewise
@settings(deadline=None, max_examples=300)
def test_features_are_those_of_the_formula_strongest_first_and_ties_by_lower_id(
    arrays: tuple[NDArray[Any], ...],
    k: int | None,
    residual_dtype: torch.dtype,
    sae_dtype: torch.dtype,
    device: torch.device,
) -> None:
    x, w_enc, b_enc, threshold = (torch.from_numpy(array).to(device) for array in arrays)
    found = encode_top_k(x.to(residual_dtype), SaeEncoder(w_enc.to(sae_dtype), b_enc, threshold), k)
    expected = reference(*arrays)
    assert by_row(found) == strongest(expected, k)
    assert found.active_counts.tolist() == np.count_nonzero(expected, axis=1).tolist()
    assert [part.dtype for part in found] == [np.int64, np.float32, np.int64, np.int64]


@given(st.lists(encodings(), min_size=1, max_size=3), st.none() | st.integers(1, 14), st.sampled_from([1, 192]))
@settings(deadline=None, max_examples=100)
def test_layers_encoded_together_are_those_encoded_one_by_one(
    layers: list[tuple[NDArray[Any], ...]], k: int | None, room: int
) -> None:
    """On a GPU that is shared; with room for one feature a row most layers do not fit and are encoded again."""
    n_rows, d_model = (min(arrays[0].shape[axis] for arrays in layers) for axis in (0, 1))
    for device in DEVICES:
        saes, rows = [], []
        for arrays in layers:
            x, w_enc, b_enc, threshold = (torch.from_numpy(array).to(device) for array in arrays)
            rows.append(x[:n_rows, :d_model])
            saes.append(SaeEncoder(w_enc[:d_model].contiguous(), b_enc, threshold))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoder, "_FEATURES_OF_A_ROW", room)
            together = encode_layers(torch.stack(rows), saes, k)
        for found, x, sae in zip(together, rows, saes, strict=True):
            alone = encode_top_k(x, sae, k)
            assert by_row(found) == by_row(alone)
            assert found.active_counts.tolist() == alone.active_counts.tolist()
            assert [part.dtype for part in found] == [part.dtype for part in alone]


@given(encodings(), st.none() | st.integers(1, 14), st.integers(1, 6), st.randoms(use_true_random=False), st.data())
@settings(deadline=None, max_examples=200)
def test_over_tokens_each_feature_is_where_it_is_strongest_and_earliest(
    arrays: tuple[NDArray[Any], ...], k: int | None, at_once: int, random: Any, data: st.DataObject
) -> None:
    """However few rows are multiplied at once, and with rows that both, one or neither solution of a pair has.

    So are the activations at every token of a solution's first few features.
    """
    n_rows = len(arrays[0])
    solutions, tokens = np.full((2, n_rows), -1), np.full((2, n_rows), -1)
    of: list[list[int]] = []
    for pair, rows in enumerate(np.split(np.arange(n_rows), [random.randint(0, n_rows)])):
        for side in (0, 1):
            mine = [int(row) for row in rows if random.random() < 0.7]
            random.shuffle(mine)  # a row's number says nothing of its token's place
            solutions[side, mine], tokens[side, mine] = 2 * pair + side, np.arange(len(mine))
            of.append(mine)
    single = np.array(sorted(data.draw(st.sets(st.sampled_from(range(n_rows))))), dtype=np.int64)
    expected, kept = reference(*arrays), data.draw(st.integers(0, 4))
    for device in DEVICES:
        x, *weights = (torch.from_numpy(array).to(device) for array in arrays)
        spans = Spans(single, solutions, tokens, len(of))
        rows_alone, found = encode_spans(x, SaeEncoder(*weights), k, spans, at_once, kept)
        assert by_row(rows_alone) == strongest(expected[single], k)
        over = np.stack([expected[rows].max(axis=0, initial=0) for rows in of])
        assert by_row(TopK(*found[:4])) == strongest(over, k)
        assert found.active_counts.tolist() == np.count_nonzero(over, axis=1).tolist()
        for solution, start, end in zip(range(len(of)), found.starts, found.starts[1:], strict=False):
            for place in range(start, end):
                column = expected[of[solution], found.feature_ids[place]]
                assert found.tokens[place] == column.argmax()  # the first of equal ones
                assert found.token_counts[place] == np.count_nonzero(column)
                by_token = found.by_token[found.by_token_starts[place] : found.by_token_starts[place + 1]]
                assert by_token.tolist() == (column.tolist() if place - start < kept else [])


def test_an_activation_that_is_no_number_is_a_solution_s_strongest() -> None:
    sae = SaeEncoder(torch.full((2, 3), 10.0), torch.zeros(3), torch.zeros(3))
    rows = torch.tensor([[1.0, 1.0], [3e38, -3e38], [2.0, 2.0]])  # inf - inf in the second
    spans = Spans(np.array([0]), np.array([[0, 0, 0], [-1, -1, -1]]), np.array([[0, 1, 2], [-1, -1, -1]]), 2)
    _, found = encode_spans(rows, sae, 2, spans)
    assert not np.isfinite(found.activations).any()
    assert found.tokens.tolist() == [1, 1]


def random_sae(d_model: int, d_sae: int) -> tuple[SaeEncoder, torch.Tensor]:
    """An SAE of which about one feature in ten fires, and rows to encode."""
    generator = torch.Generator().manual_seed(0)
    w_enc = torch.randn(d_model, d_sae, generator=generator) * d_model**-0.5
    b_enc = torch.randn(d_sae, generator=generator) * 0.1
    return SaeEncoder(w_enc, b_enc, torch.full((d_sae,), 1.3)), torch.randn(20, d_model, generator=generator)


def test_a_bfloat16_sae_is_close_to_the_float32_one() -> None:
    sae, x = random_sae(64, 512)
    half = SaeEncoder(sae.w_enc.bfloat16(), sae.b_enc, sae.threshold)
    tolerance = 4 * 2**-8 * float((x.abs() @ sae.w_enc.abs()).max()) / 8  # roundings are independent: sqrt(64) = 8
    n_features = 0
    for exact, close in zip(by_row(encode_top_k(x, sae, None)), by_row(encode_top_k(x, half, None)), strict=True):
        one, other = dict(exact), dict(close)
        n_features += len(one)
        assert all(abs(one[feature] - other[feature]) < tolerance for feature in one.keys() & other.keys())
        apart = [{**one, **other}[feature] for feature in one.keys() ^ other.keys()]
        assert all(activation < 1.3 + tolerance for activation in apart)  # only at the threshold do they differ
    assert n_features > 500


def test_rows_beyond_a_chunk_keep_their_own_features() -> None:
    """A wide SAE is taken in chunks of rows; the second chunk's features would be counted to the first's rows."""
    d_sae = 1 << 20  # 64 rows make a chunk
    ids = [0, 17, 4000, d_sae - 1]
    sae = SaeEncoder(torch.zeros(1, d_sae), torch.zeros(d_sae), torch.zeros(d_sae))
    sae.w_enc[0, ids] = torch.tensor([1.0, 2.0, 1.0, -1.0])
    found = encode_top_k(torch.arange(-1.0, 69.0)[:, None], sae, 2)
    minus_one, zero, *others = by_row(found)
    assert (minus_one, zero) == ([(d_sae - 1, 1.0)], [])
    assert others == [[(17, 2.0 * x), (0, float(x))] for x in range(1, 69)]
    assert found.active_counts.tolist() == [1, 0, *[3] * 68]


def test_no_rows_have_no_features() -> None:
    sae, x = random_sae(4, 8)
    found = encode_top_k(x[:0], sae, 5)
    assert (by_row(found), found.active_counts.tolist(), found.starts.tolist()) == ([], [], [0])


@given(encodings(), st.lists(st.integers(0, 5), max_size=3).map(sorted))
@settings(deadline=None)
def test_rows_encoded_in_parts_are_the_same_as_at_once(arrays: tuple[NDArray[Any], ...], borders: list[int]) -> None:
    """A batch that does not fit the memory is encoded in parts."""
    x, *weights = map(torch.from_numpy, arrays)
    sae = SaeEncoder(*weights)
    parts = [encode_top_k(part, sae, 3) for part in torch.tensor_split(x, borders) if len(part)]
    joined, at_once = concatenate(parts), encode_top_k(x, sae, 3)
    assert all(np.array_equal(one, other) for one, other in zip(joined, at_once, strict=True))


def test_an_activation_that_is_no_number_is_handed_on_and_not_passed_over() -> None:
    """NaN is above no threshold; the record would lack the feature instead of telling of it."""
    sae = SaeEncoder(torch.full((2, 3), 10.0), torch.zeros(3), torch.zeros(3))
    found = encode_top_k(torch.tensor([[3e38, -3e38]]), sae, None)  # inf - inf
    assert not np.isfinite(found.activations).all()


# --- params.npz -------------------------------------------------------------------------------------------------------

D_MODEL, D_SAE = 4, 6
NAME = "layer_3/width_16k/average_l0_59/params.npz of some/repository"
WHOLE: Arrays = {
    "W_enc": np.arange(-12, 12, dtype=np.float32).reshape(D_MODEL, D_SAE),
    "W_dec": np.ones((D_SAE, D_MODEL), dtype=np.float32),
    "b_enc": np.linspace(-1, 1, D_SAE, dtype=np.float32),
    "b_dec": np.zeros(D_MODEL, dtype=np.float32),
    "threshold": np.linspace(0, 1, D_SAE, dtype=np.float32),
}


def npz(changes: Mapping[str, NDArray[Any] | None] | None = None, save: Callable[..., None] = np.savez) -> bytes:
    """The file with some arrays other than they should be, or absent."""
    stream = io.BytesIO()
    arrays = {**WHOLE, **(changes or {})}
    save(stream, **{name: array for name, array in arrays.items() if array is not None})
    return stream.getvalue()


def npy(array: NDArray[Any], shape: tuple[int, ...] | None = None, version: tuple[int, int] = (1, 0)) -> bytes:
    """An array's bytes, under a header that may claim another shape."""
    stream = io.BytesIO()
    if version == (1, 0):
        header = {"descr": "<f4", "fortran_order": False, "shape": shape or array.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        return stream.getvalue() + array.tobytes()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def zipped(changes: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED, folder: str = "") -> bytes:
    """The file with other bytes as some of its members."""
    members = {**{f"{name}.npy": npy(array) for name, array in WHOLE.items()}, **changes}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(folder + name, content)
    return stream.getvalue()


def listed(data: bytes, member: str, offset: int, field: bytes) -> bytes:
    """The archive with a field of the member's entry in the central directory changed."""
    name = data.rindex(member.encode())
    entry = data.rindex(b"PK\x01\x02", 0, name) + offset
    return data[:entry] + field + data[entry + len(field) :]


FLAGS, METHOD, UNPACKED_SIZE = 8, 10, 24  # offsets in an entry of the central directory


def twice(member: str) -> bytes:
    """The archive with one member twice; the second holds other numbers."""
    stream = io.BytesIO(npz())
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a") as archive:
        warnings.simplefilter("ignore")  # zipfile's, of the very thing
        archive.writestr(member, npy(WHOLE[member.removesuffix(".npy")] + 1))
    return stream.getvalue()


def claims_gigabytes() -> bytes:
    """Headers and directory entries that agree with one another on 2**28 - 16 features, of which nothing is there."""
    shapes = {"W_enc": (D_MODEL, 2**28 - 16), "b_enc": (2**28 - 16,), "threshold": (2**28 - 16,)}
    headers = {f"{name}.npy": npy(WHOLE[name][:0], shape) for name, shape in shapes.items()}
    data = zipped(headers)
    for (member, header), shape in zip(headers.items(), shapes.values(), strict=True):
        size = len(header) + 4 * int(np.prod(shape))
        data = listed(data, member, UNPACKED_SIZE, struct.pack("<I", size))
    return data


def inflates_without_end() -> bytes:
    """64 MiB that are packed into 64 KiB and listed as the 24 numbers that the header claims."""
    content = npy(WHOLE["W_enc"])
    bomb = zipped({"W_enc.npy": content + bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    return listed(bomb, "W_enc.npy", UNPACKED_SIZE, struct.pack("<I", len(content)))


def changed(name: str, value: float) -> dict[str, NDArray[Any]]:
    array = WHOLE[name].copy()
    array.flat[-1] = value
    return {name: array}


def read(data: bytes) -> Arrays:
    return dict(SaeFile(NAME, D_MODEL).encoder(io.BytesIO(data)))


def is_right(arrays: Mapping[str, NDArray[Any]]) -> bool:
    return list(arrays) == list(ENCODER_ARRAYS) and all(
        array.dtype == np.float32 and array.flags.c_contiguous and np.array_equal(array, WHOLE[name])
        for name, array in arrays.items()
    )


@pytest.mark.parametrize(
    "data",
    [
        npz(),
        npz(save=np.savez_compressed),
        npz({"W_dec": None}),
        zipped({"W_enc.npy": npy(WHOLE["W_enc"], None, (2, 0))}),
        npz({name: np.asfortranarray(array) for name, array in WHOLE.items()}),
        npz({name: array.astype(">f4") for name, array in WHOLE.items()}),
        npz({name: array.astype(np.float64) for name, array in WHOLE.items()}),
        npz({"W_enc": np.asfortranarray(WHOLE["W_enc"].astype(">f8"))}, np.savez_compressed),
        npz({"threshold": WHOLE["threshold"][None], "b_enc": WHOLE["b_enc"][:, None, None]}),
        npz({"W_enc": np.asfortranarray(WHOLE["W_enc"][None, :, None])}),
        npz({"scale": np.ones(3, dtype=np.int8), "notes": np.array(["made by hand"], dtype=object)}),
    ],
    ids=[
        "stored",
        "compressed",
        "encoder half",
        "npy version 2",
        "Fortran order",
        "big end first",
        "float64",
        "big float64 in Fortran order, compressed",
        "one dimension too many",
        "two too many, in Fortran order",
        "extra arrays, one of them a pickle",
    ],
)
def test_the_encoder_half_is_read_as_it_was_saved(data: bytes) -> None:
    assert is_right(read(data))
    shapes = {"W_enc": (D_MODEL, D_SAE), "b_enc": (D_SAE,), "threshold": (D_SAE,)}
    assert SaeFile(NAME, D_MODEL).shapes(io.BytesIO(data)) == shapes


def test_half_precision_is_read_as_the_numbers_it_holds() -> None:
    halves = {name: array.astype(np.float16) for name, array in WHOLE.items()}
    for name, array in read(npz(halves)).items():
        assert array.dtype == np.float32
        assert np.array_equal(array, halves[name].astype(np.float32))


def test_what_does_not_fit_is_not_told_as_broken() -> None:
    """Nothing helps against a file of another maker that somebody is told to download again."""
    for changes in (
        {"W_enc": WHOLE["W_enc"].T.copy()},
        {"b_enc": np.ones(5, dtype=np.float32)},
        {"b_enc": np.ones(6, int)},
    ):
        with pytest.raises(LayerscopeError, match=NAME) as caught:
            read(npz(changes))
        assert "broken" not in str(caught.value)
    with pytest.raises(LayerscopeError, match="the other way round"):
        read(npz({"W_enc": np.zeros((D_SAE, D_MODEL), dtype=np.float32)}))


W, B = WHOLE["W_enc"], WHOLE["b_enc"]
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", "no npz archive"),
    "not a zip": (lambda: b"<html>Not found</html>", "no npz archive"),
    "git lfs pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "no npz archive",
    ),
    "no threshold": (lambda: npz({"threshold": None}), "has no threshold: not a JumpReLU SAE"),
    "nothing of an encoder": (lambda: npz(dict.fromkeys(ENCODER_ARRAYS)), "has no W_enc and no b_enc and no threshold"),
    "nested names": (lambda: zipped({}, folder="sae/"), "has no W_enc and no b_enc and no threshold"),
    "another d_model": (lambda: npz({"W_enc": np.ones((5, D_SAE), dtype=np.float32)}), "vectors of 5 numbers"),
    "transposed": (lambda: npz({"W_enc": np.ascontiguousarray(W.T)}), "vectors of 6 numbers"),
    "b_enc too long": (lambda: npz({"b_enc": np.ones(D_SAE + 1, dtype=np.float32)}), "b_enc [7]"),
    "threshold in two dimensions": (lambda: npz({"threshold": np.stack([B, B])}), "threshold [2, 6]"),
    "one number as threshold": (lambda: npz({"threshold": B[0]}), "threshold []"),
    "W_enc in one dimension": (lambda: npz({"W_enc": B}), "W_enc [6]"),
    "W_enc in three dimensions": (lambda: npz({"W_enc": np.stack([W, W])}), "W_enc [2, 4, 6]"),
    "W_enc without dimensions": (lambda: npz({"W_enc": B[0]}), "W_enc []"),
    "no features": (
        lambda: npz({"W_enc": W[:, :0], "b_enc": B[:0], "threshold": B[:0]}),
        "the shapes W_enc [4, 0], b_enc [0], threshold [0]",
    ),
    "whole numbers": (lambda: npz({"threshold": B.astype(np.int32)}), "stores threshold as int32; expected is float32"),
    "bfloat16": (lambda: npz({"W_enc": W.astype(np.float16).view("V2")}), "stores W_enc as |V2; expected is float32"),
    "complex numbers": (lambda: npz({"b_enc": B.astype(np.complex64)}), "stores b_enc as complex64"),
    "objects": (lambda: npz({"b_enc": B.astype(object)}), "stores b_enc as object"),
    "too large for float32": (lambda: npz(changed("b_enc", 1) | {"b_enc": B * np.float64(1e300)}), "infinity"),
    "W_enc twice": (lambda: twice("W_enc.npy"), "holds W_enc twice"),
    "threshold under two names": (lambda: zipped({"threshold": npy(WHOLE["threshold"])}), "holds threshold twice"),
    "npy version 3": (lambda: zipped({"b_enc.npy": npy(B, None, (3, 0))}), "b_enc: npy format version (3, 0)"),
    "no npy": (lambda: zipped({"b_enc.npy": b"[0, 0, 0]"}), "b_enc"),
    "NaN in W_enc": (lambda: npz(changed("W_enc", np.nan)), "W_enc holds NaN or infinity"),
    "infinity in b_enc": (lambda: npz(changed("b_enc", np.inf)), "b_enc holds NaN or infinity"),
    "NaN in threshold": (lambda: npz(changed("threshold", np.nan)), "threshold holds NaN or infinity"),
    "2**40 rows": (lambda: zipped({"W_enc.npy": npy(W, (2**40, D_SAE))}), "do not hold the shape"),
    "2**40 features": (lambda: zipped({"W_enc.npy": npy(W, (D_MODEL, 2**40))}), "do not hold the shape"),
    "negative sizes": (lambda: zipped({"W_enc.npy": npy(W, (-D_MODEL, -D_SAE))}), "vectors of -4 numbers"),
    "2**28 features, listed too": (claims_gigabytes, "cannot unpack to 4294967168"),
    "bomb": (inflates_without_end, "W_enc"),
    "bytes behind the array": (lambda: zipped({"b_enc.npy": npy(B) + b"\x00"}), "do not hold the shape"),
    "encrypted": (lambda: listed(npz(), "W_enc.npy", FLAGS, b"\x01\x00"), "W_enc"),
    "unknown compression": (lambda: listed(npz(), "W_enc.npy", METHOD, b"\x63\x00"), "W_enc"),
}


@pytest.mark.parametrize(("make", "told"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_name_at_once_and_in_little_memory(make: Callable[[], bytes], told: str) -> None:
    data = make()
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(LayerscopeError) as caught:
            read(data)
        seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert NAME in str(caught.value)
    assert told in str(caught.value)
    assert seconds < 1
    assert peak < 4 << 20


class Payload:
    """What creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """Unpickling runs whatever code the file's author wrote."""
    trace = tmp_path / "was_here"
    objects = np.array([[Payload(trace)]], dtype=object)
    armed = npz({"W_enc": objects})
    np.load(io.BytesIO(armed), allow_pickle=True)["W_enc"]
    assert trace.exists()  # it does go off
    trace.unlink()
    with pytest.raises(LayerscopeError, match="stores W_enc as object"):
        read(armed)
    assert is_right(read(npz({"W_dec": objects})))  # not the encoder's, so not even looked at
    assert not trace.exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_short_anywhere_is_refused(save: Callable[..., None]) -> None:
    """A download that broke off."""
    data = npz(save=save)
    for size in range(len(data)):
        with pytest.raises(LayerscopeError) as caught:
            read(data[:size])
        assert NAME in str(caught.value)


def right_or_refused(data: bytes) -> bool:
    try:
        return is_right(read(data))
    except LayerscopeError as error:
        return NAME in str(error)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_byte_anywhere_is_refused_or_changes_nothing(save: Callable[..., None]) -> None:
    data = npz(save=save)
    for index in range(len(data)):
        assert right_or_refused(data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :]), index


STORED, PACKED = npz(), npz(save=np.savez_compressed)


@given(
    st.sampled_from([STORED, PACKED]),
    st.lists(st.tuples(st.integers(0, len(STORED)), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=500)
def test_whatever_becomes_of_its_bytes_the_arrays_are_right_or_refused(
    data: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    """Some bytes replaced, removed or put in between: never other numbers, never another exception."""
    for start, removed, put in edits:
        data = data[:start] + put + data[start + removed :]
    assert right_or_refused(data)


class Counted(io.BytesIO):
    """A stream that counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.taken += len(content)
        return content


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_shapes_are_read_from_a_few_kilobytes(save: Callable[..., None]) -> None:
    """A plan looks at the shapes on the hub, where the file has hundreds of megabytes."""
    noise = np.random.default_rng(0).standard_normal((64, 20_000)).astype(np.float32)
    stream = Counted(npz({"W_enc": noise, "b_enc": noise[0], "threshold": noise[1]}, save))
    assert SaeFile(NAME, 64).shapes(stream)["W_enc"] == (64, 20_000)
    assert stream.taken < 64 << 10


class Failing(io.BytesIO):
    """A stream whose disk or connection fails once the archive's directory is read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() < len(STORED) // 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("reader", [SaeFile.encoder, SaeFile.shapes])
def test_a_fault_of_the_disk_or_the_connection_is_not_told_as_a_broken_file(reader: Callable[..., object]) -> None:
    """`Get the file again` would be 151 MB of wrong advice; whoever owns the stream knows what to say."""
    with pytest.raises(OSError, match="Input/output error"):
        reader(SaeFile(NAME, D_MODEL), Failing(STORED))
