"""The decoder for GPUs gives what transformers' modules give, in the same number format, by Triton's interpreter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

interpreter = pytest.importorskip("triton.runtime.interpreter")

from layerscope.config import Site  # noqa: E402
from layerscope.models.fused_decoder import FusedDecoder  # noqa: E402
from layerscope.models.language_model import LanguageModel  # noqa: E402
from layerscope.models.loading import load_language_model  # noqa: E402
from layerscope.models.pair_attention import PairLayout, lay_out  # noqa: E402
from layerscope.numerics import attention_kernel, kernels  # noqa: E402
from layerscope.numerics.transfers import Transfers  # noqa: E402
from layerscope.questions.pairs import PairTokenizer  # noqa: E402
from layerscope.questions.prompts import Prompt  # noqa: E402
from layerscope.questions.shots import Shots  # noqa: E402
from layerscope.questions.sources import Question  # noqa: E402
from plain import DEVICES  # noqa: E402
from simulated_device import NoWaiting  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # infinite as on a GPU, and meant
DEVICE = DEVICES[-1]
LAYERS = [0, 2]
QUESTIONS: list[tuple[str, ...]] = [  # as few tokens as do: the interpreter takes a tenth of a second for each
    ("Keep soup", "ice " * 18, "ice " * 12 + "melts " * 8),  # several blocks, several times the window of 12
    ("Make ice", "Freeze water.", "Freeze water."),  # nothing but shared tokens
    ("a", "b", "c"),
    ("Choose", "wait a while", "wait a lot", "wait and see", "a lot", "none"),
]


_patch_tensor = interpreter._patch_lang_tensor


def _patch_tensor_for_numpy(tensor: Any, scope: Any) -> None:
    """Numpy since 2.4 makes no whole number of an array that is not 0-dimensional, which Triton 3.6 asks of it."""
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


@pytest.fixture(autouse=True)
def _numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", _patch_tensor_for_numpy)


def plain_and_fused(tiny: Path, dtype: torch.dtype) -> tuple[LanguageModel, FusedDecoder]:
    """Transformers' modules, and the decoder over a copy of their weights that no CPU's library has packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerscope.models.loading.pack", lambda *_: None)
        model = load_language_model(tiny / "model", dtype, DEVICE).model
    return LanguageModel(model), FusedDecoder(model)


# Triton's interpreter multiplies bfloat16 by its bits, so that is left to a GPU.
FORMATS = [(torch.float32, 2e-5), (torch.bfloat16, 4e-2)] if DEVICE.type == "cuda" else [(torch.float32, 2e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), FORMATS)
@torch.inference_mode()
def test_the_decoder_gives_what_the_modules_give(tiny: Path, dtype: torch.dtype, tolerance: float) -> None:
    assert_same(*plain_and_fused(tiny, dtype), QUESTIONS, "resid_post", tolerance)


@torch.inference_mode()
def test_attention_to_what_all_rows_begin_with_is_as_if_each_had_it(tiny: Path) -> None:
    """More of it than a block of keys, and than the window."""
    shots = Shots(1, (Question(9, "ice " * 25, "melts", "burns", 0),))
    tokenizer = PairTokenizer(tiny / "model" / "tokenizer.json", 8192, Prompt(shots=shots))
    pairs = [tokenizer.pair(Question(i, "a", f"b{i}", "c d", 0)) for i in range(2)]
    shared, apart = (lay_out(pairs, Transfers(None), share=share) for share in (True, False))
    assert 32 < shared.common < len(shared.tokens) - 2
    random = torch.randn(len(apart.tokens), 3 * 16, generator=torch.Generator().manual_seed(0))
    own = torch.arange(len(apart.tokens))
    second = len(pairs[0].tokens)
    own = torch.cat([own[:second], own[second + shared.common :]])  # of the second row, what the first has not
    random[second : second + shared.common] = random[: shared.common]
    seen = [
        attention_kernel.attention(numbers.to(DEVICE), texts_of(layout), (1, 1), 0.25, 50.0, 12)
        for numbers, layout in ((random[own], shared), (random, apart))
    ]
    torch.testing.assert_close(seen[0], seen[1][own.to(DEVICE)], atol=1e-5, rtol=1e-5)


