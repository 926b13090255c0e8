"""What the texts alone differ in: words or tokens, and the last token. Collected while a file is read."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
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
_ROWS = 1 << 20  # of differences, at once
_WORD = re.compile(r"\w+|[^\w\s]")


class Differences:
    """In what the two solutions of every pair differ: rows of the pair, of what differs, and of how often the right
    solution has it, less the wrong one, which is never 0; in the order of the pairs."""

    def __init__(self, rows: Column, kinds: int) -> None:
        """
        Args:
            kinds: of words or tokens.
        """
        self._rows, self._kinds = rows, kinds

    def columns(self, split: Split) -> sparse.csr_array:
        """The differences in the most frequent, [Q, C]."""
        pairs_of = np.zeros(self._kinds, dtype=np.int64)
        for pair, word, _ in self._some():
            pairs_of += np.bincount(word[split.discovery[pair]], minlength=self._kinds)
        kept = np.argsort(-pairs_of, kind="stable")[:COLUMNS]
        kept = kept[pairs_of[kept] > 0]
        column = np.full(self._kinds, -1, dtype=np.int32)
        column[kept] = np.arange(len(kept))
        parts, of_pair = [], np.zeros(len(split.discovery), dtype=np.int64)
        for pair, word, count in self._some():
            rows = column[word] >= 0
            of_pair += np.bincount(pair[rows], minlength=len(of_pair))
            parts.append((count[rows].astype(np.float64), column[word[rows]]))
        found, of_word = map(np.concatenate, zip(*parts, strict=True))
        del parts
        ends = np.append(0, np.cumsum(of_pair))
        table = sparse.csr_array((found, of_word, ends), shape=(len(of_pair), len(kept)))
        table.sort_indices()
        return table

    def _some(self) -> Iterator[NDArray[np.int32]]:
        """Rows after rows, [3, some]."""
        start = 0
        while len(some := self._rows.read(3 * start, 3 * _ROWS)) or not start:
            yield some.reshape(-1, 3).T
            start += _ROWS


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
        return Differences(self._rows, len(self._numbers))
