"""The weights of an SAE from its file: which arrays it has, whether they fit, and the encoder that they come to.

Every architecture comes to one form, `pre = (x W_enc) s(x) + b_enc` with a threshold for each feature: what belongs to
a decoder's bias or norms, to gates or to a mean is put into these three arrays when the file is read. No torch: the
driver checks shapes with it before anything is started.

Shapes: D width of the rows that are encoded, F d_sae, O width of what is decoded to.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.config import Site
from layerscope.errors import LayerscopeError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.saes import params_npz, safetensors_file
from layerscope.saes.choice import GEMMA_SCOPE, Recipe, SaeChoice, Scaling
from layerscope.saes.stored import Stored

Arrays = dict[str, NDArray[np.float32]]
Opened = Callable[[IO[bytes], str, frozenset[str]], AbstractContextManager[Stored]]

ENCODER_ARRAYS = ("W_enc", "b_enc", "threshold")
"""What every encoder comes to: [D, F], [F], [F] float32."""
MAX_D_SAE = 1 << 21  # twice the widest SAE there is: a header that claims more is broken, not wide
_FORMATS: dict[str, Opened] = {".npz": params_npz.opened, ".safetensors": safetensors_file.opened}
_OWN_ARRAYS = {
    "jumprelu": ENCODER_ARRAYS,
    "relu": ("W_enc", "b_enc"),
    "topk": ("W_enc", "b_enc"),
    "gated": ("W_enc", "b_gate", "r_mag", "b_mag"),
}
_TOLD = {
    "jumprelu": "a JumpReLU SAE as Gemma Scope stores it",
    "relu": "a standard SAE",
    "topk": "a top-k SAE",
    "gated": "a gated SAE",
}
_FACTORS = ("scaling_factor", "finetuning_scaling_factor")
"""What some files hold besides; nobody says what to do with any but ones."""
_SKIPS = ("affine_skip_connection", "W_skip")
_COLUMNS_AT_ONCE = 1024


class Decoder(NamedTuple):
    """The decoder half: `x̂ = (f W_dec + b_dec) size(x)`, and the mean of x added where it was taken from it."""

    w_dec: NDArray[np.float32]  # [F, O]
    b_dec: NDArray[np.float32]  # [O]
    skip: NDArray[np.float32] | None  # [D, O]; of a transcoder with an affine connection, added as x skip
    scaling: Scaling


class SaeFile(NamedTuple):
    """A file with an SAE, and what is expected of it."""

    name: str
    d_in: int
    recipe: Recipe = GEMMA_SCOPE
    site: Site = "resid_post"
    opened: Opened = params_npz.opened

    @classmethod
    def of(cls, repository: Repository, sae: SaeChoice, d_in: int) -> "SaeFile":
        """The one that was chosen, for rows of this width."""
        opened = _FORMATS[PurePosixPath(sae.path).suffix]
        return cls(_name(repository, sae), d_in, sae.recipe, sae.site, opened)

    def encoder(self, stream: IO[bytes]) -> Arrays:
        """The encoder half: W_enc [D, F], b_enc [F], threshold [F], float32, as `encoder.py` takes them.

        Raises:
            LayerscopeError: what is wrong with the file.
        """
        name, wanted = self.name, _wanted(self.recipe)
        with self.opened(stream, name, frozenset((*wanted, *_FACTORS))) as stored:
            shapes = _check_shapes(stored.shapes, self.d_in, name, self.recipe, self.site)
            arrays = {key: _finite(stored.read(key), key, name).reshape(shapes[key]) for key in wanted}
            for key in _FACTORS:
                if key in stored.shapes and not np.allclose(stored.read(key), 1):
                    raise LayerscopeError(
                        f"{name} has a {key} that is not 1, which changes its features in no known way."
                    )
        return {key: _finite(array, key, name) for key, array in _folded(arrays, self.recipe).items()}

    def shapes(self, stream: IO[bytes]) -> dict[str, tuple[int, ...]]:
        """The shapes of the encoder's arrays, from the headers alone.

        Raises:
            LayerscopeError: the file is broken, or not an SAE of rows of this width.
        """
        with self.opened(stream, self.name, frozenset(_wanted(self.recipe))) as stored:
            return _check_shapes(stored.shapes, self.d_in, self.name, self.recipe, self.site)


def read_d_sae(repository: Repository, sae: SaeChoice, d_in: int) -> int:
    """How many features an SAE has, from its file's headers: a few kilobytes of hundreds of megabytes.

    Raises:
        LayerscopeError: the file is broken, or not an SAE of rows of this width.
    """
    file = SaeFile.of(repository, sae, d_in)
    return hub.read_parts(repository, sae.path, lambda stream: file.shapes(stream)["W_enc"][1])


def read_encoder(repository: Repository, sae: SaeChoice, d_in: int) -> Arrays:
    """The encoder half of an SAE, as `SaeFile.encoder` gives it."""
    with hub.fetch(repository, sae.path).open("rb") as stream:
        return SaeFile.of(repository, sae, d_in).encoder(stream)


def read_decoder(repository: Repository, sae: SaeChoice, d_in: int) -> Decoder:
    """The decoder half of an SAE.

    Raises:
        LayerscopeError: the file is broken, or has no decoder that fits its encoder.
    """
    file, wanted = SaeFile.of(repository, sae, d_in), ("W_enc", "W_dec", "b_dec", *_SKIPS)
    name = file.name
    with (
        hub.fetch(repository, sae.path).open("rb") as stream,
        file.opened(stream, name, frozenset(wanted)) as stored,
    ):
        missing = [key for key in ("W_enc", "W_dec", "b_dec") if key not in stored.shapes]
        if missing:
            raise LayerscopeError(f"{name} has no {' and no '.join(missing)}: an SAE without its decoder half.")
        d_sae, d_out = stored.shapes["W_enc"][-1], stored.shapes["b_dec"][-1]
        expected = {"W_dec": (d_sae, d_out), "b_dec": (d_out,)}
        if not sae.recipe.transcodes:
            expected["b_dec"] = (d_in,)
        if any(_without_ones(stored.shapes[key], len(shape)) != shape for key, shape in expected.items()):
            told = ", ".join(f"{key} {list(stored.shapes[key])}" for key in expected)
            raise LayerscopeError(f"{name} has the shapes {told}, which do not make a decoder of {d_sae} features.")
        w_dec = _finite(stored.read("W_dec"), "W_dec", name).reshape(d_sae, d_out)
        b_dec = _finite(stored.read("b_dec"), "b_dec", name).reshape(d_out)
        skip = _skip(stored, (d_in, d_out), name)
    if sae.recipe.by_decoder_norm:
        w_dec /= _norms(w_dec)[:, None]
    return Decoder(w_dec, b_dec, skip, sae.recipe.scaling)


def read_skip(repository: Repository, sae: SaeChoice, d_in: int, d_out: int) -> NDArray[np.float32] | None:
    """What a transcoder with an affine connection adds to its features, as x skip: [D, O]; None where it has none.

    Raises:
        LayerscopeError: the file is broken, or this has another shape.
    """
    file = SaeFile.of(repository, sae, d_in)
    with (
        hub.fetch(repository, sae.path).open("rb") as stream,
        file.opened(stream, file.name, frozenset(_SKIPS)) as stored,
    ):
        return _skip(stored, (d_in, d_out), file.name)


def _wanted(recipe: Recipe) -> tuple[str, ...]:
    more = (*(("b_dec",) if recipe.subtracts_b_dec else ()), *(("W_dec",) if recipe.by_decoder_norm else ()))
    return (*_OWN_ARRAYS[recipe.architecture], *more)


def _check_shapes(
    headers: Mapping[str, tuple[int, ...]], d_in: int, name: str, recipe: Recipe, site: Site
) -> dict[str, tuple[int, ...]]:
    """The encoder's shapes without further dimensions of size 1, if they fit one another and the model."""
    wanted = _wanted(recipe)
    missing = [key for key in wanted if key not in headers]
    if missing:
        raise LayerscopeError(
            f"{name} has no {' and no '.join(missing)}: not {_TOLD[recipe.architecture]}. "
            f"It holds {', '.join(sorted(headers)) or 'nothing of one'}."
        )
    shapes = {key: _without_ones(headers[key], 2 if key.startswith("W_") else 1) for key in wanted}
    w_enc = shapes["W_enc"]
    if len(w_enc) == 2 and w_enc[0] != d_in:
        turned = " It may be stored the other way round: W_enc is [d_model, d_sae]." if w_enc[1] == d_in else ""
        there = "residual stream has" if site == "resid_post" else f"{site} has"
        raise LayerscopeError(
            f"{name} encodes vectors of {w_enc[0]} numbers; the model's {there} {d_in}"
            f"{' (d_model)' if site == 'resid_post' else ''}.\n"
            f"Take the SAEs that were trained on this model: --model and --sae-repo must belong together.{turned}"
        )
    d_sae = w_enc[-1] if w_enc else 0
    own = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    expected = {key: own.get(key, (d_sae,)) for key in wanted}
    if shapes != expected or not 1 <= d_sae <= MAX_D_SAE:
        told = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        fitting = ", ".join(f"{key} {list(shape)}" for key, shape in expected.items())
        raise LayerscopeError(
            f"{name} has the shapes {told}, which do not make an encoder.\n"
            f"Expected are {fitting}, with 1 to {MAX_D_SAE} features."
        )
    return shapes


