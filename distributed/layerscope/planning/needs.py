"""What weights and work take of a device's memory, in bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.config import Site
from layerscope.models.spec import ModelSpec
from layerscope.planning.settings import Numerics

BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2}
_CUDA_BYTES = 512 << 20  # that CUDA takes for a process, whatever it does
_CHUNK_BYTES = 3 * (128 << 20)  # of a pass: attention's scores, which are taken in pieces of 128 MiB, and their copies
_VOCABULARY_CHUNK = 4096  # columns of the output projection that are taken at once
_PRE_ACTIVATIONS = 1 << 26  # that an encoder computes at once
_COPIES = 3  # of a large tensor while one is made of another
_USUAL_TOKENS = 8192  # of a batch on a GPU
_CARDS = (  # GiB that a process can have of a card
    (22.0, "24 GB (L4, A10)"),
    (39.4, "40 GB (A100)"),
    (44.4, "48 GB (L40S)"),
    (79.1, "80 GB (A100, H100)"),
    (139.8, "141 GB (H200)"),
    (177.0, "180 GB (B200)"),
)


@dataclass(frozen=True)
class Needs:
    """What weights and work take, in bytes at the dtypes of the run."""

    model: int
    sae_by_layer: dict[int, int]
    d_model: int
    encode_cost: float = 0.375
    """What encoding a question costs beside its forward pass: for two rows, the encoders' weights over the model's."""
    gemma_work: int = 0
    """On a GPU beside the model."""
    kept: int = 0
    """Of that, what a pass keeps for its way back, on a CPU too; 0 where it goes none."""
    encoder_work: int = 0
    """On a GPU beside the SAEs of one encoder."""
    rows_by_layer: int = 0
    """Residual stream of a batch that is brought to the encoder of a layer."""
    screen: int = 0
    """Of a layer's encoders, what they have in bfloat16 too on a CPU that multiplies such numbers."""
    on_a_card: int = 0
    """What one copy of the model and its work take of a GPU of its own in bfloat16, whatever the run computes on."""

    @property
    def card(self) -> str:
        """The smallest usual GPU that holds a copy of the model in bfloat16, for people."""
        gib = self.on_a_card / (1 << 30)
        return next((f"a GPU of {name} holds" for room, name in _CARDS if gib <= room), "no usual GPU holds")


def estimate(
    spec: ModelSpec,
    layers: Sequence[int],
    dictionaries: Sequence[tuple[Site, int]],
    numerics: Numerics,
    rows: int,
    rows_per_question: float,
    attributed: Site | None = None,
) -> Needs:
    """What a run takes.

    Args:
        layers: that have SAEs.
        dictionaries: of each where it reads, and d_sae.
        rows: of a layer's tensors that the plan's largest batch makes.
        rows_per_question: on average.
        attributed: to which site the margin is led back, if it is: of the first one's SAEs the decoders too, and an
            affine connection where they may have one, of rows the gradients.
    """
    both = 2 if attributed else 1
    size = BYTES_PER_VALUE[numerics.dtype]
    first, *others = [spec.width(site) * d_sae for site, d_sae in dictionaries]
    weights = first + sum(others)
    read_at, d_sae = dictionaries[0]
    if attributed:
        weights += spec.width(attributed) * (d_sae if attributed == read_at else d_sae + spec.width(read_at))
    sites = {site for site, _ in dictionaries} | ({attributed} if attributed else set())
    width = sum(map(spec.width, sites))
    by_layer = both * rows * width * size
    kept = _bytes_kept(spec, min(layers), size) * numerics.batch_tokens if attributed else 0
    return Needs(
        model=spec.n_parameters * size,
        sae_by_layer=dict.fromkeys(layers, weights * BYTES_PER_VALUE[numerics.sae_dtype]),
        d_model=spec.d_model,
        encode_cost=weights * len(layers) / spec.n_parameters * rows_per_question / 2,
        gemma_work=_CUDA_BYTES + _pass_bytes(spec, numerics.batch_tokens, size) + kept + 2 * len(layers) * by_layer,
        encoder_work=_CUDA_BYTES + _COPIES * 4 * min(_PRE_ACTIVATIONS, rows * max(d_sae for _, d_sae in dictionaries)),
        kept=kept,
        rows_by_layer=by_layer,
        screen=2 * (first + sum(others)) if numerics.sae_dtype == "float32" else 0,
        on_a_card=2 * spec.n_parameters
        + _CUDA_BYTES
        + _pass_bytes(spec, _USUAL_TOKENS, 2)
        + 4 * len(layers) * rows * width,
    )


def _bytes_kept(spec: ModelSpec, first: int, size: int) -> int:
    """Of a token, what a pass keeps for the way back: inputs of norms; queries, keys, values; the MLP's."""
    of_layer = size * (8 * spec.d_model + 3 * spec.d_ff)
    return (spec.n_layers - 1 - first) * of_layer


def _pass_bytes(spec: ModelSpec, tokens: int, size: int) -> int:
    """What a forward pass over a batch takes: the widest layer's tensors, attention's scores and a piece of logits."""
    residual = 6 * tokens * spec.d_model * size
    feed_forward = _COPIES * tokens * spec.d_ff * size
    scores = min(_CHUNK_BYTES, _COPIES * 4 * spec.n_heads * tokens * tokens)
    logits = _COPIES * 4 * tokens * min(_VOCABULARY_CHUNK, spec.vocabulary)
    return residual + feed_forward + scores + logits
