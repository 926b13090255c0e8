"""Word by word a text has the ids that it has as a whole; where that cannot be shown, it is encoded as a whole."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from layerscope.questions import words
from layerscope.questions.words import encoder_of

PIECES = [
    *("a", "b", "soap", "the", ".", "\n", "\n\n", " ", " ", " ", " the", "  ", "    ", "\t", "▁", "▁▁", "a▁b", "\x00"),
    *(
        "<bos>",
        "<unused0>",
        "<end_of_turn>",
        "<table>",
        "<h1>",
        "<",
        "é",
        "e\u0301",
        "漢字",
        "שלום",
        "\U0001f9fc",
        "\u3000",
    ),
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny / "model" / "tokenizer.json"))


def whole(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=3)), max_size=3), st.sampled_from([2, 1 << 18]))
@example([("", ["", " a"]), ("a ", [" b"]), ("a▁", [" b"])], 2)
def test_texts_and_what_goes_on_from_them_have_the_ids_of_the_whole(
    tokenizer: Tokenizer, questions: list[tuple[str, list[str]]], remembered: int
) -> None:
    """A prompt stands before each of its solutions; what is remembered is bounded."""
    encode = encoder_of(tokenizer)
    assert isinstance(getattr(encode, "__self__", None), words._Words)
    texts = [text for prompt, rests in questions for text in (prompt, *(f"{prompt}{rest}" for rest in rests))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_MOST_WORDS", remembered)
        for _ in range(2):
            assert encode(texts) == whole(tokenizer, texts)


def made(vocabulary: Sequence[str], merges: Sequence[tuple[str, str]], **options: object) -> Tokenizer:
    alphabet = {token: number for number, token in enumerate(vocabulary)}
    found = Tokenizer(models.BPE(alphabet, list(merges), **options))  # type: ignore[arg-type]
    found.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    found.decoder = decoders.Replace("▁", " ")  # type: ignore[assignment]
    return found


LETTERS = ["a", "b", "▁", "▁b"]
OF_LETTERS = [("▁", "b")]


def with_added(token: AddedToken) -> Tokenizer:
    found = made(LETTERS, OF_LETTERS)
    found.add_tokens([token])
    return found


def split_elsewhere() -> Tokenizer:
    found = made(LETTERS, OF_LETTERS)
    found.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    return found


def normalised() -> Tokenizer:
    found = made(LETTERS, OF_LETTERS)
    found.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    return found


OTHERS: dict[str, Callable[[], Tokenizer]] = {
    "a token across words": lambda: made([*LETTERS, "a▁b"], [*OF_LETTERS, ("a", "▁b")]),
    "a whole text that is a token": lambda: made([*LETTERS, "ab"], OF_LETTERS, ignore_merges=True),
    "an added token with a blank": lambda: with_added(AddedToken("a b", normalized=False)),
    "an added token that takes blanks along": lambda: with_added(AddedToken("b", lstrip=True)),
    "an added token that is a word": lambda: with_added(AddedToken("b", single_word=True)),
    "another split": split_elsewhere,
    "another normaliser": normalised,
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_a_tokeniser_that_may_join_words_encodes_whole_texts(make: Callable[[], Tokenizer]) -> None:
    texts = ["a b", "a b a b", "b a ", " b", "ab b", ""]
    tokenizer = make()
    encode = encoder_of(tokenizer)
    assert not hasattr(encode, "__self__")
    assert encode(texts) == whole(tokenizer, texts)


@pytest.mark.parametrize("split", [None, pre_tokenizers.Split(" ", "merged_with_previous")])
def test_gemmas_split_by_spaces_finds_none_and_is_known(split: object) -> None:
    tokenizer = made([*LETTERS, "ab"], [*OF_LETTERS, ("a", "b")])
    tokenizer.pre_tokenizer = split  # type: ignore[assignment]
    encode = encoder_of(tokenizer)
    assert hasattr(encode, "__self__")
    assert encode(["ab b a", "b  b"]) == whole(tokenizer, ["ab b a", "b  b"])