def _folded(arrays: Arrays, recipe: Recipe) -> Arrays:
    """The three arrays that an encoder comes to.

    A gate `x W + b_gate > 0` beside `pre = (x W) exp(r_mag) + b_mag` is a threshold of `b_mag - b_gate exp(r_mag)` on
    `pre`; a mean taken from x is one taken from every column of W.
    """
    w_enc, d_sae = arrays["W_enc"], arrays["W_enc"].shape[1]
    threshold = arrays.get("threshold", np.zeros(d_sae, np.float32))
    b_enc = arrays["b_enc"] if "b_enc" in arrays else np.zeros(d_sae, np.float32)
    if recipe.subtracts_b_dec:
        b_enc = (b_enc - _product(arrays["b_dec"], w_enc)).astype(np.float32)
    if recipe.scaling == "deviation":
        w_enc -= w_enc.mean(axis=0, dtype=np.float64).astype(np.float32)
    factor = None
    if recipe.architecture == "gated":
        factor = np.exp(arrays["r_mag"].astype(np.float64))
        threshold = (arrays["b_mag"] - arrays["b_gate"] * factor).astype(np.float32)
        b_enc = (b_enc * factor + arrays["b_mag"]).astype(np.float32)
    elif recipe.by_decoder_norm:
        factor = _norms(arrays["W_dec"])
        b_enc = (b_enc * factor).astype(np.float32)
    if factor is not None:
        w_enc *= factor.astype(np.float32)
    return {"W_enc": w_enc, "b_enc": b_enc, "threshold": threshold}


