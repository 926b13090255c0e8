"""SAEs as SAELens saves them, from before and after its version 6: what their `cfg.json` files say, and no weights.

A folder has one SAE: `cfg.json` and `sae_weights.safetensors`; a repository has one, or many in folders below. What a
configuration asks for that is not known here is never guessed: that SAE is passed over, and its reason is told.
"""

import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from layerscope.config import Site
from layerscope.errors import UsageError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.saes.choice import Architecture, Recipe, SaeChoice, Scaling, Shelf
from layerscope.strict_json import parse_object

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LAYOUT = f"[FOLDER/]{CONFIG} with {WEIGHTS}"
_MAX_CONFIG_BYTES = 1 << 20
_CONNECTIONS = 8
_MAX_SIZE = 1 << 24
_PAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ARCHITECTURES: dict[str, tuple[Architecture, bool]] = {
    "standard": ("relu", False),
    "jumprelu": ("jumprelu", False),
    "topk": ("topk", False),
    "gated": ("gated", False),
    "transcoder": ("relu", True),
    "skip_transcoder": ("relu", True),
    "jumprelu_transcoder": ("jumprelu", True),
    "jumprelu_skip_transcoder": ("jumprelu", True),
}
"""By SAELens's name, ours, and whether it decodes to another place than it reads."""
_SCALINGS: dict[str, Scaling] = {"none": "none", "constant_norm_rescale": "norm", "layer_norm": "deviation"}
_OUTER = r"(?:(?:model|language_model)\.)*"
"""What may stand before the layers of what reads text: those of what sees are no layers of it."""
_HOOKS: tuple[tuple[str, Site, str], ...] = (
    (r"blocks\.(\d+)\.hook_resid_post", "resid_post", ""),
    (rf"{_OUTER}layers\.(\d+)(?:\.output)?", "resid_post", ""),
    (r"blocks\.(\d+)\.attn\.hook_z", "attn_out", ""),
    (rf"{_OUTER}layers\.(\d+)\.self_attn\.o_proj\.input", "attn_out", ""),
    (r"blocks\.(\d+)\.hook_mlp_out", "mlp_out", ""),
    (rf"{_OUTER}layers\.(\d+)\.post_feedforward_layernorm\.output", "mlp_out", ""),
    # What a family's transcoders read: without the gain of the norm for Gemma 2, with it for Gemma 3.
    (r"blocks\.(\d+)\.ln2\.hook_normalized", "transcoder", "gemma-2"),
    (rf"{_OUTER}layers\.(\d+)\.pre_feedforward_layernorm\.output", "transcoder", "gemma-3"),
)
"""How hooks are called, which site that is, and of which models alone."""
_BEFORE = re.compile(r"blocks\.(\d{1,4})\.hook_resid_pre|" + _OUTER + r"layers\.(\d{1,4})\.input")
"""What a layer gets: the very tensor that the layer before it gave, so that one's number is the SAE's."""


class _UnknownError(Exception):
    """What a configuration asks for that is not known here."""


def shelf(repository: Repository, _original: str) -> Shelf | None:
    """The SAEs of a repository in SAELens's layout; None where it has none.

    Raises:
        UsageError: it has some, and none that can be read.
    """
    folders = sorted(path.removesuffix(CONFIG) for path in repository.files if path.split("/")[-1] == CONFIG)
    folders = [folder for folder in folders if _has_weights(repository, folder)]
    if not folders:
        return None
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        read = list(pool.map(lambda folder: _read(repository, folder), folders))
    saes = [sae for sae in read if isinstance(sae, SaeChoice)]
    passed_over = tuple(told for told in read if isinstance(told, str))
    if not saes:
        raise UsageError(
            f"{repository.name} has {'an SAE' if len(read) == 1 else f'{len(read)} SAEs'} in SAELens's layout that "
            f"cannot be read: {passed_over[0]}\nTake one whose architecture is {', '.join(_ARCHITECTURES)}, read at "
            "resid_post, attn_out (hook_z), mlp_out or a transcoder's input."
        )
    alike = Counter((sae.site, sae.layer, sae.width) for sae in saes)
    canonical = {
        (sae.site, sae.layer, sae.width): sae.l0_name for sae in saes if alike[sae.site, sae.layer, sae.width] == 1
    }
    told = "the only one of its layer and width"
    return Shelf(repository, "SAELens", tuple(saes), canonical, told, passed_over)


def _has_weights(repository: Repository, folder: str) -> bool:
    return folder + WEIGHTS in repository.files


