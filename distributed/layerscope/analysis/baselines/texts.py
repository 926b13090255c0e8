"""What the texts alone differ in: words or tokens, and the last token. Collected while a file is read."""

import re
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET

from layerscope.analysis.arrays import Floats, Ints
from layerscope.analysis.baselines.split import Split
from layerscope.records.record import Record, SolutionDetails

COLUMNS = 1000
"""Words, or last tokens, at most: those in which most pairs of the discovery half differ."""
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Differences:
    """In what the two solutions of every pair differ, a row for each."""

    pair: Ints  # [E] index of the question
    word: Ints  # [E]
    count: Ints  # [E] how often the right solution has it, less the wrong one; never 0

    def columns(self, split: Split) -> Floats:
        """The differences in the most frequent, [Q, C]."""
        pairs_of = np.bincount(self.word[split.discovery[self.pair]], minlength=int(self.word.max(initial=-1)) + 1)
        kept = np.argsort(-pairs_of, kind="stable")[:COLUMNS]
        kept = kept[pairs_of[kept] > 0]
        column = np.full(len(pairs_of), -1)
        column[kept] = np.arange(len(kept))
        columns, rows = np.zeros((len(split.discovery), len(kept))), column[self.word] >= 0
        columns[self.pair[rows], column[self.word[rows]]] = self.count[rows]
        return columns


@dataclass(frozen=True)
class Texts:
    """Of all pairs."""

    words: Differences
    last_tokens: Differences
    tokens: bool
    """Words are tokens, which the file has; otherwise words and signs of the text, whatever their case."""


@dataclass
class TextColumns:
    """These while they grow: 12 bytes for every word in which two solutions differ."""

    _tokens: bool = True
    _words: "_Growing" = field(default_factory=lambda: _Growing())
    _last_tokens: "_Growing" = field(default_factory=lambda: _Growing())

    def add(self, record: Record) -> None:
        positive, negative = record.solutions
        self._tokens = self._tokens and positive.tokens is not UNSET
        self._words.add(_parts(positive), _parts(negative))
        self._last_tokens.add([positive.final_token], [negative.final_token])

    def texts(self) -> Texts:
        return Texts(self._words.differences(), self._last_tokens.differences(), self._tokens)


def _parts(details: SolutionDetails) -> list[str]:
    return _WORD.findall(details.text.casefold()) if details.tokens is UNSET else details.tokens


@dataclass
class _Growing:
    pairs: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    rows: "array[int]" = field(default_factory=lambda: array("i"))

    def add(self, positive: list[str], negative: list[str]) -> None:
        count = Counter(positive)
        count.subtract(negative)
        for word, difference in count.items():
            if difference:
                self.rows.extend((self.pairs, self.numbers.setdefault(word, len(self.numbers)), difference))
        self.pairs += 1

    def differences(self) -> Differences:
        return Differences(*np.array(self.rows, dtype=np.int64).reshape(-1, 3).T.copy())
