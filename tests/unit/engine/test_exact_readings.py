"""Every reading is what plain transformers and the SAE's formula give, one solution at a time."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from layerscope.engine.batches import encoding as plain_functions
from layerscope.engine.batches.batch import score_batch
from layerscope.engine.batches.encoding import encode_block
from layerscope.engine.batches.lines import residual_rows
from layerscope.models.language_model import LanguageModel
from layerscope.models.loading import load_language_model
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.prompts import Prompt
from layerscope.questions.reading import Reading
from layerscope.questions.shots import Shots
from layerscope.questions.sources import Question
from layerscope.questions.spelling import last_word
from layerscope.records.line.checking import check
from layerscope.records.line.feature_lists import LayerBlock
from layerscope.records.line.lines import ErrorLine, Frame, Outcome, join_record, settle
from layerscope.records.line.readings import Feature, PlacedFeature
from layerscope.records.line.record import Record, parse
from layerscope.records.reading.residuals import RESIDUAL_DTYPES, Layout, residual_readings
from layerscope.saes.encoder import SaeEncoder
from plain import DEVICES, by_transformers, encoders_of

LAYERS = [0, 1, 2]
ALL = ("final", "last-word", "max", "prompt")
PROMPTS = [
    Prompt(),
    Prompt("{goal}", "\n"),
    Prompt("<start_of_turn>user\n{goal}<end_of_turn>\n<start_of_turn>model\n", ""),
]


class Bench:
    """The tiny stand-in, loaded by us and by anybody else."""

    def __init__(self, tiny: Path, device: torch.device) -> None:
        torch.set_num_threads(1)
        self.device = device
        self.model: LanguageModel = load_language_model(tiny / "model", torch.float32, device)
        self.plain = by_transformers(tiny / "model")
        self.encoders, self.arrays = encoders_of(tiny, LAYERS, device)
        self.file = tiny / "model" / "tokenizer.json"

    def tokenizer(self, reading: Reading) -> PairTokenizer:
        return PairTokenizer(self.file, 8192, reading.prompt, spell=reading.spells)

    def records(self, questions: Sequence[Question], reading: Reading, k: int | None = 10) -> list[Record]:
        """By our own functions, in one batch."""
        lines = self.lines(questions, reading, k)
        records = [record for record in map(parse, lines) if isinstance(record, Record)]
        for record in records:
            check(record, k or "all", 1024)
        return records

    def lines(self, questions: Sequence[Question], reading: Reading, k: int | None = 10) -> list[bytes]:
        settled, blocks = self.batch(questions, reading, k)
        return [
            outcome.line if isinstance(outcome, ErrorLine) else b"".join(join_record(outcome, blocks))
            for outcome in settled
        ]

    def batch(
        self, questions: Sequence[Question], reading: Reading, k: int | None = 10
    ) -> tuple[list[Outcome], list[LayerBlock]]:
        scored = score_batch(self.model, self.tokenizer(reading), questions, LAYERS, reading)
        blocks = [
            encode_block(scored.residuals[at].to(self.device), LAYERS[at], self.encoders[at], k, scored.spans, reading)
            for at in (slice(0, 2), slice(2, 3))
        ]
        return [settle(outcome, blocks) for outcome in scored.outcomes], blocks

    @torch.inference_mode()
    def residuals(self, ids: Sequence[int]) -> list[np.ndarray]:
        """By transformers: the residual stream [T, D] of every token of a text, after each layer."""
        residuals = list[np.ndarray]()
        hooks = [
            layer.register_forward_hook(lambda _m, _i, output: residuals.append(output[0].numpy()))
            for layer in self.plain.model.layers
        ]
        self.plain(input_ids=torch.tensor([list(ids)]), use_cache=False)
        for hook in hooks:
            hook.remove()
        return residuals

    def active(self, ids: Sequence[int]) -> list[np.ndarray]:
        """By the formula: the activations [T, F] of every token of a text, of each layer."""
        found = []
        for residual, sae in zip(self.residuals(ids), self.arrays, strict=True):
            pre = residual @ sae["W_enc"] + sae["b_enc"]
            found.append(np.where(pre > sae["threshold"], np.maximum(pre, 0), 0))
        return found


@pytest.fixture(scope="module", params=DEVICES, ids=str)
def bench(tiny: Path, request: pytest.FixtureRequest) -> Bench:
    return Bench(tiny, request.param)


def assert_listed(features: Sequence[Feature], count: int, activations: np.ndarray, k: int = 10) -> None:
    """The strongest of these activations [F] are listed; rounding may move what is near the threshold or the cut."""
    near = 2e-3 + 1e-4 * float(activations.max(initial=0))
    listed = {each.feature_id: each.activation for each in features}
    cut = float(np.sort(activations)[-k]) if np.count_nonzero(activations) >= k else 0.0
    assert abs(count - np.count_nonzero(activations)) <= 1
    for feature_id, activation in listed.items():
        assert activation == pytest.approx(float(activations[feature_id]), abs=near)
    missing = {int(i) for i in np.flatnonzero(activations > cut + near)} - listed.keys()
    assert len(missing) <= abs(count - np.count_nonzero(activations))


def assert_as_if_alone(bench: Bench, questions: Sequence[Question], reading: Reading) -> None:
    records = {record.example_id: record for record in bench.records(questions, reading)}
    tokenizer = PairTokenizer(bench.file, 8192, reading.prompt, spell=True)
    for question in questions:
        pair, record = tokenizer.pair(question), records[question.example_id]
        assert pair.spelled is not None
        assert [solution.text for solution in record.in_order] == list(question.solutions)
        recorded = [record.label, record.negative_index]
        details_of = dict(zip(recorded, record.solutions, strict=True))
        details_of |= {other.index: other.details for other in record.more if other.details is not None}
        for solution, details in details_of.items():
            text = question.solutions[solution]
            ids = [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]
            tokens, spelled = len(ids) - pair.prompt, pair.spelled[solution]
            assert details.token_count == tokens
            with_words = [i for i, word in enumerate(spelled) if any(letter.isalnum() for letter in word)]
            word = with_words[-1] if with_words else tokens - 1
            found = details.other_readings
            assert found
            assert found.last_word
            assert found.last_word.token == word
            if reading.tokens:
                assert details.tokens == list(spelled)
                assert "".join(spelled) == text
            for layer, activations in zip(LAYERS, bench.active(ids), strict=True):
                of_solution = activations[pair.prompt :]
                expected = {
                    "final": activations[-1],
                    "last-word": of_solution[word],
                    "max": of_solution.max(axis=0),
                    "prompt": activations[pair.prompt - 1],
                }
                for name, own in expected.items():
                    lists = details.reading(name)
                    features = lists.active_features_by_layer[layer]
                    assert_listed(features, lists.active_feature_count_by_layer[layer], own)
                    for each in features:
                        if isinstance(each, PlacedFeature):
                            column = of_solution[:, each.feature_id]
                            assert column[each.token] == pytest.approx(column.max(), abs=2e-3)
                            assert abs(each.token_count - np.count_nonzero(column)) <= 1
                            if each.token_activations is not UNSET:
                                far = np.abs(np.subtract(each.token_activations, column)) > 2e-3
                                assert far.sum() <= 1  # at a threshold, rounding decides whether it fires


ODD = [
    ("Keep soup warm", "Cut it.", "Cut it with a knife and then wait."),  # one is nearly a prefix of the other
    ("Keep soup warm", "Use a rope.", "Use a rope."),
    ("a", "x", "y"),  # one token each
    ("long", "ice " * 400 + ".", "ice " * 399 + "melts."),
    ("<bos> soap", "<bos> <end_of_turn>", "<eos>"),
    ("العربية", "日本語 ☃ 🧼", "漢字。"),
    ("no word", "...!", "?!"),
]


MANY = [
    Question(0, "Keep soup warm", "Cut it.", "Cut it with a knife.", 3, ("Cut", "Cut it with ice and wait", "漢字")),
    Question(1, "a", "x", "y", 1),  # beside rows of many
    Question(2, "long", "ice " * 40 + "melts", "ice " * 40 + "is", 0, ("ice " * 30 + "was cold", "water")),
    Question(3, "same", "a b", "a c", 2, ("a d",)),
]


@pytest.mark.parametrize("recorded", [2, 5])
def test_every_reading_of_many_solutions_is_what_each_alone_would_give(bench: Bench, recorded: int) -> None:
    """Of the right one and the strongest wrong one, or of all."""
    reading = Reading(ALL, True, solutions=recorded, more=True)
    assert_as_if_alone(bench, MANY, reading)
    records = bench.records(MANY, reading)
    assert [len(record.recorded) for record in records] == ([2] * 4 if recorded == 2 else [5, 2, 4, 3])
    assert [record.negative_index for record in records] == [
        max((i for i in range(len(of)) if i != record.label), key=lambda i, of=of: of[i].score)
        for record, of in ((record, record.in_order) for record in records)
    ]


def test_the_right_one_and_the_strongest_wrong_one_are_recorded_as_if_all_were(bench: Bench) -> None:
    """Byte for byte, whatever is recorded besides."""
    some, every = (bench.lines(MANY, Reading(ALL, solutions=recorded, more=True)) for recorded in (2, 5))
    for one, other in zip(some, every, strict=True):
        assert one.partition(b',"others":')[0] == other.partition(b',"others":')[0]


def test_examples_that_rows_begin_with_are_read_once_and_every_reading_is_as_if_alone(bench: Bench) -> None:
    """With one that is an example itself, whose row begins otherwise, and beyond the sliding window."""
    examples = (
        Question(9, "cut ice", "with a saw", "with soap", 0),
        Question(8, "dry it", "wait", "cut it", 1),
        MANY[1],
    )
    reading = Reading(ALL, True, Prompt(shots=Shots(2, examples, spare=1)), solutions=5, more=True)
    pairs = [bench.tokenizer(reading).pair(question) for question in MANY]
    assert len({pair.common for pair in pairs}) == 2
    for questions in (MANY, [MANY[0], *MANY[2:]]):
        assert_as_if_alone(bench, questions, reading)
    scored = score_batch(bench.model, bench.tokenizer(reading), [MANY[0], *MANY[2:]], LAYERS, reading)
    assert scored.tokens == sum(len(pair.tokens) for pair in (pairs[0], *pairs[2:])) - 2 * pairs[0].common


@pytest.mark.parametrize("prompt", PROMPTS, ids=["default", "bare", "chat"])
def test_every_reading_is_what_each_solution_alone_would_give(bench: Bench, prompt: Prompt) -> None:
    """With padding, shared beginnings, texts that look like control tokens, and solutions of one and many tokens."""
    questions = [Question(number, *texts, number % 2) for number, texts in enumerate(ODD)]
    assert_as_if_alone(bench, questions, Reading(ALL, True, prompt))


WORDS = st.sampled_from(["cut", "the ", " bread", "ice", " ", "\n", "é", "☃", "<bos>", "12", ".", "漢", "\U0001f9fc"])
SOLUTION = st.lists(WORDS, min_size=1, max_size=8).map("".join).filter(str.strip)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.tuples(SOLUTION, SOLUTION, SOLUTION), min_size=1, max_size=3))
@example([("ice", ".", ". .")])
def test_any_questions_together_are_read_as_each_alone(bench: Bench, texts: list[tuple[str, str, str]]) -> None:
    assert_as_if_alone(
        bench, [Question(i, *each, 0) for i, each in enumerate(texts)], Reading(ALL, True, token_activations=3)
    )


QUESTIONS = [Question(number, *texts, number % 2) for number, texts in enumerate(ODD[:3] + ODD[4:])]


@pytest.mark.parametrize("names", [("final",), ("final", "max"), ("final", "last-word", "prompt"), ALL])
def test_what_else_is_read_changes_no_reading_beyond_rounding(bench: Bench, names: tuple[str, ...]) -> None:
    """And with `final` alone the lines are those of a run that knows of no other."""
    some, every = (bench.records(QUESTIONS, Reading(each)) for each in (names, ALL))
    for one, other in zip(some, every, strict=True):
        for details, more in zip(one.solutions, other.solutions, strict=True):
            assert list(details.readings) == list(names)
            for name in names:
                mine, theirs = details.reading(name), more.reading(name)
                for layer in LAYERS:
                    close = theirs.active_features_by_layer[layer]
                    assert {f.feature_id for f in mine.active_features_by_layer[layer]} == {f.feature_id for f in close}


@pytest.mark.parametrize("fails_above", [40, 7, 1])
def test_rows_that_do_not_fit_the_memory_at_once_give_the_same_lists(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fails_above: int
) -> None:
    """A solution's tokens then lie in several parts, and its strongest are over all of them."""
    whole = bench.records(QUESTIONS, Reading(ALL), None)
    multiply = plain_functions.encode_spans

    def small(rows: torch.Tensor, sae: SaeEncoder, k: int | None, spans: object, at_once: int, *more: Any) -> object:
        if at_once > fails_above:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return multiply(rows, sae, k, spans, at_once, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(plain_functions, "encode_spans", small)
    for mine, expected in zip(bench.records(QUESTIONS, Reading(ALL), None), whole, strict=True):
        for details, others in zip(mine.solutions, expected.solutions, strict=True):
            for name in ALL:
                for layer in LAYERS:
                    (got, theirs) = (each.reading(name).active_features_by_layer[layer] for each in (details, others))
                    assert dict(_by_feature(got)) == {
                        key: pytest.approx(of, rel=1e-5) for key, of in _by_feature(theirs)
                    }


def _by_feature(features: Sequence[Feature]) -> Iterator[tuple[tuple[int, int], float]]:
    """Activations, by feature and number of tokens."""
    for each in features:
        count = each.token_count if isinstance(each, PlacedFeature) else 0
        yield (each.feature_id, count), each.activation


def test_a_row_that_both_solutions_share_is_read_once(bench: Bench) -> None:
    question = Question(0, "soap", "Use a rope to tie it", "Use a rope to cut it", 0)
    reading = Reading(ALL)
    scored = score_batch(bench.model, bench.tokenizer(reading), [question], LAYERS, reading)
    pair = bench.tokenizer(reading).pair(question)
    assert scored.residuals.shape[1] == len(pair.tokens) - pair.prompt + 1
    assert json.loads(bench.lines([question], reading)[0])["error"] == ""


@pytest.mark.parametrize("names", [ALL, ("final", "last-word"), ("final", "max")])
def test_kept_residuals_are_those_of_each_solution_alone_at_the_readings_tokens(
    bench: Bench, names: tuple[str, ...]
) -> None:
    """The right solution first; of `max`, which takes many tokens, none; and NaN where a question cannot be scored."""
    questions = [
        Question(number, *texts, number % 2) for number, texts in enumerate([*ODD[:2], ("no", "", "x"), *ODD[2:]])
    ]
    found = kept_rows(bench, questions, Reading(names, residuals="float32"))
    tokenizer = PairTokenizer(bench.file, 8192, Prompt(), spell=True)
    for number, question in enumerate(questions):
        if not question.sol1:
            assert np.isnan(found[:, number]).all()
            continue
        pair = tokenizer.pair(question)
        assert pair.spelled is not None
        for solution in (0, 1):
            ids = [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]
            places = {
                "final": -1,
                "last-word": pair.prompt + last_word(pair.spelled[solution]),
                "prompt": pair.prompt - 1,
            }
            own = np.stack(bench.residuals(ids))[:, [places[name] for name in names if name != "max"]]
            np.testing.assert_allclose(found[:, number, :, solution ^ question.label], own, rtol=2e-4, atol=2e-4)
    halves = kept_rows(bench, questions, Reading(names, residuals="float16"))
    np.testing.assert_array_equal(halves, found.astype(np.float16))


def kept_rows(bench: Bench, questions: Sequence[Question], reading: Reading) -> np.ndarray:
    """[layers, questions, readings, 2, d_model] as a run writes them."""
    outcomes, blocks = bench.batch(questions, reading)
    assert reading.residuals
    one_token, dtype = residual_readings(reading.names), RESIDUAL_DTYPES[reading.residuals]
    layout = Layout(Path(), tuple(LAYERS), one_token, len(questions), 32, dtype)
    rows = residual_rows([outcome if isinstance(outcome, Frame) else None for outcome in outcomes], blocks)
    joined = [np.frombuffer(rows.joined(layer, layout), dtype) for layer in range(len(LAYERS))]
    return np.stack(joined).reshape(len(LAYERS), *layout.shape(len(questions)))


def test_numbers_beyond_float16_become_its_largest_and_are_told(bench: Bench) -> None:
    """Nothing becomes infinite in silence; what was not finite before is no number that was clamped."""
    rows = torch.tensor([[[7e4, -1e5, 65504, 65519.0] + [1.0] * 28, [float("nan"), float("inf")] + [0.5] * 30]])
    encoders = bench.encoders[:1]
    block = encode_block(rows.to(bench.device), LAYERS[:1], encoders, 5, None, Reading(residuals="float16"))
    assert block.clamped
    assert block.residuals is not None
    assert block.residuals[0, 0, :4].tolist() == [65504, -65504, 65504, 65504]
    whole, half = Reading(residuals="float32"), Reading(residuals="float16")
    for numbers, reading in ((rows, whole), (rows[:, 1:], half), (rows.clamp(-65504, 65504), half)):
        assert not encode_block(numbers.to(bench.device), LAYERS[:1], encoders, 5, None, reading).clamped
