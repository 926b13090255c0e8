"""Attributions as tables hold all that the records hold of them, and two runs' are compared in their order."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import layerscope
from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.line.attributions import GROUPS, TERMS, AttributedFeature
from layerscope.records.line.record import Record, parse
from layerscope.records.verify import verify
from layerscope.tables.attribution_agreement import Agreement, mean_of_goals
from layerscope.tables.compare import as_text, compare
from layerscope.tables.export import export
from synthetic_attributions import write_attributions
from synthetic_run import Spec, write_run

SPEC = Spec(questions=12, layers=(3, 7), active=8, errors=(2,), distinct=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attributed") / "run.jsonl"
    write_attributions(path, SPEC, {})
    return path


def records(path: Path) -> Iterator[Record]:
    for line in path.read_bytes().splitlines():
        if isinstance(record := parse(line), Record):
            yield record


def in_the_records(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the records have, feature by feature and terms by terms, in the order of the file."""
    features, terms = [], []
    for record in records(path):
        for group, found in record.attributions.items():
            for layer, listed in found.lists.items():
                place = {"example_id": record.example_id, "tokens": group, "layer": layer}
                for rank, of in enumerate(listed, start=1):
                    numbers = {"attribution": np.float32(of.attribution), "activation": np.float32(of.activation)}
                    features.append({**place, "rank": rank, "feature_id": of.feature_id, **numbers, "token": of.token})
                terms.append(place | {name: np.float32(getattr(found.terms[layer], name)) for name in TERMS})
    return features, terms


def test_the_run_is_what_a_run_writes(run: Path) -> None:
    assert "all whole" in verify(run)


def test_the_tables_hold_all_that_the_records_hold(run: Path) -> None:
    features, terms = in_the_records(run)
    assert {row["tokens"] for row in features} == set(GROUPS)
    assert layerscope.read_attributions(run).to_pylist() == features
    assert layerscope.read_attribution_terms(run).to_pylist() == terms
    some = [row for row in features if row["layer"] == 7 and row["rank"] < 3]
    assert layerscope.read_attributions(run, layers=[7], top_k=2).to_pylist() == some


def test_an_export_has_their_tables_beside_the_others(run: Path, tmp_path: Path) -> None:
    told = export(run, tmp_path / "x.parquet", overwrite=False)
    names = ["x.parquet", "x.questions.parquet", "x.attributions.parquet", "x.attribution_terms.parquet"]
    assert [Path(line.split("  ")[0]).name for line in told.splitlines()] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert pq.read_table(tmp_path / names[2]).to_pylist() == layerscope.read_attributions(run).to_pylist()
    assert pq.read_table(tmp_path / names[3]).to_pylist() == layerscope.read_attribution_terms(run).to_pylist()
    assert pq.read_table(tmp_path / names[0]).to_pylist() == layerscope.read_features(run).to_pylist()
    export(run, tmp_path / "x.csv", overwrite=False)
    table = pa.csv.read_csv(tmp_path / "x.attributions.csv")
    assert table.column_names == layerscope.read_attributions(run).column_names
    assert table["attribution"].to_pylist() == pytest.approx(
        layerscope.read_attributions(run)["attribution"].to_pylist(), rel=1e-6
    )
    for name in names[:2]:
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=r"x\.attributions\.parquet"):
        export(run, tmp_path / "x.parquet", overwrite=False)


def test_what_is_not_there_is_said(run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "plain.jsonl", SPEC)
    for read in (layerscope.read_attributions, layerscope.read_attribution_terms):
        with pytest.raises(UsageError, match="was run without --attribution"):
            read(tmp_path / "plain.jsonl")
        with pytest.raises(UsageError, match=r"has no layer 4; it has 3, 7\."):
            read(run, layers=[3, 4])
    with pytest.raises(UsageError, match="top_k is 0"):
        layerscope.read_attributions(run, top_k=0)
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(run.read_bytes().replace(b'"prompt_attributions_by_layer"', b'"prompt_att"', 1))
    with pytest.raises(LayerscopeError, match="not all attributions"):
        layerscope.read_attributions(broken)


