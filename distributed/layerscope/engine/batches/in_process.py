"""A job's batches in this process, from the plain functions alone: for a look at a question or two. No Ray, no file.

The bytes are those that a run writes; nothing here is retried, and nothing is done side by side.
"""

from functools import partial

import torch

from layerscope.engine.batches.answers import TorchSettings
from layerscope.engine.batches.batch import score_batch
from layerscope.engine.batches.encoding import encode_block
from layerscope.models.lean_import import import_transformers
from layerscope.models.spec import fetch_model, tokenizer_path
from layerscope.planning.job import Job
from layerscope.questions.pairs import PairTokenizer
from layerscope.records.line.lines import WholeLine, join_record, settle
from layerscope.records.means import read_means
from layerscope.saes.attribution import ToAttribute
from layerscope.saes.cache import load_encoder
from layerscope.saes.decoders import load_decoder


class InProcess:
    """The model and the SAEs of a job, loaded here."""

    def __init__(self, job: Job) -> None:
        """
        Raises:
            LayerscopeError: something cannot be fetched or read.
        """
        import_transformers()
        from layerscope.models.loading import load_language_model

        numerics, spell = job.numerics, job.reading.spells
        self._device, dtype = TorchSettings(job.placement.device, numerics.dtype, numerics.threads).apply()
        self._tokenizer = PairTokenizer(tokenizer_path(job.model), job.spec.context, job.reading.prompt, spell=spell)
        self._model = load_language_model(fetch_model(job.model, job.spec), dtype, self._device)
        of_saes, width = (getattr(torch, numerics.sae_dtype), self._device), job.spec.width(job.reading.sites[0])
        self._encoders = [load_encoder(job.sae_repository, sae, width, *of_saes) for sae in job.saes]
        attributed = job.saes if job.reading.attribution else ()
        means = read_means(job.reading.means, job.layers) if job.reading.means else None
        widths = width, job.spec.width(job.reading.acts_at)
        self._decoders = [load_decoder(job.sae_repository, sae, widths, *of_saes, means) for sae in attributed]

    def lines(self, job: Job, batch: int) -> list[bytes]:
        """The line of every question of a batch.

        Args:
            job: of the same model, SAEs and settings, over whatever questions.
        """
        questions = [job.selection[int(example_id)] for example_id in job.plan.batch(batch)]
        scored = score_batch(self._model, self._tokenizer, questions, job.layers, job.reading)
        rows, attribute = scored.residuals.to(self._device), None
        if scored.gradients is not None and scored.groups is not None:
            written = rows[..., job.columns(job.reading.acts_at)]
            attribute = ToAttribute(scored.gradients.to(self._device), scored.groups, self._decoders, written)
        rows = rows[..., job.columns(job.reading.sites[0])]
        encode = partial(encode_block, rows, job.layers, self._encoders, job.numerics.top_k, scored.spans)
        blocks = [encode(job.reading, attribute)] if rows.numel() else []
        settled = [settle(outcome, blocks) for outcome in scored.outcomes]
        return [each.line if isinstance(each, WholeLine) else b"".join(join_record(each, blocks)) for each in settled]
