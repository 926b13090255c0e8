"""How questions become texts, and which of a solution's tokens are read."""

from dataclasses import dataclass

from layerscope.config import ResidualFormat
from layerscope.questions.prompts import DEFAULT, Prompt

MAX = "max"
"""The reading that takes all of a solution's tokens together; the others take one each."""
_OWN_TOKENS = {"final": 2, "last-word": 2, "prompt": 1}  # of a pair's two solutions


@dataclass(frozen=True)
class Reading:
    """What a run reads of its questions."""

    names: tuple[str, ...] = ("final",)
    """Readings, in the order of the record; `final` is the first."""
    tokens: bool = False
    """Whether the record has the solutions' tokens."""
    prompt: Prompt = DEFAULT
    residuals: ResidualFormat | None = None
    """Number format of the residuals that are kept, where readings take one token each."""

    @property
    def spells(self) -> bool:
        """Whether it must be known what each token stands for."""
        return self.tokens or "last-word" in self.names

    def rows(self, pairs: int, tokens: int) -> int:
        """Rows of the residual stream that a batch makes, at most.

        Args:
            tokens: of the batch, shared ones once.
        """
        return tokens if MAX in self.names else pairs * sum(_OWN_TOKENS[name] for name in self.names)


FINAL = Reading()