def test_runs_are_compared_by_layer_and_group_of_tokens(run: Path, tmp_path: Path) -> None:
    """Against the definition: Spearman's of what both list, question by question, of every group of goals once."""
    other = tmp_path / "relp.jsonl"
    write_attributions(other, SPEC, {}, "relp", seed=1)
    found = compare(run, other)
    assert found["settings_that_differ"] == ["settings.attribution was gradient, is relp"]
    assert list(found["attributions"]) == ["3", "7"]
    for layer in (3, 7):
        for group in GROUPS:
            expected, jaccards = [], []
            for a, b in zip(records(run), records(other), strict=True):
                of_a, of_b = (
                    {of.feature_id: of.attribution for of in r.attributions[group].lists[layer]} for r in (a, b)
                )
                shared = sorted(of_a.keys() & of_b.keys())
                jaccards += [len(shared) / len(of_a.keys() | of_b.keys())] if of_a or of_b else []
                if len(shared) >= 3:
                    expected.append(spearmanr([of_a[i] for i in shared], [of_b[i] for i in shared]).statistic)
            cell = found["attributions"][str(layer)][group]
            assert cell["rank_correlation"] == pytest.approx(np.mean(expected))
            assert cell["low"] < cell["rank_correlation"] < cell["high"]
            assert cell["questions"] == len(expected)
            assert cell["mean_jaccard"] == pytest.approx(np.mean(jaccards))
    text = as_text(found)
    assert "attributions: rank correlation of what both list" in text
    first = found["attributions"]["3"]["positive"]
    assert f"{first['rank_correlation']:.3f} [{first['low']:.3f}, {first['high']:.3f}]" in text
    same = compare(run, run)["attributions"]["3"]["prompt"]
    assert (same["rank_correlation"], same["low"], same["mean_jaccard"]) == (pytest.approx(1), pytest.approx(1), 1)


def test_a_run_without_attributions_compares_none(run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "plain.jsonl", SPEC)
    found = compare(run, tmp_path / "plain.jsonl")
    assert found["questions"]["common"] == 11
    assert found["attributions"] == {}
    assert "attributions:" not in as_text(found)
    orjson.dumps(found)


FEATURES = st.dictionaries(st.integers(0, 9), st.integers(-8, 8).filter(bool), max_size=8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), FEATURES, FEATURES), max_size=6))
def test_agreement_counts_each_goal_group_once(cells: list[tuple[int, dict[int, int], dict[int, int]]]) -> None:
    agreement, by_goal = Agreement(), defaultdict[int, list[float]](list)
    for goal, a, b in cells:
        agreement.add(goal, *([AttributedFeature(i, v, 1.0, 0, 0) for i, v in of.items()] for of in (a, b)))
        shared = sorted(a.keys() & b.keys())
        if len(shared) >= 3 and len({a[i] for i in shared}) > 1 and len({b[i] for i in shared}) > 1:
            by_goal[goal].append(spearmanr([a[i] for i in shared], [b[i] for i in shared]).statistic)
    expected = np.mean([np.mean(of) for of in by_goal.values()]) if by_goal else None
    found = agreement.result()
    assert found["rank_correlation"] == (None if expected is None else pytest.approx(expected))
    assert (found["low"] is None) == (len(by_goal) < 2)


def test_an_interval_is_that_of_goals_and_not_of_questions() -> None:
    """A goal that is asked a hundred times says what it says once."""
    values, goals = np.array([0.0, 1.0, 0.5, 0.2]), np.arange(4)
    once = mean_of_goals(goals, values)
    assert mean_of_goals(np.repeat(goals, 100), np.repeat(values, 100)) == pytest.approx(once)
    by_hand = [np.mean(values[np.random.default_rng(n).integers(0, 4, 4)]) for n in range(4000)]
    assert once[1:] == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.04)
