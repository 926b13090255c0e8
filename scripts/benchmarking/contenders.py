"""What a user would write without layerscope: the plain way, and a strong one; both with transformers' own attention.

Same questions, tokens, weights and SAEs as layerscope's. Shapes: R rows (solutions), T tokens of a row, V vocabulary,
D d_model, F d_sae.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from benchmarking.measure import Answers, Contender, synchronise
from layerscope.planning.job import Job
from layerscope.questions.pairs import Pair, PairTokenizer
from layerscope.questions.sources import Question
from layerscope.records.line.record import strongest_wrong

STRONG_TOKENS = 2048  # of a padded batch

Features = list[dict[str, Any]]


class Plain:
    """What both need."""

    def __init__(self, job: Job, device: str, with_saes: bool = True) -> None:
        transformers_logging.disable_progress_bar()
        folder = Path(job.model.name)
        self.device = torch.device(device)
        self.tokenizer = PairTokenizer(folder / "tokenizer.json", job.spec.context)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, job.numerics.dtype), attn_implementation="eager"
        ).to(self.device)
        self.model.eval()
        self.saes = []
        for sae in job.saes if with_saes else ():
            with np.load(Path(job.sae_repository.name) / sae.path) as arrays:
                self.saes.append([torch.from_numpy(arrays[k]).to(self.device) for k in ("W_enc", "b_enc", "threshold")])
        self.k = job.numerics.top_k or job.d_sae

    @contextmanager
    def captured(self) -> Iterator[list[Tensor]]:
        """Collects what every decoder layer returns."""
        states: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, output: states.append(output))
            for layer in self.model.model.layers
        ]
        yield states
        for hook in hooks:
            hook.remove()

    def encode(self, layer: int, residual: Tensor) -> Tensor:
        """[R, D] to activations [R, F]."""
        w_enc, b_enc, threshold = self.saes[layer]
        pre = residual.float() @ w_enc + b_enc
        return torch.relu(pre) * (pre > threshold)


def solution_ids(pair: Pair, solution: int) -> list[int]:
    return [pair.tokens[pair.row_index(solution, position)] for position in range(pair.lengths[solution])]


@torch.inference_mode()
def baseline(job: Job, ids: Sequence[int], device: str, output: Path) -> Contender:
    """One solution at a time, full logits, dicts, one `json.dump`."""
    plain = Plain(job, device)
    answers: Answers = {}
    records: list[dict[str, Any]] = []

    def solve(example_id: int) -> None:
        question = job.selection[example_id]
        pair = plain.tokenizer.pair(question)
        details = []
        for solution in (0, 1):
            tokens = solution_ids(pair, solution)
            with plain.captured() as states:
                logits = plain.model(input_ids=torch.tensor([tokens], device=plain.device)).logits[0]
            log_probs = torch.log_softmax(logits.float(), dim=-1)
            scored = range(pair.prompt, len(tokens))
            log_likelihood = sum(log_probs[position - 1, tokens[position]].item() for position in scored)
            features = {}
            for layer, state in enumerate(states):
                activations = plain.encode(layer, state[0, -1:])[0]
                top = activations.topk(min(plain.k, int((activations > 0).sum())))
                features[str(layer)] = [
                    {"feature_id": feature_id, "activation": activation, "layer": layer}
                    for feature_id, activation in zip(top.indices.tolist(), top.values.tolist(), strict=True)
                ]
            details.append({"log_likelihood": log_likelihood, "active_features_by_layer": features})
        records.append({"example_id": example_id, "question": question.goal, "solutions": details})
        answers[example_id] = [
            (each["log_likelihood"], [{one["feature_id"] for one in found} for found in layers.values()])
            for each in details
            for layers in [each["active_features_by_layer"]]
        ]

    solve(ids[0])
    records.clear()
    synchronise()
    start = time.perf_counter()
    for example_id in ids:
        solve(example_id)
    with output.open("w") as file:
        json.dump(records, file)
    return Contender(time.perf_counter() - start, len(ids), answers)


Batch = list[tuple[int, Pair]]
"""Ids and pairs of questions; their solutions are the rows."""


class Strong(Plain):
    """Batches of padded rows."""

    def batches(self, questions: Sequence[Question]) -> Iterator[Batch]:
        """The longest first, so many that their padded rows hold `STRONG_TOKENS`."""
        pairs = [(question.example_id, self.tokenizer.pair(question)) for question in questions]
        pairs.sort(key=lambda item: -max(item[1].lengths))
        batch: Batch = []
        for item in pairs:
            rows = sum(len(pair.lengths) for _, pair in [*batch, item])
            if batch and rows * max(batch[0][1].lengths) > STRONG_TOKENS:
                yield batch
                batch = []
            batch.append(item)
        yield batch

    def score(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Log-likelihoods [R], and by layer the final tokens' residual stream [R, D]."""
        rows = [solution_ids(pair, solution) for _, pair in batch for solution in pair.solutions]
        prompts = [pair.prompt for _, pair in batch for _ in pair.solutions]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        with self.captured() as states:
            hidden = self.model.model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        row_of = [row for row, ids in enumerate(rows) for _ in ids[prompts[row] :]]
        position = [at for row, ids in enumerate(rows) for at in range(prompts[row] - 1, len(ids) - 1)]
        targets = torch.tensor([t for row, ids in enumerate(rows) for t in ids[prompts[row] :]], device=self.device)
        logits = self.model.lm_head(hidden[row_of, position])
        cap = self.model.config.final_logit_softcapping
        log_probs = torch.log_softmax(torch.tanh(logits.float() / cap) * cap, dim=-1)
        chosen = log_probs[torch.arange(len(targets), device=self.device), targets]
        likelihoods = torch.zeros(len(rows), device=self.device)
        likelihoods.index_add_(0, torch.tensor(row_of, device=self.device), chosen)
        last = [len(row) - 1 for row in rows]
        return likelihoods, [state[range(len(rows)), last] for state in states]

    def score_alone(self, batch: Batch) -> tuple[Tensor, None]:
        """The same log-likelihoods as the baseline gets them: a solution at a time, with all logits."""
        likelihoods = []
        for _, pair in batch:
            for solution in pair.solutions:
                tokens = solution_ids(pair, solution)
                logits = self.model(input_ids=torch.tensor([tokens], device=self.device), use_cache=False).logits[0]
                log_probs = torch.log_softmax(logits.float(), dim=-1)
                scored = range(pair.prompt, len(tokens))
                likelihoods.append(sum(log_probs[position - 1, tokens[position]].item() for position in scored))
        return torch.tensor(likelihoods), None

    def strongest(self, residuals: list[Tensor]) -> list[list[Features]]:
        """By row, the strongest features of every layer."""
        found: list[list[Features]] = [[] for _ in residuals[0]]
        for layer, residual in enumerate(residuals):
            top = self.encode(layer, residual).topk(self.k)
            for row, (feature_ids, values) in enumerate(zip(top.indices.tolist(), top.values.tolist(), strict=True)):
                found[row].append(
                    [
                        {"feature_id": feature_id, "activation": value, "layer": layer}
                        for feature_id, value in zip(feature_ids, values, strict=True)
                        if value > 0
                    ]
                )
        return found


