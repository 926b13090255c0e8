"""How questions become texts, and which of a solution's tokens are read."""

from dataclasses import dataclass
from typing import NamedTuple

from layerscope.config import AttributionRule, ResidualFormat, Site
from layerscope.questions.prompts import DEFAULT, Prompt

MAX = "max"
"""The reading that takes all of a solution's tokens together; the others take one each."""
_OF_THE_PROMPT = "prompt"  # the one that all solutions share


class Means(NamedTuple):
    """A file with what each feature is on average, which is to be on every node."""

    path: str
    sha256: str


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
    token_activations: int = 0
    """Of how many of each layer's strongest features of `max` the record has the activation at every token."""
    solutions: int = 2
    """Of how many solutions of a question the features are recorded, at most."""
    more: bool = False
    """Whether any question has more than two solutions."""
    sites: tuple[Site, ...] = ("resid_post",)
    """What is read of a token: tensors of a layer, where SAEs were trained, the first dictionary's first."""
    writes: Site | None = None
    """One of these, where the margin is attributed to features that write elsewhere than they are read."""
    dictionaries: tuple[str, ...] = ()
    """The names of further dictionaries, in the order of the record."""
    attribution: AttributionRule | None = None
    """How the margin is led back to features; None where it is not."""
    means: Means | None = None
    """What features are on average, where the margin is attributed against that."""

    @property
    def acts_at(self) -> Site:
        """Where the first dictionary's features add up to what is there, and the margin's gradient is taken."""
        return self.writes or self.sites[0]

    @property
    def spells(self) -> bool:
        """Whether it must be known what each token stands for."""
        return self.tokens or "last-word" in self.names

    def rows(self, pairs: int, tokens: int) -> int:
        """Rows of the residual stream that a batch makes, at most.

        Args:
            tokens: of the batch, shared ones once.
        """
        if MAX in self.names or self.attribution:
            return tokens
        return pairs * sum(1 if name == _OF_THE_PROMPT else self.solutions for name in self.names)


FINAL = Reading()
