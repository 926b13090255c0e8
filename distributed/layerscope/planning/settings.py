"""What the settings leave open, made concrete."""

from layerscope.config import Config
from layerscope.standin import STANDIN_WIDTH


def dataset(config: Config) -> str:
    """Where the questions come from."""
    if config.dataset != "auto":
        return config.dataset
    return "bundled" if config.standin else "piqa"


def sae_width(config: Config) -> str:
    """The width of the SAEs, as their folders name it."""
    if config.sae_width != "auto":
        return config.sae_width
    return STANDIN_WIDTH if config.standin else "16k"


def numeric(setting: int | str) -> int | None:
    """A number, or None for one that is `all` or `auto`."""
    return setting if isinstance(setting, int) else None
