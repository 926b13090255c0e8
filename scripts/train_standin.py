#!/usr/bin/env python3
"""Trains the stand-in that layerscope ships: a small Gemma 2 on generated text, JumpReLU SAEs on its residual stream.

    .venv/bin/python scripts/train_standin.py [--steps 3000] [--folder FOLDER]

Writes `model/` in Hugging Face format and `saes/` in Gemma Scope's layout into the package, or the folder, and prints
how good the SAEs are. The bundled questions are not read. Shapes: B documents, T tokens, D d_model, F d_sae.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from standin_text import Document, documents, read_tasks
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Gemma2ForCausalLM

from layerscope.standin import STANDIN_WIDTH, standin_folder
from layerscope.standin.build import StandinSpec, make_model, make_tokenizer, residual_stream, save_model

SPEC = StandinSpec(n_layers=6, d_model=64, vocabulary=2048, width=STANDIN_WIDTH, d_sae=512)
L0S = (8, 16, 32)  # of every layer
BATCH, BATCHES_SORTED, PEAK_RATE, WEIGHT_DECAY = 32, 16, 4e-3, 0.1
VERDICT_WEIGHT = 5.0
UNKNOWN_SHARE = 0.07  # of the tokens read, so that no single word carries a question
SAE_BATCH, SAE_RATE = 1024, 3e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=3000, help="of the model; an SAE takes a fifth as many, on a document a step"
    )
    parser.add_argument("--folder", type=Path, default=standin_folder())
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the number changes rounding
    torch.manual_seed(SPEC.seed)
    tasks = read_tasks()
    tokenizer = make_tokenizer(
        [text + verdict for text, verdict in islice(documents(tasks, 1), 20_000)], SPEC.vocabulary
    )
    model = make_model(SPEC, tokenizer.get_vocab_size())
    train_model(model, tokenizer, documents(tasks, 2), arguments.steps)
    for name in ("model", "saes"):
        shutil.rmtree(arguments.folder / name, ignore_errors=True)
    save_model(model.to(torch.bfloat16), tokenizer, arguments.folder / "model")
    model.to(torch.float32)  # as a CPU loads what was saved
    texts = [text for text, _ in islice(documents(tasks, 3), arguments.steps)]
    for layer, states in enumerate(residual_stream(model, tokenizer, texts)):
        for l0 in L0S:
            told = train_sae(states, l0, arguments.steps // 5, arguments.folder / "saes" / f"layer_{layer}")
            print(json.dumps({"layer": layer, **told}), flush=True)


def train_model(model: Gemma2ForCausalLM, tokenizer: Tokenizer, stream: Iterator[Document], steps: int) -> None:
    """Next-token prediction; of a wrong solution only the verdict is learnt."""
    model.train()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    batches = sorted_batches(stream)
    for step in range(steps):
        share = step / steps
        rate = PEAK_RATE * min(1, (step + 1) / 100) * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, targets, weights = make_batch(tokenizer, next(batches))
        loss = batch_loss(model, tokens, targets, weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval()


def sorted_batches(stream: Iterator[Document]) -> Iterator[list[Document]]:
    """Batches of about equally long documents, in random order."""
    while True:
        some = sorted(islice(stream, BATCH * BATCHES_SORTED), key=lambda document: len(document.text))
        for index in torch.randperm(BATCHES_SORTED).tolist():
            yield some[index * BATCH : (index + 1) * BATCH]


def make_batch(tokenizer: Tokenizer, batch: list[Document]) -> tuple[Tensor, Tensor, Tensor]:
    """What is read, what is to be predicted, and how much it counts: [B, T] each."""
    texts = tokenizer.encode_batch_fast([document.text for document in batch])
    verdicts = tokenizer.encode_batch_fast([document.verdict for document in batch], add_special_tokens=False)
    width = max(len(text) + len(verdict) for text, verdict in zip(texts, verdicts, strict=True))
    tokens = torch.zeros(len(batch), width, dtype=torch.int64)
    weights = torch.zeros(len(batch), width)
    for row, (document, text, verdict) in enumerate(zip(batch, texts, verdicts, strict=True)):
        ids = text.ids + verdict.ids
        tokens[row, : len(ids)] = torch.tensor(ids)
        weights[row, : len(text)] = float(document.is_true)
        weights[row, len(text) : len(ids)] = VERDICT_WEIGHT
    read = tokens[:, :-1].clone()
    unknown = torch.rand(read.shape) < UNKNOWN_SHARE
    unknown[:, 0] = False
    read[unknown] = tokenizer.token_to_id("<unk>")
    return read, tokens[:, 1:], weights[:, 1:]


def batch_loss(model: Gemma2ForCausalLM, tokens: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the cross-entropies, over the tokens that count."""
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state  # [B, T, D]
    counts = weights > 0
    logits = model.lm_head(hidden[counts])
    cap = model.config.final_logit_softcapping
    losses = torch.nn.functional.cross_entropy(cap * torch.tanh(logits / cap), targets[counts], reduction="none")
    return (losses * weights[counts]).sum() / weights[counts].sum()


