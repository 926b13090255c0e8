"""The families of models that layerscope reads; no torch. A new one is a file beside this one, and a line below."""

from collections.abc import Mapping
from typing import Any

from layerscope.errors import UsageError
from layerscope.models.family import ModelFamily
from layerscope.models.gemma2 import GEMMA_2
from layerscope.models.gemma3 import GEMMA_3

FAMILIES = {family.name: family for family in (GEMMA_2, GEMMA_3)}


def family_of(config: Mapping[str, Any], where: str) -> ModelFamily:
    """The family of a model.

    Args:
        config: what its `config.json` holds.
        where: the repository, for people.

    Raises:
        UsageError: it is of none.
    """
    kind = config.get("model_type")
    for family in FAMILIES.values():
        if kind in family.model_types:
            if other := family.unlike(family.settings(config)):
                raise UsageError(
                    f"{where} is a {kind} model with {other}, which reads texts otherwise than {family.name} does.\n"
                    f"Take a model of {supported()}."
                )
            return family
    is_what = "says no `model_type` in its config.json" if kind is None else f"is a {str(kind)[:80]!r} model"
    raise UsageError(f"{where} {is_what}, which layerscope does not read.\nIt reads {supported()}.")


def supported() -> str:
    """The families for people."""
    return ", ".join(f"{each.name} (model_type {' or '.join(each.model_types)})" for each in FAMILIES.values())
