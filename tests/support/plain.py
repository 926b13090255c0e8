"""The whole job in one process, from the plain functions alone: what the Ray run must equal byte for byte.

On a machine with a GPU the tests run on that, and those of the numeric core on both.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Gemma2ForCausalLM

from layerscope.config import Config
from layerscope.engine.batches.batch import score_batch
from layerscope.engine.batches.encoding import Encoders, encode_dictionaries
from layerscope.engine.batches.lines import residual_rows
from layerscope.hub.repository import open_repository
from layerscope.models.loading import load_language_model
from layerscope.models.spec import tokenizer_path
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.questions.pairs import PairTokenizer
from layerscope.records.line.lines import ErrorLine, join_record, settle
from layerscope.records.manifest.manifest import FORMAT, Manifest
from layerscope.records.means import read_means
from layerscope.records.reading.residuals import Layout
from layerscope.saes.attribution import ToAttribute
from layerscope.saes.cache import load_encoder
from layerscope.saes.choice import SaeChoice
from layerscope.saes.decoders import load_decoder
from layerscope.saes.encoder import SaeEncoder

DEVICES = [torch.device(name) for name in ("cpu", "cuda") if name == "cpu" or torch.cuda.is_available()]


def encoders_of(
    standin: Path, layers: Sequence[int], device: torch.device
) -> tuple[list[SaeEncoder], list[dict[str, np.ndarray]]]:
    """The encoders of a random stand-in's layers in float32, loaded by us, and the arrays of their files."""
    repository = open_repository(str(standin / "saes"))
    paths = [next(path for path in repository.files if path.startswith(f"layer_{layer}/")) for layer in layers]
    choices = [SaeChoice(0, "", None, path, None) for path in paths]
    encoders = [load_encoder(repository, choice, 32, torch.float32, device) for choice in choices]
    return encoders, [dict(np.load(standin / "saes" / path)) for path in paths]


def by_transformers(model: Path) -> Gemma2ForCausalLM:
    """A model as anybody else loads it, in float32."""
    loaded: Gemma2ForCausalLM = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    )
    return loaded.eval()


def plain_run(config: Config, residuals: dict[int, bytes] | None = None) -> bytes:
    """The finished file of a run with these settings.

    Args:
        residuals: gets those of every layer, where the run keeps any.
    """
    job = prepare(config, [probe()])
    torch.set_num_threads(job.numerics.threads or 1)
    device, dtype = torch.device(job.placement.device), getattr(torch, job.numerics.dtype)
    sae_dtype = getattr(torch, job.numerics.sae_dtype)
    tokenizer = PairTokenizer(tokenizer_path(job.model), job.spec.context, job.reading.prompt, spell=job.reading.spells)
    model = load_language_model(Path(job.model.name), dtype, device)
    dictionaries = [
        Encoders(
            each.name,
            job.columns(each.site),
            [load_encoder(each.repository, sae, job.spec.width(each.site), sae_dtype, device) for sae in each.saes],
        )
        for each in job.dictionaries
    ]
    means = read_means(job.reading.means, job.layers) if job.reading.means else None
    read, written = (job.columns(site) for site in (job.reading.sites[0], job.reading.acts_at))
    widths = read.stop - read.start, written.stop - written.start
    decoders = [
        load_decoder(job.sae_repository, sae, widths, sae_dtype, device, means)
        for sae in (job.saes if job.reading.attribution else ())
    ]
    lines: list[bytes | memoryview] = []
    layout = Layout.of(job.output.records, Manifest(format=FORMAT, identity=job.identity(), about=job.about("")))
    for batch in range(len(job.plan)):
        questions = [job.selection[int(example_id)] for example_id in job.plan.batch(batch)]
        scored = score_batch(model, tokenizer, questions, job.layers, job.reading)
        outcomes, kept, attribute = scored.outcomes, scored.residuals, None
        if scored.gradients is not None and scored.groups is not None:
            there = kept[..., written].to(device)
            attribute = ToAttribute(scored.gradients.to(device), scored.groups, decoders, there)
        encode = partial(
            encode_dictionaries, kept.to(device), job.layers, dictionaries, job.numerics.top_k, scored.spans
        )
        blocks = [encode(job.reading, attribute)] if kept.numel() else []
        settled = [settle(outcome, blocks) for outcome in outcomes]
        rows = residual_rows([None if isinstance(each, ErrorLine) else each for each in settled], blocks)
        for number, layer in enumerate(layout.layers if residuals is not None else ()):
            residuals[layer] = residuals.get(layer, layout.header()) + rows.joined(number, layout)
        for outcome in settled:
            lines += [outcome.line] if isinstance(outcome, ErrorLine) else join_record(outcome, blocks)
    return b"".join(lines)
