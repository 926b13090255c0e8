"""Explanations come from Neuronpedia's export in bulk and once; a fault costs one layer; no byte of a record changes.

`ExportServer` answers as the export's bucket does: ListObjectsV2 over several pages, and the files.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import orjson
import pytest
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Command
from hub_server import Fault
from layerscope.errors import LayerscopeError, UsageError
from layerscope.hub.repository import FileInfo, Repository
from layerscope.neuronpedia import bulk_export as neuronpedia
from layerscope.neuronpedia.annotating import annotate
from layerscope.neuronpedia.bulk_export import Written
from layerscope.neuronpedia.explanations import (
    Explanation,
    choose_explanations,
    explain,
    load_explanations,
)
from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import serialise_block
from layerscope.records.line.lines import error_line, frame_record, join_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.manifest import manifest_path, read_manifest
from layerscope.records.reading.run import Run
from layerscope.saes import gemma_scope_2
from layerscope.saes.encoder import TopK
from made_up import edit_manifest, identity, write_run
from paths import ROOT
from several import write_several
from synthetic_attributions import write_attributions
from synthetic_readings import write_readings
from synthetic_run import Effect, Spec

GPT, GEMINI = "gpt-4o-mini (oai_token-act-pair)", "gemini-2.0-flash (np_max-act-logits)"
LAYERS = {7: "gemma-2-2b/7-gemmascope-res-16k", 8: "gemma-2-2b/8-gemmascope-res-16k"}
BATCHES, LINES = 5, 8
PAGE = 2  # keys in a page of the listing
LISTING_PAGES = 3


def line(source: str, feature: int, description: str, explainer: str, number: int = 0) -> bytes:
    """An explanation with the columns that Neuronpedia exports."""
    model, _, method = explainer[:-1].partition(" (")
    columns = {
        "id": f"clx{feature:06}{number}",
        "modelId": source.split("/")[0],
        "layer": source.split("/")[1],
        "index": str(feature),
        "authorId": "somebody",
        "description": description,
        "embedding": "[0.25,-1]",
        "typeName": method,
        "explanationModelName": model,
        "umap_x": float("nan"),  # as Python writes it: NaN
        "umap_log_feature_sparsity": None,
    }
    return json.dumps(columns).encode() + b"\n"


def batches(folder: str, lines: list[bytes]) -> dict[str, bytes]:
    """Lines in `BATCHES` files of a folder of the export."""
    parts = [lines[number::BATCHES] for number in range(BATCHES)]
    return {f"{folder}batch-{number}.jsonl.gz": gzip.compress(b"".join(part)) for number, part in enumerate(parts)}


def contents() -> dict[str, bytes]:
    """An export of two SAEs: 40 features each; one explainer wrote about layer 7, another one about layer 8."""
    files = {}
    for source, explainer in zip(LAYERS.values(), (GPT, GEMINI), strict=True):
        lines = [line(source, i, f"words about {source} {i}", explainer) for i in range(BATCHES * LINES)]
        lines += [lines[0], line(source, 3, "the less usual explainer", "claude (x)"), b"not JSON\n", b'["index"]\n']
        lines += [line(source, 4, "", explainer), line(source, -1, "no id", explainer)]
        densities = [b'{"index":"%d","frac_nonzero":%f,"vector":[0.5]}\n' % (i, i / 100) for i in range(10)]
        files |= batches(f"v1/{source}/explanations/", lines)
        files |= batches(f"v1/{source}/features/", [*densities, b'{"index":"11","frac_nonzero":NaN}\n'])
        files[f"v1/{source}/explanations/index.html"] = b"not a batch"
        files[f"v1/{source}-it/explanations/batch-0.jsonl.gz"] = b"of another SAE"
    return files


@dataclass
class ExportServer:
    """The bucket, what was asked of it, and what goes wrong with it."""

    files: dict[str, bytes] = field(default_factory=contents)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> "ExportServer":
        export = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                export.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.block_on_close = False
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.path)
        faults = (f for f in self.faults if f.times != 0 and re.search(f.match, f"GET {handler.path}"))
        fault = next(faults, Fault(""))
        if fault.times:
            fault.times -= 1
        url = urlsplit(handler.path)
        body = self._listing(parse_qs(url.query)) if url.path == "/" else self.files[url.path[1:]]
        body = body if fault.replace is None else fault.replace
        handler.send_response(fault.status or 200)
        for name, value in {**fault.headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[: fault.cut_after])

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        assert query["list-type"] == ["2"]
        keys = sorted(key for key in self.files if key.startswith(query["prefix"][0]))
        start = int(query.get("continuation-token", ["0 +/="])[0].removesuffix(" +/="))  # needs quoting, as S3's do
        more = start + PAGE < len(keys)
        token = f"<NextContinuationToken>{start + PAGE} +/=</NextContinuationToken>" if more else ""
        found = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in keys[start : start + PAGE])
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>neuronpedia-datasets</Name>'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{found}{token}</ListBucketResult>"
        ).encode()


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExportServer]:
    """A server, and an empty cache."""
    with ExportServer() as server:
        monkeypatch.setenv("LAYERSCOPE_NEURONPEDIA_EXPORT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        yield server


def records(path: Path, layers: tuple[int, ...] = (7, 8, 9), texts: tuple[str, str] = ("in a bag", "in a box")) -> Path:
    """Three records as a run writes them (the second an error line), and a manifest in which layer 9 has no id."""
    numbers = np.array([1e15, 7.25, 0.1, 3e-6, 1e-45], dtype=np.float32)
    found = TopK(np.array([3, 39, 40, 5, 16383]), numbers, np.array([0, 3, 5]), np.array([3, 2]))
    block = serialise_block(layers, [found] * len(layers))
    scores = (SolutionScore(-3.3000002, 4, "▁"), SolutionScore(-12.5, 3, "}"))
    lines = []
    for number in (2, 0):
        frame = frame_record(Question(number, f"carry {texts[0]}", *texts, label=1), scores, (0, 1))
        lines.append(b"".join(join_record(frame, [block])))
    lines.insert(1, error_line(1, 'no {"feature_id":3,"activation":1,"layer":7} here').line)
    ids = {str(layer): LAYERS.get(layer) for layer in layers}
    return write_run(path, [*lines, b'{"torn'], identity(layers), neuronpedia=ids)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return records(tmp_path / "run.jsonl")


def test_explanations_are_fetched_in_bulk_and_once(
    export: ExportServer, run_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = explain(run_file)
    assert Counter(request.startswith("/?") for request in export.requests) == {
        True: 2 * LISTING_PAGES,
        False: 2 * BATCHES,
    }
    assert f"40 by {GPT}" in told
    assert f"explainers  40 by {GEMINI}, 40 by {GPT}" in told
    assert "left out    layers 9:" in told
    err = capsys.readouterr().err
    assert f"v1/{LAYERS[7]}/explanations/: 5 files" in err
    assert "46 lines, 4 of them passed over" in err

    found = load_explanations(read_manifest(run_file))
    assert found.without_id == (9,)
    assert {layer: sorted(features) for layer, features in found.by_layer.items()} == {
        7: list(range(40)),
        8: list(range(40)),
    }
    assert found.by_layer[8][3] == (f"words about {LAYERS[8]} 3", GEMINI, None)

    export.requests.clear()
    assert explain(run_file) == told
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert explain(run_file) == told
    assert export.requests == []


def ids_of_every_set() -> list[str]:
    """One of each repository, site and width with pages: Gemma Scope's releases and Gemma Scope 2's."""
    folder = ROOT / "distributed/layerscope/saes"
    scope = json.loads((folder / "gemma_scope_canonical.json").read_text())
    ids = [
        release["neuronpedia"].format(layer=next(iter(layers)), width=width)
        for release in scope.values()
        if release["neuronpedia"]
        for width, layers in release["canonical_l0"].items()
    ]
    for name, sites in json.loads((folder / "gemma_scope_2_pages.json").read_text()).items():
        paths = [
            f"{site}/layer_{layers.split(',')[0]}_width_{width}_l0_{l0}/params.safetensors"
            for site, l0s in sites.items()
            for l0, widths in l0s.items()
            for width, layers in widths.items()
        ]
        repository = Repository(name, "", dict.fromkeys(paths, FileInfo(1)))
        found = gemma_scope_2.shelf(repository, name)
        assert found is not None
        ids += [sae.neuronpedia_id for sae in found.saes if sae.neuronpedia_id]
    return ids


def test_every_set_s_explanations_are_those_of_its_own_id(export: ExportServer, tmp_path: Path) -> None:
    """Of all sites, sizes and suites: taken for the residual stream's of a layer they would describe others."""
    sets = dict(enumerate(ids_of_every_set()))
    assert {"gemma-3-1b/7-gemmascope-2-res-16k", "gemma-2-9b-it/9-gemmascope-res-16k"} <= set(sets.values())
    assert len({re.sub("/[0-9]+-", "/", name) for name in sets.values()}) == len(sets) > 30
    for name in sets.values():
        export.files |= {f"v1/{name}/explanations/batch-0.jsonl.gz": gzip.compress(line(name, 5, f"of {name}", GPT))}
    file = records(tmp_path / "sets.jsonl", layers=tuple(sets))
    edit_manifest(file, lambda content: content["about"]["neuronpedia"].update({str(at): sets[at] for at in sets}))
    told = explain(file, to=tmp_path / "described.jsonl")
    assert all(f"{name}: 1 by {GPT}" in told for name in sets.values())
    first = json.loads((tmp_path / "described.jsonl").read_text().splitlines()[0])
    lists = first["positive_solution_details"]["active_features_by_layer"]
    assert {int(layer): lists[layer][0]["description"] for layer in lists} == {
        layer: f"of {name}" for layer, name in sets.items()
    }


