"""What a forward pass and the encoders are made of on a GPU, step by step, and a profile of both."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.profiler

from layerscope.models.language_model import LanguageModel
from layerscope.planning.job import Job
from layerscope.questions.pairs import Pair
from layerscope.saes.encoder import SaeEncoder, encode_top_k


class Figures(dict[str, Any]):
    """Figures that are written to a file whenever one is added."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def add(self, **figures: Any) -> None:
        self.update(figures)
        self._path.write_text(json.dumps(self))
        print(figures, flush=True)


def steady(model: LanguageModel, batches: Sequence[list[Pair]], job: Job, figures: Figures) -> None:
    """Two threads, as an actor has them, over several batches."""
    with ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            begin = time.perf_counter()
            list(threads.map(lambda pairs: model.forward(pairs, job.layers), batches))
            seconds = time.perf_counter() - begin
    questions = sum(map(len, batches))
    figures.add(steady_ms=1e3 * seconds / len(batches), steady_questions_per_second=questions / seconds)


def details(model: LanguageModel, layout: Any, sae: SaeEncoder, rows: torch.Tensor, figures: Figures) -> None:
    """Milliseconds of every kind of step of one layer, and of the output projection."""
    from layerscope.models import language_model
    from layerscope.numerics import kernels
    from layerscope.numerics.attention_kernel import attention

    with torch.inference_mode():
        decoder: Any = model.decoder
        layer, texts, softcap = decoder._layers[0], decoder._texts(layout), model.model.config.final_logit_softcapping
        stream = model.model.model.embed_tokens(layout.tokens)
        normed = kernels.norm(stream, layer.scales[0], 1e-6)
        linear = torch.nn.functional.linear
        projected = linear(normed, layer.attention_in)
        attend = partial(
            attention,
            projected,
            texts,
            decoder._heads,
            decoder._scaling,
            decoder._softcap,
            layer.window,
        )
        whole = sae.w_enc.whole()  # type: ignore[union-attr]
        seen, wide = attend(), linear(normed, layer.mlp_in)
        gated, hidden = kernels.gelu_product(wide), normed
        weight, predictors = model.model.lm_head.weight, hidden[layout.predictors]
        steps: dict[str, Callable[[], Any]] = {
            "attention_in": lambda: linear(normed, layer.attention_in),
            "attention": attend,
            "attention_out": lambda: linear(seen, layer.attention_out),
            "mlp_in": lambda: linear(normed, layer.mlp_in),
            "gelu_product": lambda: kernels.gelu_product(wide),
            "mlp_out": lambda: linear(gated, layer.mlp_out),
            "norm": lambda: kernels.norm(stream, layer.scales[0], 1e-6),
            "add_norm": lambda: kernels.add_norm(stream, normed, layer.scales[1], layer.scales[2], 1e-6),
            "texts": lambda: decoder._texts(layout),
            "projection_products": lambda: [
                torch.mm(predictors, part.T, out_dtype=torch.float32) for part in weight.split(4096)
            ],
            "target_log_probs": lambda: language_model.target_log_probs(hidden, weight, layout, softcap),
            "encode_product": lambda: sae.w_enc.product(rows),  # type: ignore[union-attr]
            "encode_product_float32": lambda: rows.float() @ whole,
            "encode_top_k": lambda: encode_top_k(rows, sae, 100),
        }
        for chunk in (2048, 8192, 16384):
            steps[f"projection_{chunk}"] = lambda chunk=chunk: _in_chunks(chunk, hidden, weight, layout, softcap)  # type: ignore[misc]
        figures.add(steps_ms={name: round(1e3 * seconds_of(step), 4) for name, step in steps.items()})


def _in_chunks(chunk: int, hidden: torch.Tensor, weight: torch.Tensor, layout: Any, softcap: float) -> None:
    from layerscope.models import language_model

    before, language_model._VOCABULARY_CHUNK = language_model._VOCABULARY_CHUNK, chunk
    language_model.target_log_probs(hidden, weight, layout, softcap)
    language_model._VOCABULARY_CHUNK = before


def profile(
    model: LanguageModel, pairs: list[Pair], job: Job, residuals: torch.Tensor, saes: Sequence[SaeEncoder], folder: Path
) -> None:
    on_gpu = residuals.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU, *([activity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        model.forward(pairs, job.layers)
        for rows, sae in zip(residuals, saes, strict=True):
            encode_top_k(rows, sae, 100)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60)
    (folder / "profile.txt").write_text(table)
    profiler.export_chrome_trace(str(folder / "trace.json.gz"))


def seconds_of(step: Callable[[], Any], seconds: float = 0.25) -> float:
    """Median seconds of a step, by the host's clock around a wait for the device."""
    from benchmarking.measure import synchronise

    step()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        synchronise()
        begin = time.perf_counter()
        step()
        synchronise()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))