def texts_of(layout: PairLayout) -> attention_kernel.Texts:
    angles = layout.positions[:, None] / torch.arange(1.0, 9.0)
    parts = layout.positions.int(), layout.common, layout.row_starts, layout.segments, angles.cos(), angles.sin()
    return attention_kernel.Texts(*(part if isinstance(part, int) else part.to(DEVICE) for part in parts))


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "transcoder"])
@torch.inference_mode()
def test_the_decoder_reads_the_site_that_the_modules_read(tiny: Path, site: Site) -> None:
    assert_same(*plain_and_fused(tiny, torch.float32), [("a", "b", "c")], site, 2e-5)


def assert_same(
    model: LanguageModel,
    decoder: FusedDecoder,
    questions: Sequence[tuple[str, ...]],
    site: Site,
    tolerance: float,
) -> None:
    tokenizer = PairTokenizer(Path(model.model.config._name_or_path) / "tokenizer.json", 8192)
    asked = [Question(i, *texts[:3], 0, texts[3:]) for i, texts in enumerate(questions)]
    layout = lay_out([tokenizer.pair(question) for question in asked], model.transfers)
    rows = torch.arange(len(layout.tokens))
    expected = model.through_modules(layout, LAYERS, rows, [site])
    with NoWaiting():
        got = decoder.forward(layout, LAYERS, rows, [site])
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == model.model.dtype
        assert mine.shape == theirs.shape
        distance = float((mine.float() - theirs.float()).norm() / theirs.float().norm())
        assert distance < tolerance


def test_the_modules_keep_working_on_the_weights_that_the_decoder_has(tiny: Path) -> None:
    model, decoder = plain_and_fused(tiny, torch.float32)
    layer = model.model.model.layers[1]
    joined = decoder._layers[1].attention_in
    assert layer.self_attn.q_proj.weight.data_ptr() == joined.data_ptr()
    assert torch.equal(torch.cat([getattr(layer.self_attn, f"{name}_proj").weight for name in "qkv"]), joined)


@pytest.mark.parametrize("softcap", [30.0, 50.0, None])
def test_exponentials_are_summed_over_chunks_whatever_the_cap(softcap: float | None) -> None:
    logits = torch.randn(7, 3000, generator=torch.Generator().manual_seed(0)) * 40
    logits[2] += 200  # whose exponentials float32 does not have
    peak, total = torch.full((7,), -torch.inf), torch.zeros(7)
    for chunk in logits.split(1100, dim=1):
        kernels.add_exponentials(chunk.contiguous(), peak, total, softcap)
    capped = logits.double() if softcap is None else torch.tanh(logits.double() / softcap) * softcap
    np.testing.assert_allclose((peak + total.log()).numpy(), capped.logsumexp(dim=1).numpy(), rtol=1e-6, atol=1e-5)


def test_a_gate_far_below_zero_keeps_its_digits() -> None:
    gate = torch.linspace(-12, 12, 500)[None]
    got = kernels.gelu_product(torch.cat([gate, torch.ones_like(gate)], dim=1))
    wide = gate.double()
    expected = wide * torch.sigmoid(2 * np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))  # tanh has none left at -12
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=2e-5, atol=1e-30)


def test_every_step_is_rounded_where_transformers_rounds() -> None:
    """The norm before it is added, the sum before it is normed again, GELU before it is multiplied.

    In float16, because the interpreter cuts bfloat16 off.
    """
    generator = torch.Generator().manual_seed(0)
    stream, branch = torch.randn(2, 5, 48, generator=generator).half()
    after, before = (Gemma2RMSNorm(48) for _ in range(2))
    for each in (after, before):
        each.weight.data = torch.randn(48, generator=generator)
    total = stream + after(branch)
    expected = before(total)
    got = kernels.add_norm(stream, branch, 1 + after.weight.detach(), 1 + before.weight.detach(), 1e-6)
    assert float((stream != total).float().mean()) < 0.02  # but for ties that a float32's last digit decides
    assert float((got != expected).float().mean()) < 0.02
    gate, up = torch.randn(2, 5, 48, generator=generator).half()
    expected = torch.nn.functional.gelu(gate, approximate="tanh") * up
    assert float((kernels.gelu_product(torch.cat([gate, up], dim=1)) != expected).float().mean()) < 0.02