def _read(repository: Repository, folder: str) -> SaeChoice | str:
    """The SAE of a folder, or why it cannot be read."""
    path = folder + CONFIG
    if repository.files[path].size > _MAX_CONFIG_BYTES:
        return f"{path} has {repository.files[path].size} bytes, which no configuration has."
    try:
        config = parse_object(hub.fetch(repository, path).read_bytes())
        if not isinstance(config, dict):
            raise _UnknownError("it is no JSON object")
        return _choice(config, folder)
    except (ValueError, RecursionError, _UnknownError) as error:
        return f"{path}: {str(error)[:300]}."


def _choice(config: Mapping[str, Any], folder: str) -> SaeChoice:
    metadata = config.get("metadata")
    about = {**config, **(metadata if isinstance(metadata, dict) else {})}  # before version 6 all stood side by side
    model = str(about.get("model_name") or "")
    layer, site = _place(about, model)
    recipe, d_sae = _recipe(config), _count(config, "d_sae")
    page = str(about.get("neuronpedia_id") or "")
    return SaeChoice(
        layer=layer,
        width=width_name(d_sae),
        l0=recipe.k or None,
        path=folder + WEIGHTS,
        neuronpedia_id=page if _PAGE.fullmatch(page) else None,
        site=site,
        l0_name=folder.rstrip("/") or "its only folder",
        recipe=recipe,
        config=folder + CONFIG,
        expected_l0=recipe.k or 100,
        model=model,
    )


def _place(about: Mapping[str, Any], model: str) -> tuple[int, Site]:
    """Layer and site."""
    names = [name for key in ("hf_hook_name", "hook_name", "hook_point") if isinstance(name := about.get(key), str)]
    heads = [about.get(key) for key in ("hook_head_index", "hook_point_head_index")]
    if any(head is not None for head in heads):
        raise _UnknownError(f"it reads one head of attention alone ({heads[0] or heads[1]})")
    for name in names:
        if (before := _BEFORE.fullmatch(name)) and (layer := int(before[1] or before[2])):
            return layer - 1, "resid_post"
        if found := place_of_hook(name, model):
            return found
    raise _UnknownError(
        f"it reads at {names[0]!r}, which is no site that layerscope reads" if names else "no hook_name"
    )


def place_of_hook(name: str, model: str) -> tuple[int, Site] | None:
    """The layer and site that a hook's name says, of a model of this name; None where it is none that is known."""
    for pattern, site, of_models in _HOOKS:
        if (match := re.fullmatch(pattern, name)) and len(match[1]) <= 4 and of_models in model:
            return int(match[1]), site
    return None


def _recipe(config: Mapping[str, Any]) -> Recipe:
    name, activation = config.get("architecture") or "standard", config.get("activation_fn")
    activation = activation or config.get("activation_fn_str") or "relu"
    if name == "standard" and activation == "topk":  # before version 6 the only word on it
        name = "topk"
    if name not in _ARCHITECTURES:
        raise _UnknownError(f"its architecture is {name!r}")
    if activation not in ("relu", "topk") or (activation == "topk" and name != "topk"):
        raise _UnknownError(f"its activation function is {activation!r} in the architecture {name!r}")
    if config.get("finetuning_scaling_factor"):
        raise _UnknownError("it has a finetuning_scaling_factor")
    architecture, transcodes = _ARCHITECTURES[name]
    return Recipe(
        architecture=architecture,
        k=_k(config) if architecture == "topk" else 0,
        scaling=_scaling(config),
        subtracts_b_dec=not transcodes and _flag(config, "apply_b_dec_to_input", True),
        by_decoder_norm=architecture == "topk" and _flag(config, "rescale_acts_by_decoder_norm", False),
        transcodes=transcodes,
    )


def _scaling(config: Mapping[str, Any]) -> Scaling:
    asked = config.get("normalize_activations") or "none"
    asked = "expected_average_only_in" if asked is True else asked
    if asked == "expected_average_only_in":
        raise _UnknownError(
            "normalize_activations is 'expected_average_only_in', and the factor is in no file: "
            "fold it into the weights with SAELens (fold_activation_norm_scaling_factor) and save it again"
        )
    if asked not in _SCALINGS:
        raise _UnknownError(f"normalize_activations is {asked!r}")
    return _SCALINGS[asked]


def _k(config: Mapping[str, Any]) -> int:
    options = config.get("activation_fn_kwargs")
    return _count({**(options if isinstance(options, dict) else {}), **config}, "k")


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= _MAX_SIZE:
        raise _UnknownError(f"its {key} is {value!r}, which is no count")
    return value


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if type(value) is not bool:
        raise _UnknownError(f"its {key} is {value!r}, which is neither true nor false")
    return value


def width_name(d_sae: int) -> str:
    """16k for 16,384, 1m for 1,048,576; other counts as they are."""
    for unit, name in ((1 << 20, "m"), (1 << 10, "k")):
        if d_sae % unit == 0:
            return f"{d_sae // unit}{name}"
    return str(d_sae)
