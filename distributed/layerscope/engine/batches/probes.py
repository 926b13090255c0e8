"""The bits of small fixed computations by a run's own functions: actors whose bits differ do not work together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import xxhash
from torch import Tensor

from layerscope.config import FIRST
from layerscope.engine.batches.encoding import Encoders, encode_block
from layerscope.numerics.circumstances import circumstances
from layerscope.questions.pairs import Pair
from layerscope.records.manifest.fingerprints import Fingerprint

if TYPE_CHECKING:  # transformers takes seconds to import, and encoders do without it
    from layerscope.models.language_model import LanguageModel

_PROBED = 256  # d_model times pairs, at least
_ROWS, _FEATURES = 8, 100


def model_fingerprint(model: LanguageModel, layers: Sequence[int]) -> Fingerprint:
    """The bits of a small fixed pass through a loaded model: of log-probabilities and the residual stream.

    Args:
        layers: all of the run, in ascending order.
    """
    vocabulary = model.model.config.vocab_size
    # A small model has few numbers a token in which a difference could show, and more tokens cost it little.
    pairs = [_fixed_pair(number, vocabulary) for number in range(max(1, _PROBED // model.model.config.hidden_size))]
    return _fingerprint({"model": b"".join(_bits(tensor) for tensor in model.raw(pairs, layers))})


def encoder_fingerprint(dictionaries: Sequence[Encoders], layers: Sequence[int], dtype: torch.dtype) -> Fingerprint:
    """The bits that loaded encoders give of fixed rows, of every layer by itself: blocks may be cut otherwise later.

    Args:
        dtype: of the residual stream that they will get.
    """
    lines = dict[str, bytes]()
    for each in dictionaries:
        whose = "" if each.name == FIRST else f" of {each.name}"
        numbers = torch.arange(_ROWS * each.width, device=each.of_layers[0].b_enc.device).reshape(1, _ROWS, each.width)
        rows = (numbers * 7919 % 251 - 125).to(dtype)  # [1, R, D]; whole numbers, exact in every format
        for layer, encoder in zip(layers, each.of_layers, strict=True):
            lines[f"sae {layer}{whose}"] = encode_block(rows, [layer], [encoder], _FEATURES).json.tobytes()
    return _fingerprint(lines)


def _fixed_pair(number: int, vocabulary: int) -> Pair:
    tokens = tuple((number * 7919 + place * 104729 + place * place * 31) % vocabulary for place in range(24))
    return Pair(tokens, shared=8, lengths=(16, 16), prompt=6)


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _fingerprint(computed: dict[str, bytes]) -> Fingerprint:
    digests = {name: xxhash.xxh3_64_hexdigest(data) for name, data in computed.items()}
    return Fingerprint(digests=digests, circumstances=circumstances())
