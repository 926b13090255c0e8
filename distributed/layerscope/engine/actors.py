"""The Ray actors: thin shells that load once and call the plain functions of `batch.py` and `encoding.py`.

Torch is imported inside the methods, so in the actors' processes only: the driver imports this module for the classes
and stays small.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import ray

from layerscope.config import FIRST
from layerscope.engine.batches.answers import Activations, Arrival, Encoded, Scores, TorchSettings
from layerscope.engine.batches.lines import PackedLines, batch_lines, packed
from layerscope.engine.batches.loading import EncodersToLoad
from layerscope.engine.cluster.logs import ActorLog
from layerscope.engine.faults import device_faults
from layerscope.formatting import ranges
from layerscope.hub.repository import Repository
from layerscope.models.spec import ModelSpec, fetch_model, tokenizer_path
from layerscope.planning.machine import probe
from layerscope.planning.node import Node
from layerscope.planning.to_ablate import ToAblate
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.reading import Reading
from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import LayerBlock
from layerscope.records.line.lines import WholeLine
from layerscope.records.manifest.fingerprints import Fingerprint
from layerscope.records.manifest.identity import Packing
from layerscope.records.means import read_means
from layerscope.standin import on_this_node

# Idle threads must sleep soon: spinning ones take the cores from the other actors (small products: 30 times slower).
# Not at once: being woken for every operation costs a forward pass that runs alone a tenth of its time.
WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


PACKS_AT_ONCE = 4  # threads of an encoder that compress: its GPU need not wait for them


class _Actor:
    """What both kinds do first."""

    def begin(self) -> Arrival:
        """Says where it is."""
        return Arrival(probe(), ray.get_runtime_context().get_node_id(), os.getpid())


@ray.remote
class GemmaActor(_Actor):
    """A copy of the model: questions in, frames and activations out."""

    @device_faults
    def load(
        self,
        repository: Repository,
        spec: ModelSpec,
        blocks: Sequence[Sequence[int]],
        reading: Reading,
        settings: TorchSettings,
        ablation: ToAblate | None = None,
    ) -> Fingerprint:
        """Loads the model; not done in the constructor, whose errors Ray flattens to text.

        Args:
            ablation: what is to be ablated, where that is the work; there are no blocks then.
        """
        from layerscope.models.lean_import import import_transformers

        import_transformers()
        from layerscope.engine.batches.batch import warm_up_model
        from layerscope.engine.batches.probes import model_fingerprint
        from layerscope.models.loading import load_language_model

        device, dtype = settings.apply()
        repository = on_this_node(repository)
        self._log = ActorLog("gemma")
        self._blocks, self._reading = blocks, reading
        self._layers = [layer for block in blocks for layer in block] if ablation is None else ablation.layers
        with self._log.timed("load"):
            self._tokenizer = PairTokenizer(
                tokenizer_path(repository), spec.context, reading.prompt, spell=reading.spells
            )
            self._model = load_language_model(fetch_model(repository, spec), dtype, device)
            if device.type == "cuda":
                warm_up_model(self._model, self._tokenizer, self._layers, reading)
            self._ablator = None
            if ablation is not None:
                from layerscope.engine.batches.ablating import Ablator

                self._ablator = Ablator(self._model, self._tokenizer, ablation, spec.width(ablation.site))
        with self._log.timed("fingerprint"):
            return model_fingerprint(self._model, sorted(self._layers))

    @device_faults
    def score(
        self, batch: int, questions: Sequence[Question], apart: bool = False
    ) -> tuple[Scores | Activations, ...] | Scores:
        """One batch. May be called in several threads: one batch is tokenised while a GPU computes another.

        Args:
            apart: the outcomes are in a second value alone, an object of its own.

        Returns:
            the scores, then per layer block the residual stream of the tokens that are read, as separate values, so
            that each becomes an object of its own. Of ablations the scores alone, whose outcomes are the lines.
        """
        from layerscope.engine.batches.batch import score_batch, to_array

        if self._ablator is not None:
            with self._log.timed("ablate", batch=batch, questions=len(questions)) as span:
                lines, halved, tokens = self._ablator.lines(batch, questions)
            return Scores.of([WholeLine(line) for line in lines], halved, tokens, span())
        with self._log.timed("score", batch=batch, questions=len(questions)) as span:
            scored = score_batch(self._model, self._tokenizer, questions, self._layers, self._reading)
            ends = np.cumsum([len(block) for block in self._blocks])[:-1].tolist()
            blocks = [to_array(block) for block in scored.residuals.tensor_split(ends)]
            gradients = [None] * len(blocks) if scored.gradients is None else scored.gradients.tensor_split(ends)
            activations = [
                Activations(block, scored.spans, None if back is None else to_array(back), scored.groups)
                for block, back in zip(blocks, gradients, strict=True)
            ]
        scores = Scores.of(scored.outcomes, scored.halved, scored.tokens, span())
        return (scores._replace(outcomes=None), scores, *activations) if apart else (scores, *activations)


@ray.remote(concurrency_groups={"pack": PACKS_AT_ONCE})  # type: ignore[call-overload]  # which Ray knows
class EncoderActor(_Actor):
    """The SAE encoders of one layer block: activations in, features as JSON out."""

    @device_faults
    def load(
        self,
        layers: Sequence[int],
        dictionaries: Sequence[EncodersToLoad],
        residuals: str,
        reading: Reading,
        settings: TorchSettings,
    ) -> Fingerprint:
        """Loads the encoders.

        Args:
            layers: of the block.
            residuals: number format of what they will get.
        """
        import torch

        from layerscope.engine.batches.encoding import Encoders, warm_up_encoders
        from layerscope.engine.batches.probes import encoder_fingerprint
        from layerscope.saes.attribution import SaeDecoder
        from layerscope.saes.cache import load_encoder
        from layerscope.saes.decoders import load_decoder

        self._device, dtype = settings.apply()
        self._layers, self._reading = layers, reading
        self._log = ActorLog(f"encoder {ranges(self._layers)}")
        self._dictionaries, self._decoders = list[Encoders](), list[SaeDecoder]()
        self._written: slice | None = None
        with self._log.timed("load"):
            means = read_means(reading.means, self._layers) if reading.means else None
            for name, repository, saes, columns, written in dictionaries:
                width, there = columns.stop - columns.start, on_this_node(repository)
                loaded = [load_encoder(there, sae, width, dtype, self._device) for sae in saes]
                self._dictionaries.append(Encoders(name, columns, loaded))
                if reading.attribution and name == FIRST:
                    to = written or columns
                    how = (width, to.stop - to.start), dtype, self._device, means
                    self._written, self._decoders = written, [load_decoder(there, sae, *how) for sae in saes]
            if self._device.type == "cuda":
                warm_up_encoders(self._dictionaries)
        with self._log.timed("fingerprint"):
            return encoder_fingerprint(self._dictionaries, self._layers, getattr(torch, residuals))

    @device_faults
    def encode(
        self, batch: int, activations: Activations, k: int | None, apart: bool = False
    ) -> Encoded | tuple[Encoded, LayerBlock]:
        """Encodes a block of a batch.

        Args:
            apart: the block is a second value, an object of its own.
        """
        from layerscope.engine.batches.batch import from_array
        from layerscope.engine.batches.encoding import encode_dictionaries
        from layerscope.saes.attribution import ToAttribute

        with self._log.timed("encode", batch=batch, rows=activations.residuals.shape[1]) as span:
            residuals = from_array(activations.residuals).to(self._device)
            attribute = None
            if activations.gradients is not None and activations.groups is not None:
                gradients = from_array(activations.gradients).to(self._device)
                written = None if self._written is None else residuals[..., self._written]
                attribute = ToAttribute(gradients, activations.groups, self._decoders, written)
            of_block = residuals, self._layers, self._dictionaries, k, activations.spans
            block = encode_dictionaries(*of_block, self._reading, attribute)
        return (Encoded(None, span(), block.nbytes), block) if apart else Encoded(block, span(), block.nbytes)

    @ray.method(concurrency_group="pack")
    @device_faults
    def pack(self, batch: int, how: Packing, scores: Scores, *blocks: LayerBlock) -> PackedLines:
        """Joins the lines of a batch and compresses them, beside whatever else this process is at."""
        with self._log.timed("pack", batch=batch) as span:
            lines = packed(batch_lines(batch, scores, blocks), how)
        return PackedLines(lines, span())


@ray.remote(num_cpus=0)
def probe_node() -> Node:
    """What a node of the cluster has."""
    return probe(all_cards=True)