def _two_of_each(batch: Batch, likelihoods: Sequence[float], labels: Sequence[int]) -> list[int]:
    """The rows of each question's right solution and of its strongest wrong one, in the order that they have there."""
    rows, first = list[int](), 0
    for (_, pair), label in zip(batch, labels, strict=True):
        of_question = likelihoods[first : first + len(pair.lengths)]
        two = sorted((label, strongest_wrong(of_question, label)))
        rows += [first + solution for solution in two]
        first += len(of_question)
    return rows


@torch.inference_mode()
def strong_baseline(job: Job, ids: Sequence[int], device: str, output: Path) -> Contender:
    """Sorted, padded, both solutions of many questions in a batch, logits only where needed, encoded batch by batch."""
    strong = Strong(job, device)
    questions = [job.selection[example_id] for example_id in ids]
    answers: Answers = {}

    def solve(batch: Batch) -> Iterator[bytes]:
        likelihoods, residuals = strong.score(batch)
        rows = _two_of_each(batch, likelihoods.tolist(), [job.selection[example_id].label for example_id, _ in batch])
        found = strong.strongest([residual[rows] for residual in residuals])
        for number, (example_id, _) in enumerate(batch):
            two = [(likelihoods[rows[at]].item(), found[at]) for at in (2 * number, 2 * number + 1)]
            details = [
                {"log_likelihood": likelihood, "active_features_by_layer": {str(i): each for i, each in enumerate(of)}}
                for likelihood, of in two
            ]
            answers[example_id] = [
                (likelihood, [{one["feature_id"] for one in each} for each in of]) for likelihood, of in two
            ]
            goal = job.selection[example_id].goal
            yield orjson.dumps({"example_id": example_id, "question": goal, "solutions": details}) + b"\n"

    list(solve(next(strong.batches(questions))))
    synchronise()
    start = time.perf_counter()
    with output.open("wb") as file:
        for batch in strong.batches(questions):
            file.writelines(solve(batch))
    return Contender(time.perf_counter() - start, len(ids), answers)
