"""One question in this process is scored as a run scores it: byte for byte, and without Ray."""

import re
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from safetensors.torch import load_file, save_file

import layerscope
from layerscope.commands import scoring
from layerscope.config import Config
from layerscope.errors import UsageError
from layerscope.records.line.record import parse
from plain import plain_run

GOAL, SOLUTIONS = "keep soup warm", ["put it in a thermos", "put it into the fridge"]


def test_a_question_is_scored_as_a_run_scores_it(tiny: Path, tmp_path: Path) -> None:
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k", "top_k": 7}
    scored = layerscope.score(GOAL, SOLUTIONS, label=1, layers="0,2", **sources)
    question = {"goal": GOAL, "sol1": SOLUTIONS[0], "sol2": SOLUTIONS[1], "label": 1}
    (tmp_path / "q.jsonl").write_bytes(orjson.dumps(question))
    whole = {"dataset": str(tmp_path / "q.jsonl"), "output_file": str(tmp_path / "out.jsonl"), "num_samples": "all"}
    assert scored.line == plain_run(Config(layers="0,2", **whole, **sources))
    (loaded,) = scoring._loaded.values()
    again = layerscope.score("boil water", SOLUTIONS, layers=[0, 2], **sources)
    assert next(iter(scoring._loaded.values())) is loaded, "the model is loaded once"
    assert again.record.question == "boil water"
    assert scored.record == parse(scored.line)
    assert [text for text in SOLUTIONS if text in scored._repr_html_() and text in str(scored)] == SOLUTIONS
    assert scored.chosen == scored.log_likelihoods.index(max(scored.log_likelihoods))
    assert set(scored.features["layer"]) == {0, 2}
    more = layerscope.score(GOAL, [*SOLUTIONS, "eat it"], label=2, layers="0,2", **sources)
    assert more.record.positive.text == "eat it"
    assert more.log_likelihoods[:2] == pytest.approx(scored.log_likelihoods, rel=1e-5)
    assert "right (sol3)</th><th>strongest wrong (sol" in more._repr_html_()
    every = layerscope.score(GOAL, [*SOLUTIONS, "eat it"], label=2, layers="0,2", all_solutions=True, **sources)
    assert set(every.features["solution_index"]) == {0, 1, 2}
    assert len(re.findall("<th>", every._repr_html_())) == 4


def test_what_cannot_be_scored_is_told(tiny: Path) -> None:
    sources = {"model": str(tiny / "model"), "sae_repo": str(tiny / "saes"), "sae_width": "1k"}
    with pytest.raises(UsageError, match=r"no setting num_samples, tokens_per_batch. It has .*layers"):
        layerscope.score(GOAL, SOLUTIONS, num_samples=2, tokens_per_batch=3)
    with pytest.raises(UsageError, match="there are 1"):
        layerscope.score(GOAL, SOLUTIONS[:1])
    with pytest.raises(UsageError, match="label is 2"):
        layerscope.score(GOAL, SOLUTIONS, label=2)
    with pytest.raises(UsageError, match="cannot be scored: sol2 is empty"):
        layerscope.score(GOAL, ["x", ""], **sources)
    with pytest.raises(UsageError, match="'x' is there twice"):
        layerscope.score(GOAL, ["x", "x"], **sources)
    with pytest.raises(UsageError, match="--top-k is 0"):
        layerscope.score(GOAL, SOLUTIONS, top_k=0)


@pytest.mark.parametrize("solutions", ["ab", b"ab", {"a", "b"}, {"a": 1, "b": 2}, None])
def test_solutions_are_texts_in_an_order(solutions: Any) -> None:
    """Of one text every letter was scored as a solution, without a word."""
    with pytest.raises(UsageError, match="give a list of two texts or more"):
        layerscope.score(GOAL, solutions, standin=True)


@pytest.mark.parametrize(("goal", "other"), [(None, "b"), ("a\ud800", "b"), (GOAL, 2), (GOAL, float("nan"))])
def test_texts_are_texts(goal: Any, other: Any) -> None:
    with pytest.raises(UsageError, match="must be UTF-8 texts"):
        layerscope.score(goal, ["a", other], standin=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("layers", 8), ("dtype", "half"), ("device", "tpu"), ("device", None)),
        *(("top_k", 2.5), ("top_k", "5"), ("standin", "no"), ("strip_solutions", "no")),
    ],
)
def test_a_setting_is_one_that_the_command_line_takes(name: str, value: Any) -> None:
    """`device="tpu"` was a CPU, `strip_solutions="no"` stripped."""
    with pytest.raises(UsageError, match=re.escape(f"score was given {name}={value!r}: ")):
        layerscope.score(GOAL, SOLUTIONS, **{name: value})


@pytest.mark.parametrize("label", ["1", 1.0, None])
def test_a_label_is_a_number(label: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(f"label is {label!r}")):
        layerscope.score(GOAL, SOLUTIONS, label=label, standin=True)


def test_weights_that_were_replaced_are_loaded_anew(tiny: Path, tmp_path: Path) -> None:
    """A model that is being trained lies in one folder; its next question was scored by the weights of the first."""
    model = shutil.copytree(tiny / "model", tmp_path / "model")
    sources = {"sae_repo": tiny / "saes", "sae_width": "1k", "layers": "0"}
    before = layerscope.score(GOAL, SOLUTIONS, model=model, **sources)
    weights = load_file(model / "model.safetensors")
    changed = {name: tensor * 1.5 if tensor.ndim == 2 else tensor for name, tensor in weights.items()}
    save_file(changed, model / "model.safetensors", {"format": "pt"})
    after = layerscope.score(GOAL, SOLUTIONS, model=model, **sources)
    assert after.log_likelihoods != before.log_likelihoods