def test_each_dictionary_s_features_get_its_own_explanations(export: ExportServer, tmp_path: Path) -> None:
    """Another one's feature of the same layer and number is another feature."""
    file = write_several(tmp_path, {"wide": Effect(1, 501, 0.2, 0.7), "bare": Effect(1, 502)}, questions=20)["whole"]
    sets = {"first": "gemma-2-2b/1-gemmascope-res-16k", "wide": "gemma-2-2b/1-gemmascope-mlp-65k"}
    for name in sets.values():
        lines = [line(name, feature, f"{name} {feature}", GPT) for feature in range(0, 512, 2)]
        export.files |= batches(f"v1/{name}/explanations/", lines)

    def name_them(content: dict[str, Any]) -> None:
        content["about"]["neuronpedia"] |= {"0": None, "1": sets["first"], "2": None}
        content["about"]["other_dictionaries"]["wide"]["neuronpedia"]["1"] = sets["wide"]

    edit_manifest(file, name_them)
    for name, neuronpedia_id in sets.items():
        to = tmp_path / f"{name}-described.jsonl"
        assert f"layer    1  {neuronpedia_id}: 256 by {GPT}" in explain(file, to=to, dictionary=name)
        for before, after in zip(file.read_text().splitlines(), to.read_text().splitlines(), strict=True):
            assert described_removed(json.loads(after)) == json.loads(before)
            for of, layer, feature in features_of(json.loads(after)):
                has = of == name and layer == "1" and feature["feature_id"] % 2 == 0
                assert feature.get("description") == (f"{neuronpedia_id} {feature['feature_id']}" if has else None)
    with pytest.raises(LayerscopeError, match="None of the SAEs of dictionary bare of"):
        explain(file, dictionary="bare")
    with pytest.raises(UsageError, match="has first, wide, bare"):
        explain(file, dictionary="big")


