"""Texts to token ids word by word: the same ids as of the whole text, for a fraction of the time.

A tokeniser that pairs symbols (BPE) and knows no token in which a blank follows something else never joins anything
across such a place. There a text can be cut, and what the words of all questions have in common is tokenised once. Of a
tokeniser for which that cannot be shown, whole texts are encoded.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer, models

_BLANK = "▁"  # what stands for a space in the vocabulary, and may stand in a text
_INSIDE = re.compile(rf"[^ {_BLANK}][ {_BLANK}]")  # what no token may hold
_BETWEEN_WORDS = re.compile(rf"(?<=[^ {_BLANK}])(?= )")
_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}
_SPLITS = (None, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False})
"""What comes before the pairing: nothing, or what finds no space any more because of the normaliser."""
_CUT = "\0"
_MOST_WORDS = 1 << 18  # that are remembered

Ids = Sequence[int]


def encoder_of(tokenizer: Tokenizer) -> Callable[[Sequence[str]], list[Ids]]:
    """From texts to the ids that a tokeniser gives them, without special tokens."""
    if _joins_no_words(tokenizer):
        return _Words(tokenizer).encode
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


class _Words:
    """Remembers the ids of words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Of each text. One that goes on from an earlier one, as a solution from its prompt, is cut there too."""
        if len(self._known) > _MOST_WORDS:
            self._known.clear()
        split, begins = list[list[str]](), list[int]()  # words of each behind the text that it goes on from, if any
        base, beginning = -1, " "
        for number, text in enumerate(texts):
            goes_on = text.startswith(beginning) and beginning[-1] not in f" {_BLANK}"
            if goes_on and text[len(beginning) :].startswith(" "):
                split.append(_words(text[len(beginning) :]))
                begins.append(base)
            else:
                split.append(_words(text))
                begins.append(-1)
                base, beginning = number, text or " "
        new = set(chain.from_iterable(split)).difference(self._known)
        if new:
            self._learn(list(new))
        ids_of, found = self._known.__getitem__, list[list[int]]()
        for begin, words in zip(begins, split, strict=True):
            own = list(chain.from_iterable(map(ids_of, words)))
            found.append(own if begin < 0 else found[begin] + own)
        return list(found)

    def _learn(self, words: Sequence[str]) -> None:
        encodings = self._tokenizer.encode_batch_fast(words, add_special_tokens=False)
        self._known |= {word: encoding.ids for word, encoding in zip(words, encodings, strict=True)}


def _words(text: str) -> list[str]:
    """The words of a text, each but the first with the space before it."""
    if "  " in text or _BLANK in text or _CUT in text:
        return _BETWEEN_WORDS.split(text)
    return text.replace(" ", f"{_CUT} ").split(_CUT)  # thrice as fast as by a pattern


def merged(parts: Iterable[str | int]) -> list[str | int]:
    """Texts and control tokens in turn, with a text at the end: texts that follow one another are one."""
    merged: list[str | int] = [""]
    for part in parts:
        if isinstance(part, str) and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged += [part] if isinstance(part, str) else [part, ""]
    return merged


def _joins_no_words(tokenizer: Tokenizer) -> bool:
    """Whether nothing that the tokeniser does goes across a place where a space follows something else."""
    model = tokenizer.model
    if not isinstance(model, models.BPE) or model.dropout or model.ignore_merges:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    if _state(tokenizer.normalizer) != _NORMALIZER or _state(tokenizer.pre_tokenizer) not in _SPLITS:
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip or token.single_word for token in added):
        return False
    return not any(_INSIDE.search(token) for token in tokenizer.get_vocab(with_added_tokens=True))


def _state(part: Any) -> object:
    return None if part is None else json.loads(part.__getstate__())
