"""Benchmarks that `--dataset` knows by name: where they lie on the hub, and how a row of them becomes a question.

Prompts are those of lm-evaluation-harness without examples, but for Winogrande's: there a solution is the rest of the
sentence from the blank on, where the harness scores what follows the blank alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from layerscope.errors import UsageError
from layerscope.formatting import visible

Row = Mapping[str, Any]
_CONNECTORS = {"cause": "because", "effect": "therefore"}


@dataclass(frozen=True)
class Benchmark:
    """One line of the table."""

    repository: str
    config: str
    """Empty where the data set has none; `{name}` is what follows the benchmark's name and a colon."""
    split: str
    """On which it is measured."""
    question: Callable[[Row], tuple[str, list[str], int]]
    """Of a row the goal, the solutions and which of them is right."""
    prompt: str = "Question: {goal}\nAnswer:"
    separator: str = " "
    shots: str = "train"
    """The split that examples are taken from."""
    otherwise: str = ""
    """The configuration where no name is given; empty where one must be."""

    def shaped(self, row: object, where: str) -> dict[str, Any]:
        """A row with `goal`, `choices` and `label`, besides what it has.

        Raises:
            UsageError: it is no row of this benchmark.
        """
        try:
            assert isinstance(row, dict)
            goal, choices, label = self.question(row)
        except (AssertionError, LookupError, TypeError, ValueError, AttributeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise UsageError(
                f"{where} is no row as {self.repository} has them ({visible(told)[:80]}).\n"
                "Name the data set itself, and which column is which: --dataset OWNER/NAME --columns …"
            ) from error
        return {**row, "goal": goal, "choices": choices, "label": label}


def _arc(row: Row) -> tuple[str, list[str], int]:
    return row["question"], row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])


def _hellaswag(row: Row) -> tuple[str, list[str], int]:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return _without_marks(context), [_without_marks(ending) for ending in row["endings"]], int(row["label"])


def _without_marks(text: str) -> str:
    """Without what WikiHow's pages left in the texts: `[title]` begins a sentence, other brackets say nothing."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _winogrande(row: Row) -> tuple[str, list[str], int]:
    before, _, behind = row["sentence"].partition("_")
    return before.rstrip(), [row[option] + behind for option in ("option1", "option2")], int(row["answer"]) - 1


def _copa(row: Row) -> tuple[str, list[str], int]:
    choices = [row[choice][0].lower() + row[choice][1:] for choice in ("choice1", "choice2")]
    return f"{row['premise'].strip()[:-1]} {_CONNECTORS[row['question']]}", choices, row["label"]


def _mmlu(row: Row) -> tuple[str, list[str], int]:
    letters = "ABCD"
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, row["choices"], strict=True))
    subject = row["subject"].replace("_", " ")
    start = f"The following are multiple choice questions (with answers) about {subject}."
    return f"{start}\n\n{row['question'].strip()}\n{options}", list(letters), row["answer"]


def _boolq(row: Row) -> tuple[str, list[str], int]:
    return f"{row['passage']}\nQuestion: {row['question']}?", ["no", "yes"], int(row["label"])


def _blimp(row: Row) -> tuple[str, list[str], int]:
    return "", [row["sentence_good"], row["sentence_bad"]], 0


BENCHMARKS = {
    "arc_easy": Benchmark("allenai/ai2_arc", "ARC-Easy", "test", _arc),
    "arc_challenge": Benchmark("allenai/ai2_arc", "ARC-Challenge", "test", _arc),
    "hellaswag": Benchmark("Rowan/hellaswag", "", "validation", _hellaswag, "{goal}"),
    "winogrande": Benchmark("allenai/winogrande", "winogrande_xl", "validation", _winogrande, "{goal}"),
    "copa": Benchmark("aps/super_glue", "copa", "validation", _copa, "{goal}", "  "),  # the harness has two
    "mmlu": Benchmark("cais/mmlu", "{name}", "test", _mmlu, "{goal}\nAnswer:", shots="dev", otherwise="all"),
    "boolq": Benchmark("aps/super_glue", "boolq", "validation", _boolq, "{goal}\nAnswer:"),
    "blimp": Benchmark("nyu-mll/blimp", "{name}", "train", _blimp, "{goal}"),
}


def find_benchmark(dataset: str) -> Benchmark | None:
    """The benchmark that a name means: `arc_easy`, `mmlu:astronomy`; None where it means none.

    Raises:
        UsageError: a part of it must be named, or cannot be.
    """
    name, colon, part = dataset.partition(":")
    known = BENCHMARKS.get(name)
    if known is None:
        return None
    if "{name}" not in known.config:
        if colon:
            raise UsageError(f"--dataset {visible(dataset)}: {name} has no parts. Leave out {visible(colon + part)}.")
        return known
    part = part or known.otherwise
    if not re.fullmatch(r"\w{1,80}", part):
        raise UsageError(f"--dataset {visible(dataset)}: name a part of {name}, such as {name}:{_EXAMPLES[name]}.")
    return replace(known, config=part)


_EXAMPLES = {"mmlu": "astronomy", "blimp": "adjunct_island"}
