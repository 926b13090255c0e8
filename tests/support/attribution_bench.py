"""Attributions of the tiny stand-in, by layerscope and by the formula with transformers' autograd and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.config import Site
from layerscope.engine.batches.batch import score_batch
from layerscope.engine.batches.encoding import encode_block
from layerscope.models.family import SitePoint
from layerscope.models.loading import load_language_model
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.reading import Reading
from layerscope.questions.sources import Question
from layerscope.records.line.attributions import Attributions
from layerscope.records.line.checking import check
from layerscope.records.line.lines import Frame, join_record, settle
from layerscope.records.line.record import Record, parse
from layerscope.saes.attribution import SaeDecoder, ToAttribute
from layerscope.saes.encoder import SaeEncoder
from plain import by_transformers, encoders_of
from plain_gradients import gradient_alone

LAYERS = [0, 1, 2]
CPU = torch.device("cpu")
D_MODEL, D_SAE = 32, 1024
QUESTIONS = [
    Question(0, "Keep soup warm", "Cut it.", "Cut it with a knife and then wait.", 0),
    Question(1, "Keep soup warm", "with a lid, in a pan", "with a sieve", 1),
    Question(2, "a", "x", "y", 1),
    Question(3, "Keep bread", "in a box", "in a", 0),  # one is the other's beginning
    Question(4, "Keep bread", "Use a rope.", "Use a rope.", 0),
]
Kind = Literal["plain", "norm", "transcoder", "centred transcoder"]
"""SAEs as Gemma Scope's; those that divide a row by its size; transcoders with an affine connection, as they are and
with rows of mean 0 and deviation 1."""
_MLP_OUT = SitePoint("post_feedforward_layernorm", "output", lambda _: D_MODEL)
_EPSILON = {"norm": 0.0, "deviation": 1e-5}


class Bench:
    """The tiny stand-in, loaded by us and by anybody else, with decoders that have a bias."""

    def __init__(self, tiny: Path, kind: Kind = "plain") -> None:
        torch.set_num_threads(1)
        self.model = load_language_model(tiny / "model", torch.float32, CPU)
        self.plain = by_transformers(tiny / "model")
        self.encoders, self.arrays = encoders_of(tiny, LAYERS, CPU)
        rng = np.random.default_rng(0)
        for arrays in self.arrays:
            arrays["b_dec"] = rng.normal(size=D_MODEL).astype(np.float32)
        self.decoders = [
            SaeDecoder(torch.from_numpy(arrays["W_dec"]), torch.from_numpy(arrays["b_dec"])) for arrays in self.arrays
        ]
        self.scaling: Any = {"norm": "norm", "centred transcoder": "deviation"}.get(kind, "none")
        self.sites: tuple[Site, ...] = ("transcoder", "mlp_out") if "transcoder" in kind else ("resid_post",)
        if kind != "plain":
            self._change(rng)
        self.means = [np.zeros(D_SAE, np.float32) for _ in LAYERS]
        self.tokenizer_path = tiny / "model" / "tokenizer.json"
        self.tokenizer = PairTokenizer(self.tokenizer_path, 8192)

    def _change(self, rng: np.random.Generator) -> None:
        """Of the dictionaries what makes them of this kind: thresholds for rows of their size, an affine connection."""
        self.encoders = []
        for number, arrays in enumerate(self.arrays):
            w_enc = arrays["W_enc"] - (arrays["W_enc"].mean(axis=0) if self.scaling == "deviation" else 0)
            arrays["threshold"] = np.full(D_SAE, 1.5, np.float32)
            vectors = (torch.from_numpy(arrays[name]) for name in ("b_enc", "threshold"))
            self.encoders.append(SaeEncoder(torch.from_numpy(w_enc), *vectors, self.scaling))
            if "transcoder" in self.sites:
                arrays["skip"] = rng.normal(size=(D_MODEL, D_MODEL)).astype(np.float32)
                self.decoders[number] = replace(self.decoders[number], skip=torch.from_numpy(arrays["skip"]))
            self.decoders[number] = replace(self.decoders[number], scaling=self.scaling)

    def against(self, means: list[NDArray[np.float32]]) -> None:
        """Attributes against these from here on, by layer [F]."""
        self.means = means
        both = zip(self.decoders, means, strict=True)
        self.decoders = [
            replace(decoder, mean=torch.from_numpy(mean) if mean.any() else None) for decoder, mean in both
        ]

    def reading(self, names: tuple[str, ...] = ("final",)) -> Reading:
        return Reading(names, attribution="gradient", sites=self.sites, writes=self.sites[-1])

    def records(self, questions: list[Question], reading: Reading, k: int | None) -> list[Record]:
        scored = score_batch(self.model, self.tokenizer, questions, LAYERS, reading)
        assert scored.gradients is not None
        assert scored.groups is not None
        blocks = []
        for at in (slice(0, 2), slice(2, 3)):
            rows = scored.residuals[at]
            attribute = ToAttribute(scored.gradients[at], scored.groups, self.decoders[at], rows[..., -D_MODEL:])
            of_block = rows[..., :D_MODEL], LAYERS[at], self.encoders[at], k, scored.spans, reading
            blocks.append(encode_block(*of_block, attribute))
        records = []
        for outcome in scored.outcomes:
            settled = settle(outcome, blocks)
            assert isinstance(settled, Frame)
            record = parse(b"".join(join_record(settled, blocks)))
            assert isinstance(record, Record)
            check(record, k or "all", D_SAE, against_means=self.decoders[0].mean is not None)
            records.append(record)
        return records

    def expected(self, pair: Pair, record: Record) -> dict[str, list[dict[str, Any]]]:
        """Of every group and layer: attributions [T, F] of its tokens and their activations, and its terms."""
        sides = {"positive": (record.label, 1), "negative": (record.negative_index, -1)}
        found: dict[str, list[dict[str, Any]]] = {}
        for name, (solution, sign) in sides.items():
            read, written, gradients = self._alone(pair, solution)
            for group, tokens in {
                name: range(max(pair.shared, pair.prompt), pair.lengths[solution]),
                "common": range(pair.prompt, pair.shared),
                "prompt": range(1, min(pair.prompt, pair.shared)),
            }.items():
                layers, at = found.setdefault(group, [{} for _ in LAYERS]), list(tokens)
                for layer, of_layer in enumerate(layers):
                    part = self._of_tokens(layer, read[layer, at], written[layer, at], sign * gradients[layer, at])
                    part["activations"] = of_layer.pop("activations", part["activations"])
                    of_layer |= {key: value + of_layer.get(key, 0) for key, value in part.items()}
                    of_layer["activations"] = part["activations"]
        return found

    def _alone(self, pair: Pair, solution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What dictionaries read of every token of a text, what they write, and the gradient by that: [L, T, D]."""
        if "transcoder" not in self.sites:
            states, gradients = (part.numpy() for part in gradient_alone(self.plain, pair, solution))
            return states, states, gradients
        read = list[Tensor]()

        def keep(norm: Any, inputs: tuple[Tensor]) -> None:
            states = inputs[0][0].detach()
            read.append(states / (states.square().mean(dim=1, keepdim=True) + norm.eps).sqrt())

        norms = [layer.pre_feedforward_layernorm for layer in self.plain.model.layers]
        hooks = [norm.register_forward_pre_hook(keep) for norm in norms]
        written, gradients = (part.numpy() for part in gradient_alone(self.plain, pair, solution, _MLP_OUT))
        for hook in hooks:
            hook.remove()
        return torch.stack(read).numpy(), written, gradients

    def _of_tokens(self, layer: int, read: np.ndarray, written: np.ndarray, gradient: np.ndarray) -> dict[str, Any]:
        sae, means = self.arrays[layer], self.means[layer]
        mean = read.mean(axis=1, keepdims=True) * (self.scaling == "deviation")
        size = {
            "none": np.ones((len(read), 1)),
            "norm": np.sqrt(np.square(read).mean(axis=1, keepdims=True)),
            "deviation": (read - mean).std(axis=1, ddof=1, keepdims=True),
        }[self.scaling]
        pre = (read - mean) / (size + _EPSILON.get(self.scaling, 0)) @ sae["W_enc"] + sae["b_enc"]
        activations = np.where(pre > sae["threshold"], np.maximum(pre, 0), 0)  # [T, F]
        beside = mean + (read @ sae["skip"] if "skip" in sae else 0)
        error = written - (activations @ sae["W_dec"] + sae["b_dec"]) * size - beside
        return {
            "attributions": (activations - means) * (size * gradient @ sae["W_dec"].T),
            "activations": activations,
            "bias": float((size * gradient @ (sae["b_dec"] + means @ sae["W_dec"])).sum()),
            "skip": float((gradient * beside).sum()),
            "error": float((gradient * error).sum()),
            "total": float((gradient * written).sum()),
        }


