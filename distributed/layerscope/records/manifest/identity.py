"""What decides the bytes of a file: a run that goes on with it must have the same. The manifest keeps it."""

from typing import Annotated, Literal, NamedTuple

from msgspec import UNSET, Meta, Struct, UnsetType

from layerscope.config import DICTIONARY_NAME, READINGS, AttributionRule, ResidualFormat, Site

_READINGS = rf"\A{READINGS[0]}{''.join(f'(,{name})?' for name in READINGS[1:])}\Z"

DictionaryName = Annotated[str, Meta(pattern=rf"\A{DICTIONARY_NAME}\Z")]
Count = Annotated[int, Meta(ge=0)]


class ShotsDrawn(Struct, frozen=True, kw_only=True):
    """The examples that stand before every question."""

    count: Count
    rows: str
    """Their rows in the source, with commas between them; the last but for the one that stands in where a question is
    one of the others."""
    sha256: str
    """Over what they say."""


class Settings(Struct, frozen=True, kw_only=True):
    """The settings that change numbers, with every `auto` decided."""

    prompt: str
    strip_solutions: bool
    num_samples: Count
    shard: Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,5}/[1-9][0-9]{0,5}\Z")] | None
    """`2/8`; None for the whole."""
    seed: int | None
    """None where every question is taken."""
    layers: str
    sae_width: str
    sae_l0: str
    site: Site = "resid_post"
    """Files of 0.1.0 have no other."""
    top_k: Annotated[int, Meta(ge=1)] | Literal["all"]
    dtype: str
    sae_dtype: str
    batch_tokens: int
    threads: int | None
    attention: str
    readings: Annotated[str, Meta(pattern=_READINGS)] = READINGS[0]
    """Names with commas between them, in the order of the record; files of 0.1.0 have the first alone."""
    tokens: bool = False
    """Every solution's tokens are in the record."""
    residuals: ResidualFormat | None = None
    """Number format of the residuals beside the file; None where it has none."""
    attribution: AttributionRule | None = None
    """How the margin is attributed to features; None where it is not."""
    attribution_means: str | None = None
    """SHA-256 of the file of means that it is against; None where it is against nothing."""
    all_solutions: bool = False
    """The features of every wrong solution are in the record, not of the strongest alone."""
    token_activations: Annotated[int, Meta(ge=0)] = 0
    """Of how many features of each layer's list of `max` the record has the activation at every token."""
    metadata: str | None = None
    """Which other columns of the questions are in the record: `all`, or names with commas between; None for none."""
    shots: ShotsDrawn | None = None
    """None where no examples stand before the questions."""


class ModelFiles(Struct, frozen=True, kw_only=True):
    """The model: SHA-256 of each of its files by path."""

    repository: str
    commit: str | None
    """None for a folder."""
    files: dict[str, str]


class SaeFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The SAE of one layer."""

    path: str
    sha256: str
    config_sha256: str | None = None
    """Of the configuration beside it, where it has one that is read."""


class SaeFiles(Struct, frozen=True, kw_only=True):
    """The SAEs, by layer."""

    repository: str
    commit: str | None
    layers: dict[int, SaeFile]


class OtherSaes(SaeFiles, frozen=True, kw_only=True):
    """The SAEs of a further dictionary."""

    site: Site
    width: str
    l0: str
    """As it was asked for."""


class PlanSize(Struct, frozen=True, kw_only=True):
    """The plan of this file."""

    questions: Count
    batches: Count
    sha256: str
    """Over every question's content and the order, of all shards."""


Control = Literal["matched", "random", "mean-difference"]
"""What stands beside a feature that is ablated: another feature that fires as often and is as large, and at the
feature's own tokens as much along a random direction, and along the difference of means."""


CONTROLS: tuple[Control, ...] = ("matched", "random", "mean-difference")
"""All of them, in the order of the lines."""


class ChosenFeature(NamedTuple):
    """A feature that is ablated."""

    layer: Count
    feature_id: Count
    matched: Count | None
    """The feature of this layer that is its control; None where there is none."""


class AblationSettings(Struct, frozen=True, kw_only=True):
    """What a file of ablations was asked for besides."""

    run: str
    """Digest of the finished file whose questions these are."""
    features: list[ChosenFeature]
    controls: list[Control]
    steer: float | None
    """How often as much is added as an ablation takes out; None for an ablation."""
    features_at_once: Annotated[int, Meta(ge=1)]
    """Features of a portion: see `ablations.py`."""


PackingName = Literal["zstd", "gzip"]


class Packing(Struct, frozen=True, kw_only=True):
    """How the lines are compressed."""

    method: PackingName
    level: int
    library: str
    probe: str
    """XXH3 (64 bits) of what it makes of a fixed text."""


class Identity(Struct, frozen=True, kw_only=True):
    """Whatever decides the bytes of the file; a run that goes on with it must have the same."""

    settings: Settings
    model: ModelFiles
    saes: SaeFiles
    questions: dict[str, str]
    """Where they come from."""
    plan: PlanSize
    software: dict[str, str]
    """Versions of the packages that compute."""
    hardware: str
    ablation: AblationSettings | UnsetType = UNSET
    """Only in files of ablations."""
    packing: Packing | UnsetType = UNSET
    """Not there for a file of plain lines."""
    other_dictionaries: dict[DictionaryName, OtherSaes] = {}
    """By name, those beside `saes`, in the order of the record."""
