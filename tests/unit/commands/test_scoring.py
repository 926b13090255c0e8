"""One question in this process is scored as a run scores it: byte for byte, and without Ray."""

from pathlib import Path

import orjson
import pytest

import layerscope
from layerscope.commands import scoring
from layerscope.config import Config
from layerscope.errors import UsageError
from layerscope.records.record import parse
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
    again = layerscope.score("boil water", SOLUTIONS, layers="0,2", **sources)
    assert next(iter(scoring._loaded.values())) is loaded, "the model is loaded once"
    assert again.record.question == "boil water"
    assert scored.record == parse(scored.line)
    assert [text for text in SOLUTIONS if text in scored._repr_html_() and text in str(scored)] == SOLUTIONS
    assert scored.chosen == scored.log_likelihoods.index(max(scored.log_likelihoods))
    assert set(scored.features["layer"]) == {0, 2}
    more = layerscope.score(GOAL, [*SOLUTIONS, "eat it"], label=2, layers="0,2", **sources)
    assert more.record.positive.text == "eat it"
    assert more.log_likelihoods[:2] == pytest.approx(scored.log_likelihoods, rel=1e-5)


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
    with pytest.raises(UsageError, match="--top-k is 0"):
        layerscope.score(GOAL, SOLUTIONS, top_k=0)
