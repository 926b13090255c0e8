"""Copies between this process and a device: nothing is read before it is there, and nobody waits who need not."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from layerscope.models.language_model import LanguageModel
from layerscope.models.loading import load_language_model
from layerscope.models.pair_attention import lay_out
from layerscope.numerics.transfers import Transfers
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.sources import Question
from simulated_device import NoWaiting, SimulatedDevice

LAYERS = [0, 2]
QUESTIONS = [
    Question(0, "Keep soup warm", "Put it in a thermos.", "Put it in a sieve.", 0),
    Question(1, "Open a jar", "Turn the lid to the left with a dry cloth.", "Ask it.", 0),
    Question(2, "a", "b", "c", 0),
]


@pytest.fixture(scope="module")
def model(tiny: Path) -> LanguageModel:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:  # weights as a GPU has them, which no CPU's library has packed
        patch.setattr("layerscope.models.loading.pack", lambda *_: None)
        return load_language_model(tiny / "model", torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def pairs(tiny: Path) -> list[Pair]:
    tokenizer = PairTokenizer(tiny / "model" / "tokenizer.json", 8192)
    return [tokenizer.pair(question) for question in QUESTIONS]


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    device = SimulatedDevice()
    yield device
    device.assert_uploads_were_left_alone()


def test_a_batch_through_a_device_has_the_bits_of_one_without_and_waits_once(
    model: LanguageModel, pairs: list[Pair], device: SimulatedDevice
) -> None:
    through = replace(model, transfers=Transfers(device))
    for asked in (pairs, pairs[:1], pairs[1:]):
        before = device.waits
        expected, got = model.forward(asked, LAYERS), through.forward(asked, LAYERS)
        assert got.scores == expected.scores
        assert torch.equal(got.residuals, expected.residuals)
        assert device.waits == before + 1


def test_several_threads_take_turns_and_each_has_its_own(
    model: LanguageModel, pairs: list[Pair], device: SimulatedDevice
) -> None:
    through = replace(model, transfers=Transfers(device))
    expected = [model.forward([pair], LAYERS) for pair in pairs]

    def compute(pair: Pair) -> object:
        torch.set_num_threads(1)
        return through.forward([pair], LAYERS)

    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(compute, pairs * 5))
    for mine, theirs in zip(got, expected * 5, strict=True):
        assert mine.scores == theirs.scores
        assert torch.equal(mine.residuals, theirs.residuals)


def test_the_device_is_given_a_batchs_work_without_a_wait(
    model: LanguageModel, pairs: list[Pair], device: SimulatedDevice
) -> None:
    through = replace(model, transfers=Transfers(device))
    layout = lay_out(pairs, through.transfers)
    with torch.inference_mode(), NoWaiting():
        through.through_modules(layout, LAYERS, layout.read_tokens)
    assert device.waits == 0


def test_all_of_a_batch_is_on_the_models_device(model: LanguageModel, pairs: list[Pair]) -> None:
    """A tensor that was left on the CPU does not meet one of another device."""
    device = SimulatedDevice("meta")
    elsewhere = replace(model, model=type(model.model)(model.model.config).to("meta"), transfers=Transfers(device))
    layout = lay_out(pairs, elsewhere.transfers)
    hidden, residuals = elsewhere.through_modules(layout, LAYERS, layout.read_tokens)
    assert (hidden.device.type, residuals.device.type) == ("meta", "meta")
    assert hidden.shape == (len(layout.tokens), model.model.config.hidden_size)
    assert residuals.shape == (len(LAYERS), 2 * len(pairs), model.model.config.hidden_size)


def _unmarked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("simulated_device.Queue.wait_event", lambda *_: None)


def _unkept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedDevice, "keep", lambda *_: None)


def _pageable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedDevice, "pinned", lambda _, like: torch.empty_like(like))


@pytest.mark.parametrize(
    ("broken", "told"),
    [(_unmarked, "before it was computed"), (_unkept, "somebody else"), (_pageable, "not pinned")],
)
def test_the_simulated_device_sees_a_rule_that_is_broken(
    broken: Callable[[pytest.MonkeyPatch], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    transfers = Transfers(SimulatedDevice())
    with pytest.raises(AssertionError, match=told):
        transfers.download(transfers.upload([1, 2]).float()).wait()


def test_what_nobody_waited_for_is_not_there(device: SimulatedDevice) -> None:
    download = Transfers(device).download(torch.ones(3))
    (unread,) = download._tensors
    assert torch.isnan(unread).all()
    np.testing.assert_array_equal(download.wait()[0], np.ones(3))
