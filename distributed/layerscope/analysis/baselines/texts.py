"""What the texts alone differ in: words or tokens, and the last token. Collected while a file is read."""

import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray
from scipy import sparse

from layerscope.analysis.baselines.split import Split
from layerscope.analysis.columns.spilling import Column
from layerscope.records.line.record import Record, SolutionDetails

COLUMNS = 1000
"""Words, or last tokens, at most: those in which most pairs of the discovery half differ."""
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Differences:
    """In what the two solutions of every pair differ, a row for each."""

    pair: NDArray[np.int32]  # [E] index of the question
    word: NDArray[np.int32]  # [E]
    count: NDArray[np.int32]  # [E] how often the right solution has it, less the wrong one; never 0

    def columns(self, split: Split) -> sparse.csr_array:
        """The differences in the most frequent, [Q, C]."""
        pairs_of = np.bincount(self.word[split.discovery[self.pair]], minlength=int(self.word.max(initial=-1)) + 1)
        kept = np.argsort(-pairs_of, kind="stable")[:COLUMNS]
        kept = kept[pairs_of[kept] > 0]
        column = np.full(len(pairs_of), -1, dtype=np.int32)
        column[kept] = np.arange(len(kept))
        rows = column[self.word] >= 0
        found = self.count[rows].astype(np.float64), (self.pair[rows], column[self.word[rows]])
        return sparse.csr_array(found, shape=(len(split.discovery), len(kept)))


@dataclass(frozen=True)
class Texts:
    """Of all pairs."""

    words: Callable[[], Differences]
    """Reads them."""
    last_tokens: Callable[[], Differences]
    tokens: bool
    """Words are tokens, which the file has; otherwise words and signs of the text, whatever their case."""


class TextColumns:
    """These while they grow: 12 bytes for every word in which two solutions differ, on disk."""

    def __init__(self, stack: ExitStack) -> None:
        self._tokens = True
        self._words, self._last_tokens = _Growing(stack), _Growing(stack)

    def add(self, record: Record) -> None:
        positive, negative = record.solutions
        self._tokens = self._tokens and positive.tokens is not UNSET
        self._words.add(_parts(positive), _parts(negative))
        self._last_tokens.add([positive.final_token], [negative.final_token])

    def texts(self) -> Texts:
        return Texts(self._words.differences, self._last_tokens.differences, self._tokens)


def _parts(details: SolutionDetails) -> list[str]:
    return _WORD.findall(details.text.casefold()) if details.tokens is UNSET else details.tokens


class _Growing:
    def __init__(self, stack: ExitStack) -> None:
        self._pairs, self._numbers, self._rows = 0, dict[str, int](), Column("i", stack)

    def add(self, positive: list[str], negative: list[str]) -> None:
        count = Counter(positive)
        count.subtract(negative)
        for word, difference in count.items():
            if difference:
                self._rows.extend((self._pairs, self._numbers.setdefault(word, len(self._numbers)), difference))
        self._pairs += 1

    def differences(self) -> Differences:
        return Differences(*self._rows.read().reshape(-1, 3).T)
