"""The same questions in every form that people have them in, through the whole tool: the same records."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import zstandard

from conftest import Command
from hub_server import HubServer, Repository, point_to

Rows = list[dict[str, Any]]
TEXTS = ["with a cloth", "with a stone", "“quickly”, or not", "in the sun\nall day", "with soap", "NA", "007"]


def rows_of(k: int) -> Rows:
    """In columns of their own, as a table must have them; metadata as text, which a CSV has alone."""
    found = []
    for number in range(5):
        texts = {f"s{place}": TEXTS[(number + place) % len(TEXTS)] for place in range(k)}
        found.append({"id": f"q{number}", "q": f"Dry a cup, number {number}?", **texts, "right": [k, 1, 2][number % 3]})
    return found


def columns_of(k: int) -> str:
    solutions = ",".join(f"sol{place + 1}=s{place}" for place in range(k))
    return f"goal=q,{solutions},label=right"


def lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: Rows, separator: str = ",") -> bytes:
    return pd.DataFrame(rows).to_csv(index=False, sep=separator).encode()


def parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pd.DataFrame(rows).to_parquet(sink)
    return sink.getvalue()


FILES: dict[str, Callable[[Rows], bytes]] = {
    "a.jsonl": lines,
    "a.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "a.csv": table,
    "a.tsv": lambda rows: table(rows, "\t"),
    "a.parquet": parquet,
    "a.csv.gz": lambda rows: gzip.compress(table(rows)),
    "a.jsonl.zst": lambda rows: zstandard.compress(lines(rows)),
}


def datasets_of(rows: Rows, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What --dataset says, for each form."""
    for name, written in FILES.items():
        (folder / name).write_bytes(written(rows))
        yield name
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
    yield "saved"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines(rows))))
    yield "-"
    with HubServer() as hub:
        hub.add(Repository("dataset", "some/questions", {"data/validation-00000-of-00001.parquet": parquet(rows)}))
        point_to(hub.endpoint, monkeypatch)
        yield "some/questions"


@pytest.mark.parametrize("k", [2, 4])
def test_ten_layouts_of_the_same_questions_give_the_same_records(
    k: int,
    tiny: Path,
    command: Command,
    one_process: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    one_process("")
    rows, records = rows_of(k), dict[str, bytes]()
    sources = ["--model", str(tiny / "model"), "--sae-repo", str(tiny / "saes"), "--sae-width", "1k", "--layers", "1"]
    crew = ["--gemma-actors", "1", "--layer-blocks", "1", "--encoders-per-block", "1"]
    asked = ["--columns", columns_of(k), "--metadata", "id", "--top-k", "5", "--all-solutions"]
    for number, dataset in enumerate(datasets_of(rows, tmp_path, monkeypatch)):
        path = tmp_path / f"{number}.jsonl"
        done = command("run", *sources, *crew, *asked, "--dataset", dataset, "--output-file", str(path), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        records[dataset] = path.read_bytes()
    assert len(records) == 10
    found = [json.loads(line) for line in records["a.jsonl"].splitlines()]
    assert sorted(record["metadata"]["id"] for record in found) == [f"q{number}" for number in range(5)]
    for record in found:
        row = rows[record["example_id"]]
        assert record["positive_solution_details"]["text"] == row[f"s{row['right'] - 1}"]
        assert len(record.get("others", [])) == k - 2
    differing = [name for name, content in records.items() if content != records["a.jsonl"]]
    assert differing == []