def assert_by_the_formula(bench: Bench, names: tuple[str, ...], k: int | None) -> None:
    bench.tokenizer = PairTokenizer(bench.tokenizer_path, 8192, spell="last-word" in names)
    records = bench.records(QUESTIONS, bench.reading(names), k)
    for question, record in zip(QUESTIONS, records, strict=True):
        pair = bench.tokenizer.pair(question)
        expected = bench.expected(pair, record)
        assert list(record.attributions) == ["positive", "negative", "common", "prompt"]
        scale = max(float(np.abs(of["attributions"]).sum()) for group in expected.values() for of in group)
        parts = ("bias", "skip", "error")
        scale = max(scale, *(abs(of[name]) for group in expected.values() for of in group for name in parts))
        for name, group in record.attributions.items():
            first = {"common": 0, "prompt": 1}.get(name, max(pair.shared - pair.prompt, 0))
            _assert_attributed(group, expected[name], first, max(scale, 1.0), k)
    empty = records[3].attributions["negative"]
    assert not any(empty.lists.values())
    assert all(terms.total == 0 for terms in empty.terms.values())


def _assert_attributed(
    group: Attributions, expected: list[dict[str, Any]], first: int, scale: float, k: int | None
) -> None:
    for layer in LAYERS:
        features, terms, own = group.lists[layer], group.terms[layer], expected[layer]
        by_token, near = own["attributions"], 1e-4 * scale
        sums = by_token.sum(axis=0)
        for feature in features:
            assert feature.attribution == pytest.approx(float(sums[feature.feature_id]), abs=near)
            shares = by_token[:, feature.feature_id] * np.sign(feature.attribution)
            assert shares[feature.token - first] == pytest.approx(shares.max(), abs=near)
            assert feature.activation == pytest.approx(
                float(own["activations"][feature.token - first, feature.feature_id]), abs=2e-3
            )
        listed = {feature.feature_id for feature in features}
        cut = min((abs(feature.attribution) for feature in features), default=0) if len(features) == k else 0
        assert not set(np.flatnonzero(np.abs(sums) > cut + 2 * near).tolist()) - listed
        assert terms.features == pytest.approx(float(sums.sum()), abs=near)
        for name in ("bias", "skip", "error", "total"):
            assert getattr(terms, name) == pytest.approx(own[name], abs=near)
        parts = terms.features + terms.bias + terms.skip + terms.error
        assert parts == pytest.approx(terms.total, abs=1e-5 * scale)
