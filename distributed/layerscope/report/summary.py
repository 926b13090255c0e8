"""A run in a few lines: what was run, how far it is, how often the model is right. For a look; no feature is tested."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from layerscope.analysis.testing.proportion import Proportion
from layerscope.analysis.testing.statistics import proportion
from layerscope.formatting import count_of, ranges
from layerscope.records.goals import GoalGroups
from layerscope.records.reading.run import Run
from layerscope.report.charts.svg import element
from layerscope.report.words.sentences import interval, number, percent


@dataclass(frozen=True)
class Summary:
    """Shown by notebooks as a table, printed as lines."""

    file: str
    model: str
    saes: str
    layers: tuple[int, ...]
    readings: tuple[str, ...]
    planned: int
    """Questions of the whole run."""
    questions: int
    """Scored so far."""
    errors: int
    """Error lines so far."""
    accuracy: Proportion
    """Share of questions whose right solution has the highest log-likelihood, with its 95 % interval."""
    accuracy_per_character: Proportion
    """The same by log-likelihood per character."""
    median_margin: float
    """Nats; of more than two solutions the right one against the strongest wrong one."""
    unnoted: str
    """What is not known for want of a manifest; empty where there is one."""
    median_margin_to_mean: float | None = None
    """Against the mean of the wrong ones, nats; None where every question has two solutions."""
    dictionaries: tuple[str, ...] = ()
    """Those that the run has beside its first SAEs."""

    @property
    def finished(self) -> bool:
        return self.questions + self.errors >= self.planned

    def lines(self) -> dict[str, str]:
        """For people: what, and how much."""
        errors = f", {self.errors:,} with an error" if self.errors else ""
        return {
            "file": self.file,
            "model": self.model,
            "SAEs": f"{self.saes}, {count_of(len(self.layers), 'layer')} ({ranges(self.layers)})",
            **({"other SAEs": ", ".join(self.dictionaries)} if self.dictionaries else {}),
            "readings": ", ".join(self.readings),
            "questions": f"{self.questions:,}{'' if self.unnoted else f' of {self.planned:,}'}{errors}",
            "accuracy by sum": _told(self.accuracy),
            "accuracy per char.": _told(self.accuracy_per_character),
            **self._margins(),
            **({"not known": self.unnoted} if self.unnoted else {}),
        }

    def _margins(self) -> dict[str, str]:
        """Each contrast by its name, where there are two."""
        if self.median_margin_to_mean is None:
            return {"median margin": f"{number(self.median_margin, 1)} nats"}
        against = {"strongest wrong": self.median_margin, "mean of wrong": self.median_margin_to_mean}
        return {f"right − {name}": f"{number(margin, 1)} nats in the median" for name, margin in against.items()}

    def __str__(self) -> str:
        lines = self.lines()
        return "\n".join(f"{name:<{max(map(len, lines)) + 1}} {value}" for name, value in lines.items())

    def _repr_html_(self) -> str:
        rows = (element("tr", element("th", name), element("td", value)) for name, value in self.lines().items())
        return str(element("table", Markup().join(rows)))


def _told(share: Proportion) -> str:
    return f"{percent(share.share)} (95 %: {interval(share)})"


def summarise(run: Run, questions: pa.Table) -> Summary:
    """
    Args:
        questions: the run's table of questions.
    """
    scored = questions.filter(questions["error"].is_null())
    groups = GoalGroups()
    group = np.array([groups.add(goal) for goal in scored["question"].to_pylist()], dtype=np.int64)
    correct, per_character = (
        proportion(scored[name].to_numpy().astype(bool), group)
        for name in ("model_is_correct", "model_is_correct_per_character")
    )
    return Summary(
        file=run.name,
        model=run.manifest.model,
        saes=run.manifest.saes,
        layers=tuple(run.manifest.about.layers),
        readings=run.readings,
        dictionaries=tuple(run.manifest.dictionaries),
        planned=run.planned,
        unnoted=run.unnoted,
        questions=len(scored),
        errors=len(questions) - len(scored),
        accuracy=correct,
        accuracy_per_character=per_character,
        median_margin=_median(scored, "margin"),
        median_margin_to_mean=_median(scored, "margin_to_mean") if "margin_to_mean" in scored.column_names else None,
    )


def _median(questions: pa.Table, name: str) -> float:
    return float(np.median(questions[name].to_numpy())) if len(questions) else float("nan")