def features_of(record: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every feature of a record, with its dictionary and layer."""

    def inside(value: Any, of: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for key, part in value.items() if isinstance(value, dict) else ():
            if isinstance(part, list) and part and isinstance(part[0], dict) and "feature_id" in part[0]:
                yield from ((of, key, feature) for feature in part)
            elif key == "other_dictionaries":
                for name, lists in part.items():
                    yield from inside(lists, name)
            else:
                yield from inside(part, of)

    return inside(record, "first")


@pytest.mark.parametrize(
    ("write", "more"),
    [
        (lambda path: write_readings(path, 20, by_token=2), ["token", "token_count", "token_activations"]),
        (lambda path: write_attributions(path, Spec(20), {}), ["attribution", "token"]),
    ],
    ids=["readings", "attributions"],
)
def test_features_of_readings_and_attributions_are_described_too(
    write: Callable[[Path], object], more: list[str], tmp_path: Path
) -> None:
    file, to = tmp_path / "run.jsonl", tmp_path / "annotated.jsonl"
    write(file)
    everything = {
        layer: {feature: Explanation(f"{layer}/{feature}", GPT, None) for feature in range(512)} for layer in range(3)
    }
    annotate(Run.open(file), everything, to)
    keys = set[str]()
    for before, after in zip(file.read_text().splitlines(), to.read_text().splitlines(), strict=True):
        for _, layer, feature in features_of(json.loads(after)):
            assert feature["description"] == f"{layer}/{feature['feature_id']}"
            assert list(feature)[-1] == "description"
            keys |= set(feature)
        assert re.sub(r',"description":"[0-9/]*"', "", after) == before
    assert keys.issuperset(more)


def test_density_is_fetched_when_asked_for(export: ExportServer, run_file: Path) -> None:
    explain(run_file)
    export.requests.clear()
    assert "; density of 10" in explain(run_file, density=True)
    assert not [request for request in export.requests if "explanations" in request]
    features = load_explanations(read_manifest(run_file)).by_layer[7]
    assert [features[i].density for i in (0, 9, 10, 11)] == [0, 0.09, None, None]


ROWS = st.lists(
    st.builds(Written, st.integers(0, 4), st.sampled_from("ABC"), st.sampled_from("xyz"), st.sampled_from("pq")),
    min_size=1,
)


@given(ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_choice_is_one_existing_explanation_a_feature_whatever_the_order(
    orders: tuple[list[Written], list[Written]],
) -> None:
    rows, shuffled = orders
    chosen = choose_explanations(rows)
    assert chosen == choose_explanations(shuffled) == choose_explanations(rows * 2)
    assert [feature for feature, _, _ in chosen] == sorted({row.feature_id for row in rows})
    assert {(f, e, d) for f, d, e in chosen} <= {(row.feature_id, row.explainer, row.description) for row in rows}
    explained = Counter(explainer for _, explainer in {row[:2] for row in rows})
    for feature, _, explainer in chosen:
        assert explained[explainer] == max(explained[row.explainer] for row in rows if row.feature_id == feature)


def test_passing_faults_are_waited_out(export: ExportServer, run_file: Path) -> None:
    of_layer_7 = r"/7-gemmascope-res-16k/explanations/batch-"
    broken = bytearray(export.files[f"v1/{LAYERS[7]}/explanations/batch-4.jsonl.gz"])
    broken[40] ^= 255
    export.faults = [
        Fault("continuation-token.*7-gemma|7-gemma.*continuation-token", cut_after=40),
        Fault(of_layer_7 + "0", status=429, headers={"Retry-After": "1"}),
        Fault(of_layer_7 + "1", status=503),
        Fault(of_layer_7 + "2", cut_after=30),
        Fault(of_layer_7 + "3", replace=gzip.compress(b'{"index":"1"}\n')[:-6]),
        Fault(of_layer_7 + "4", replace=bytes(broken)),
    ]
    assert f"{LAYERS[7]}: 40 by {GPT}" in explain(run_file)
    assert [fault.times for fault in export.faults] == [0] * 6
    assert len(export.requests) == 2 * (LISTING_PAGES + BATCHES) + 6


def endless(export: ExportServer) -> None:
    more = b"<NextContinuationToken>0 +/=</NextContinuationToken></ListBucketResult>"
    export.faults = [Fault("prefix=[^&]*7-gemma", None, replace=b'<ListBucketResult xmlns="x">' + more)]


def without_files(export: ExportServer) -> None:
    export.files = {key: content for key, content in export.files.items() if "/7-" not in key}


def with_batch(content: bytes) -> Callable[[ExportServer], None]:
    def prepare(export: ExportServer) -> None:
        export.files |= {key: content for key in export.files if "/7-" in key}

    return prepare


def with_fault(**fault: Any) -> Callable[[ExportServer], None]:
    def prepare(export: ExportServer) -> None:
        export.faults = [Fault("7-gemma", None, **fault)]

    return prepare


LASTING: dict[str, tuple[Callable[[ExportServer], None], str]] = {
    "busy": (with_fault(status=503), "answers 503"),
    "refused": (with_fault(status=403), "answers 403"),
    "cut short": (with_fault(cut_after=20), "cannot be reached"),
    "another server": (with_fault(replace=b"<html><body>Log in</body></html>"), "arrives broken: its listing is none"),
    "no XML": (with_fault(replace=b"<html>\x1b[31m"), "arrives broken: its listing is no XML"),
    "endless listing": (endless, "goes on after 16 pages"),
    "not there": (without_files, "has none for this SAE"),
    "no gzip": (with_batch(b"\x1b[31mred"), "arrives broken: batch-"),
    "no explanations": (with_batch(gzip.compress(b'{"index":"1"}\n')), "none of the lines"),
    "a long line": (with_batch(gzip.compress(b"x" * (1 << 21))), "too long ones"),
    "many lines": (with_batch(gzip.compress(b"\n" * (1 << 15))), "too many lines"),
    "a large file": (with_batch(b"\0" * (1 << 21)), "has more than 1.0 MB"),
}


@pytest.mark.parametrize("name", LASTING)
def test_lasting_fault_costs_one_layer(
    name: str,
    export: ExportServer,
    run_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(neuronpedia, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(neuronpedia, "_MAX_FILE_BYTES", 1 << 20)
    prepare, reason = LASTING[name]
    prepare(export)
    told = explain(run_file)
    assert f"{LAYERS[7]}: nothing" in told
    assert f"{LAYERS[8]}: 40 by {GEMINI}" in told
    err = capsys.readouterr().err
    (warning,) = (line for line in err.splitlines() if line.startswith("Warning"))
    assert warning.startswith("Warning: layers 7: no explanations: ")
    assert reason in warning
    assert "\x1b" not in err + told


def test_server_that_asks_for_a_day_is_not_waited_for(
    export: ExportServer, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.faults = [Fault("7-gemma", None, status=429, headers={"Retry-After": "86400"})]
    assert f"{LAYERS[8]}: 40 by {GEMINI}" in explain(run_file)
    assert "layers 7: no explanations: Neuronpedia's export answers 429" in capsys.readouterr().err
    assert len([request for request in export.requests if "7-gemma" in request]) == 1


def test_what_was_waited_for_in_vain_is_not_waited_for_again(
    export: ExportServer, run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(neuronpedia, "_PATIENCE_SECONDS", 1.5)
    export.faults = [Fault("GET", None, status=500)]
    with pytest.raises(LayerscopeError, match="No explanations for any layer"):
        explain(run_file)
    assert capsys.readouterr().err == "Warning: layers 7-8: no explanations: Neuronpedia's export answers 500\n"
    assert [re.findall("[78]-", request) for request in export.requests] == [["7-"], ["7-"], ["8-"]]


def test_offline_with_half_a_cache_asks_nobody_and_tells_what_is_missing(
    export: ExportServer, run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(records(run_file.with_name("seven.jsonl"), layers=(7,)))
    export.requests.clear()
    capsys.readouterr()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"{LAYERS[8]}: nothing" in explain(run_file)
    assert "layers 8: no explanations: HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert export.requests == []


@pytest.mark.usefixtures("export")
def test_broken_cache_is_fetched_anew(run_file: Path, tmp_path: Path) -> None:
    told = explain(run_file)
    for number, path in enumerate(sorted(tmp_path.rglob("*.parquet"))):
        path.write_bytes(path.read_bytes()[: 200 * number])
    assert load_explanations(read_manifest(run_file)).by_layer == {}
    assert explain(run_file) == told


def test_text_from_the_network_is_one_bounded_printable_line(export: ExportServer, run_file: Path) -> None:
    hostile = "\x1b]0;title\x07 red\x9b31m\nnext‮line " + "x" * 5000
    export.files = batches(f"v1/{LAYERS[7]}/explanations/", [line(LAYERS[7], 3, hostile, f"{hostile} (m)")] * 5)
    told = explain(records(run_file, layers=(7,)))
    assert all(character.isprintable() or character == "\n" for character in told)
    (found,) = load_explanations(read_manifest(run_file)).by_layer[7].values()
    assert found.description.startswith("]0;title red 31m next line xxx")
    assert found.description.isprintable()
    assert len(found.description) == 1000


def described_removed(record: Any) -> Any:
    for _, _, feature in features_of(record):
        if "description" in feature:
            assert list(feature)[-1] == "description"
            del feature["description"]
    return record


LIKE_A_FEATURE = '{"feature_id":3,"activation":1.5,"layer":7}'
TEXTS = st.text(min_size=1) | st.sampled_from([LIKE_A_FEATURE, "{", '{"feature_id":3,"activation":', "\\", '\\"{'])


@settings(deadline=None, max_examples=25)
@given(texts=st.tuples(TEXTS, TEXTS), description=TEXTS)
def test_annotated_records_are_the_records_and_descriptions(
    texts: tuple[str, str], description: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("annotated")
    file, to = records(folder / "run.jsonl", texts=texts), folder / "annotated.jsonl"
    found = Explanation(description, GPT, 0.5)
    told = annotate(Run.open(file), {7: {3: found, 5: found, 9: found}, 9: {16383: found}}, to)
    assert "3 lines, 6 of 30 features" in told
    lines, annotated = file.read_bytes().splitlines(), to.read_bytes().splitlines()
    assert annotated[1] == lines[1]  # an error line
    for before, after in ((lines[0], annotated[0]), (lines[2], annotated[2])):
        # Numbers as they are spelled, and keys in their order.
        numbers: dict[str, Any] = {"parse_float": str, "parse_int": str}
        assert json.dumps(described_removed(json.loads(after, **numbers))) == json.dumps(json.loads(before, **numbers))
        assert b'"activation":0.000003' in after
        details = [orjson.loads(after)[name] for name in ("positive_solution_details", "negative_solution_details")]
        assert {
            (feature["layer"], feature["feature_id"], feature["description"])
            for one in details
            for features in one["active_features_by_layer"].values()
            for feature in features
            if "description" in feature
        } == {(7, 3, description), (7, 5, description), (9, 16383, description)}


@pytest.mark.usefixtures("export")
@pytest.mark.parametrize("written", [b'"activation":7.25,"layer": 7}', b'"activation":7.25,"layer":7,"note":"mine"}'])
def test_records_that_were_written_otherwise_are_refused(written: bytes, run_file: Path, tmp_path: Path) -> None:
    to = tmp_path / "annotated.jsonl"
    to.write_text("as before")
    run_file.write_bytes(run_file.read_bytes().replace(b'"activation":7.25,"layer":7}', written))
    with pytest.raises(LayerscopeError, match="line 1: the features are not written as"):
        explain(run_file, to=to, overwrite=True)
    assert to.read_text() == "as before"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "annotated.jsonl",
        "run.jsonl",
        "run.jsonl.manifest.json",
    ]


def test_what_cannot_be_done_is_said(export: ExportServer, run_file: Path, tmp_path: Path) -> None:
    content = run_file.read_bytes()
    (tmp_path / "mine").write_text("mine")
    for to, told in (
        (run_file, "reads or writes already"),
        (manifest_path(run_file), "belongs to a run"),
        (tmp_path, "is a folder"),
        (tmp_path / "mine", "is there already"),
        (tmp_path / "nowhere" / "x", "no folder"),
    ):
        with pytest.raises(UsageError, match=told):
            explain(run_file, to=to)
    assert run_file.read_bytes() == content
    assert export.requests == [], "all this is said before the work starts"
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UsageError, match="There is no file"):
        explain(tmp_path / "other.jsonl")
    with pytest.raises(LayerscopeError, match="None of the SAEs of"):
        explain(records(tmp_path / "none.jsonl", layers=(9,)))
    export.requests.clear()
    edit_manifest(run_file, lambda manifest: manifest["about"]["neuronpedia"].update({"7": "../../../home/x"}))
    with pytest.raises(UsageError, match=r"is not a whole manifest: .* at `about.neuronpedia"):
        explain(run_file)
    assert export.requests == []


@pytest.mark.parametrize("address", ["localhost:1", "http://x:port", "file:///etc/passwd"])
def test_export_that_is_no_address(address: str, run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERSCOPE_NEURONPEDIA_EXPORT", address)
    with pytest.raises(UsageError, match="which is no address"):
        explain(run_file)


def test_commands_at_the_same_time_fetch_once(
    export: ExportServer, run_file: Path, tmp_path: Path, layerscope: Command
) -> None:
    environment = {"HF_HOME": str(tmp_path / "home")}
    arguments = ("explain", str(run_file), "--to", str(tmp_path / "annotated.jsonl"), "--overwrite")
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: layerscope(*arguments, env=environment), range(2)))
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    assert len({one.stdout for one in done}) == 1
    assert "annotated.jsonl: 3 lines, 12 of 30 features with a description" in done[0].stdout
    assert max(Counter(export.requests).values()) == 1
    assert len(export.requests) == 2 * (LISTING_PAGES + BATCHES)
    assert manifest_path(run_file).is_file()
    assert not list(tmp_path.rglob("*.tmp"))
