#!/usr/bin/env python3
"""Makes `tests/support/data/lm_eval/`: what lm-evaluation-harness itself says of a tiny model on files of two layouts.

    python3 -m venv /tmp/lm && /tmp/lm/bin/pip install lm-eval==0.4.13 torch==2.13.0 transformers accelerate
    PYTHONPATH=distributed /tmp/lm/bin/python tests/support/make_lm_eval_figures.py

Its hf backend runs without a network: the model is the tests' tiny stand-in, the tasks are its own yaml files with
local JSON lines in place of the hub's data sets. Kept are the questions, its log of samples of one task as it writes
it, and its figures; the tests hold ours against them.
"""

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

DATA = Path(__file__).parent / "data/lm_eval"
WORDS = [
    "soap",
    "bread",
    "glass",
    "paper",
    "wood",
    "rope",
    "ice",
    "knife",
    "water",
    "cloth",
    "cup",
    "fire",
    "salt",
    "sand",
    "wire",
    "lamp",
]
TASKS: dict[str, tuple[str, str]] = {  # by task, what of its prompt the yaml says, and the file
    "arc": (
        "arc",
        'doc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_target: "{{choices.label.index(answerKey)}}"\n'
        'doc_to_choice: "{{choices.text}}"\n',
    ),
    "hellaswag": ("hellaswag", 'doc_to_text: "{{ctx}}"\ndoc_to_target: "{{label}}"\ndoc_to_choice: "{{endings}}"\n'),
}
SHOTS = 2


def arc_row(dice: random.Random, number: int) -> dict[str, Any]:
    """As `allenai/ai2_arc` has them: three to five choices, named by letters or by numbers."""
    count = dice.choice([3, 4, 4, 4, 5])
    names = list("ABCDE" if dice.random() < 0.7 else "12345")[:count]
    texts = dice.sample([f"{a} and {b}" if a < b else a for a in WORDS for b in WORDS[:4] if a != b], count)
    question = f"Which of these cuts the {dice.choice(WORDS)} best, number {number}?"
    choices = {"text": list(dict.fromkeys(texts)), "label": names}
    choices["label"] = names[: len(choices["text"])]
    return {"id": f"Q_{number}", "question": question, "choices": choices, "answerKey": dice.choice(choices["label"])}


def hellaswag_row(dice: random.Random, number: int) -> dict[str, Any]:
    """As `Rowan/hellaswag` has them: four endings, the label a digit in a text."""
    start = f"A man takes the {dice.choice(WORDS)} and the {dice.choice(WORDS)}. He"
    endings = [f"puts it in {word}{' and waits' * dice.randrange(3)}." for word in dice.sample(WORDS, 4)]
    return {"ind": number, "activity_label": "Work", "ctx": start, "endings": endings, "label": str(dice.randrange(4))}


def ask(name: str, shots: int, model: Path, tasks: Path, folder: Path) -> dict[str, Any]:
    """What the harness says of a task; its log of samples comes to lie in `folder`."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(folder / name))
    found = simple_evaluate(
        "hf",
        model_args=f"pretrained={model},dtype=float32,attn_implementation=eager",
        tasks=[name],
        num_fewshot=shots,
        device="cpu",
        batch_size=1,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        evaluation_tracker=tracker,
    )
    assert found is not None
    of_task, samples = found["results"][name], found["samples"][name]
    tracker.date_id = "now"  # which it has once it saved its figures
    tracker.save_results_samples(task_name=name, samples=samples)
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    return {
        "acc": of_task["acc,none"],
        "acc_norm": of_task["acc_norm,none"],
        "log_likelihoods": [[round(float(answer[0][0]), 5) for answer in sample["resps"]] for sample in ordered],
    }


def yaml_of(name: str, file: str, prompt: str, shots: int) -> str:
    examples = f"    train: {DATA / 'arc_shots.jsonl'}\n" if shots else ""
    sampling = "training_split: train\nfewshot_config:\n  sampler: first_n\n" if shots else ""
    return (
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {DATA / file}.jsonl\n"
        f"{examples}output_type: multiple_choice\ntest_split: test\n{sampling}{prompt}"
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )


def make_standin(folder: Path) -> Path:
    from layerscope.standin.build import StandinSpec, _texts, make_model, make_tokenizer, save_model

    sizes = {"n_layers": 3, "d_model": 32, "vocabulary": 900, "sliding_window": 12, "width": "1k", "d_sae": 1024}
    spec = StandinSpec(**sizes, l0s=((8, 60), (20, 110), (40,)))  # type: ignore[arg-type]
    tokenizer = make_tokenizer(_texts(), spec.vocabulary)
    save_model(make_model(spec, tokenizer.get_vocab_size()), tokenizer, folder / "model")
    return folder / "model"


def main() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    dice, figures = random.Random(0), dict[str, Any]()
    rows = {
        "arc": [arc_row(dice, number) for number in range(40)],
        "hellaswag": [hellaswag_row(dice, number) for number in range(40)],
        "arc_shots": [arc_row(dice, 100 + number) for number in range(SHOTS)],
    }
    for name, of_file in rows.items():
        (DATA / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_file), encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, tasks = make_standin(folder / "standin"), folder / "tasks"
        tasks.mkdir()
        for task, (file, prompt) in TASKS.items():
            for shots in (0, SHOTS) if task == "arc" else (0,):
                name = f"local_{task}_{shots}"
                (tasks / f"{name}.yaml").write_text(yaml_of(name, file, prompt, shots), encoding="utf-8")
                figures[f"{task}, {shots} shots" if shots else task] = ask(name, shots, model, tasks, folder)
        (log,) = folder.glob("local_arc_0/**/samples_*.jsonl")
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        (DATA / "samples_arc.jsonl").write_text("".join(lines[:5]), encoding="utf-8")
    (DATA / "figures.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