def _product(row: NDArray[np.float32], w_enc: NDArray[np.float32]) -> NDArray[np.float64]:
    """A row [D] times [D, F], in float64."""
    starts = range(0, w_enc.shape[1], _COLUMNS_AT_ONCE)
    wide = row.astype(np.float64)
    return np.concatenate([wide @ w_enc[:, start : start + _COLUMNS_AT_ONCE].astype(np.float64) for start in starts])


def _norms(w_dec: NDArray[np.float32]) -> NDArray[np.float64]:
    """[F]: of every feature's row."""
    norms: NDArray[np.float64] = np.sqrt(np.einsum("fo,fo->f", w_dec, w_dec, dtype=np.float64))
    return norms


def _skip(stored: Stored, shape: tuple[int, int], name: str) -> NDArray[np.float32] | None:
    """The affine connection of a transcoder [D, O]; SAELens has it the other way round."""
    for key, expected in zip(_SKIPS, (shape, shape[::-1]), strict=True):
        if key in stored.shapes:
            if stored.shapes[key] != expected:
                raise LayerscopeError(f"{name} has {key} {list(stored.shapes[key])}; expected is {list(expected)}.")
            found = _finite(stored.read(key), key, name)
            return found if key != "W_skip" else np.ascontiguousarray(found.T)
    return None


def _finite(array: NDArray[np.float32], key: str, name: str) -> NDArray[np.float32]:
    if not np.isfinite(array).all():
        raise LayerscopeError(f"{name} is broken: {key} holds NaN or infinity (as float32). Get the file again.")
    return array


def _without_ones(shape: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """A shape of more dimensions than are wanted without as many of those of size 1, which hold nothing."""
    sizes = list(shape)
    while len(sizes) > wanted and 1 in sizes:
        sizes.remove(1)
    return tuple(sizes)


def _name(repository: Repository, sae: SaeChoice) -> str:
    return f"{sae.path} of {repository.name}"