def train_sae(states: Tensor, l0: int, steps: int, folder: Path) -> dict[str, float]:
    """Trains the SAE of one layer and sparsity and writes its `params.npz`; returns how good it is.

    BatchTopK (arXiv:2412.06410): in training the strongest `l0` features a token fire, on average over the batch; then
    one threshold that lets as many through makes it a JumpReLU SAE.
    """
    torch.manual_seed(l0)
    scale = (states - states.mean(0)).square().sum(1).mean().sqrt()
    held_out, states = states[: len(states) // 8] / scale, states[len(states) // 8 :] / scale
    b_dec = states.mean(0)
    w_dec = torch.nn.functional.normalize(torch.randn(SPEC.d_sae, SPEC.d_model))
    w_enc, b_enc = w_dec.T.clone(), -b_dec @ w_dec.T
    parameters = [parameter.requires_grad_() for parameter in (w_enc, b_enc, w_dec, b_dec)]
    optimizer = torch.optim.Adam(parameters, lr=SAE_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = SAE_RATE * min(1, (steps - step) / (steps / 4))
        x = states[torch.randint(len(states), (SAE_BATCH,))]
        activations = torch.relu(x @ w_enc + b_enc)  # [B, F]
        kept = activations.flatten().topk(l0 * SAE_BATCH).values[-1]
        activations = activations * (activations >= kept)
        loss = (activations @ w_dec + b_dec - x).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            w_dec.copy_(torch.nn.functional.normalize(w_dec))
    with torch.no_grad():
        w_enc, w_dec = w_enc.bfloat16().float(), w_dec.bfloat16().float()
        pre = held_out @ w_enc + b_enc
        threshold = pre.flatten().topk(l0 * len(held_out)).values[-1].clamp(min=1e-6)
        activations = pre * (pre > threshold)
        residue = (activations @ w_dec + b_dec - held_out).square().sum()
        explained = 1 - residue / (held_out - held_out.mean(0)).square().sum()
        fires = activations > 0
    measured = round(fires.sum(1).float().mean().item())
    # In the units of the residual stream: the encoder stays as it is, what it is compared with grows.
    arrays = {
        "W_enc": w_enc,
        "W_dec": w_dec,
        "b_enc": b_enc * scale,
        "b_dec": b_dec * scale,
        "threshold": (threshold * scale).expand(SPEC.d_sae),
    }
    path = folder / f"width_{SPEC.width}" / f"average_l0_{measured}" / "params.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, **{name: np.ascontiguousarray(array.detach()) for name, array in arrays.items()})
    dead = (~fires.any(0)).float().mean().item()
    return {"l0": measured, "explained": round(explained.item(), 3), "dead": round(dead, 3)}


if __name__ == "__main__":
    main()
