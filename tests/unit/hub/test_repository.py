"""A whole job from a hub, with and without a connection, and what becomes of the hub's faults."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants, snapshot_download

from conftest import Command, actors_here, called
from hub_server import Fault, HubServer, Repository, Request, point_to
from layerscope.errors import LayerscopeError
from layerscope.hub.repository import fetch, open_repository, read_parts

MODEL, SAES, PIQA = "google/gemma-2-2b", "google/gemma-scope-2b-pt-res", "baber/piqa"
TOKEN = "hf_TheTokenThatNobodyMayRead"
CANONICAL = {layer: f"layer_{layer}/width_1k/average_l0_{l0}/params.npz" for layer, l0 in ((0, 60), (1, 110), (2, 40))}
SAE = CANONICAL[0]
VALIDATION = "data/validation-00000-of-00001.parquet"
QUESTIONS = 20


def files_of(folder: Path) -> dict[str, Path | bytes]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def parquet(split: str, count: int) -> bytes:
    rows = [
        {"goal": f"{split} {i}", "sol1": "wipe it with a dry cloth", "sol2": f"wipe it with {i} stones", "label": i % 2}
        for i in range(count)
    ]
    types = pa.schema([("goal", pa.string()), ("sol1", pa.string()), ("sol2", pa.string()), ("label", pa.int64())])
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, types), content)
    return content.getvalue()


PIQA_FILES: dict[str, Path | bytes] = {
    "data/train-00000-of-00001.parquet": parquet("train", 4),
    VALIDATION: parquet("validation", QUESTIONS),
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def environment(server: HubServer, home: Path) -> dict[str, str]:
    """What a user sets: an account with the licence, and a hub."""
    return {
        "HF_ENDPOINT": server.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
    }


def serve(server: HubServer, tiny: Path) -> dict[str, str]:
    """Puts the three repositories on a hub and gives their commits."""
    server.tokens = {TOKEN: "alice"}
    server.licensed = {TOKEN}
    return {
        MODEL: server.add(Repository("model", MODEL, files_of(tiny / "model"), gated=True)),
        SAES: server.add(Repository("model", SAES, files_of(tiny / "saes"))),
        PIQA: server.add(Repository("dataset", PIQA, PIQA_FILES)),
    }


def downloads(requests: Sequence[Request]) -> list[tuple[str, int | None, int]]:
    """Path in the repository, status and bytes of every request for a file's content."""
    return [
        (request.path.split("/resolve/")[1].split("/", 1)[1], request.status, request.sent)
        for request in requests
        if request.method == "GET" and "/resolve/" in request.path
    ]


def download_megabytes(plan: str) -> float:
    """What a plan says is to be downloaded."""
    told = re.search(r"^download\s+([\d.,]+) (bytes|kB|MB|GB)", plan, re.MULTILINE)
    assert told, plan
    return float(told[1].replace(",", "")) * {"bytes": 1e-6, "kB": 1e-3, "MB": 1, "GB": 1e3}[told[2]]


# Faults


@dataclass
class Case:
    """Something that is asked of `layerscope.hub.repository`, and the faults on its way."""

    ask: Callable[[str], str]
    """Asks of the repository of this name."""
    fault: Fault
    """With `{repo}` for the repository's name."""


@dataclass(frozen=True)
class Outcome:
    """`well` and what came of it, or the class of the known error and its message; and what the hub was asked."""

    kind: str
    message: str
    seconds: float
    requests: list[Request]
    fault: Fault


def listed(name: str) -> str:
    return str(open_repository(name).commit)


def fetched(name: str) -> str:
    return sha256(fetch(open_repository(name), SAE).read_bytes())


def last_kilobyte(name: str) -> str:
    return sha256(read_parts(open_repository(name), SAE, lambda stream: (stream.seek(-1000, 2), stream.read())[1]))


def of_no_revision(name: str) -> str:
    return str(open_repository(name, "v9"))


PASSING = {
    "listing answers 500": Case(listed, Fault("{repo}/revision/", status=500)),
    "listing answers 429": Case(listed, Fault("{repo}/revision/", status=429, headers={"Retry-After": "2"})),
    "listing is slow": Case(listed, Fault("{repo}/revision/", delay=2)),
    "download is slow": Case(fetched, Fault("GET .*{repo}/resolve/", delay=2)),
    "listing drops": Case(listed, Fault("{repo}/revision/", cut_after=100)),
    "access check answers 503": Case(listed, Fault("{repo}/auth-check", status=503)),
    "download answers 500": Case(fetched, Fault("GET .*{repo}/resolve/", status=500)),
    "download answers 429": Case(fetched, Fault("GET .*{repo}/resolve/", status=429, headers={"Retry-After": "2"})),
    "download drops": Case(fetched, Fault("GET .*{repo}/resolve/", cut_after=1000)),
    "download ends early": Case(fetched, Fault("GET .*{repo}/resolve/", replace=b"short")),
    "question for the size drops": Case(fetched, Fault("HEAD .*{repo}/resolve/", cut_after=0)),
    "range answers 500": Case(last_kilobyte, Fault("GET .*{repo}/resolve/", status=500)),
    "range drops": Case(last_kilobyte, Fault("GET .*{repo}/resolve/", cut_after=10)),
}
LASTING = {
    "busy": Case(fetched, Fault("GET .*{repo}/resolve/", times=None, status=500)),
    "forbidden": Case(listed, Fault("{repo}/", times=None, status=403)),
    "short": Case(fetched, Fault("GET .*{repo}/resolve/", times=None, replace=b"short")),
    "other size": Case(fetched, Fault("{repo}/resolve/", times=None, replace=b"short")),
    "unknown revision, then drops": Case(of_no_revision, Fault("{repo}/refs", times=None, cut_after=3)),
}


def name_of(case: str) -> str:
    """Of the repository of one case."""
    return f"google/{re.sub(r'[^a-z0-9]+', '-', case)}"


class Hurry:
    """In place of `time` where a server is waited for: it takes a fifth, which leaves a busy machine room."""

    @staticmethod
    def monotonic() -> float:
        return 5 * time.monotonic()

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(seconds / 5)


Outcomes = Callable[[str], Outcome]


@pytest.fixture(scope="module")
def outcomes(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What came of a case. All at once, each of a repository of its own, because they mostly wait."""
    other = Fault("{repo}/resolve/", times=None, replace=bytes((tiny / "saes" / SAE).stat().st_size))
    cases, files = PASSING | LASTING | {"other content": Case(fetched, other)}, files_of(tiny / "saes")
    with HubServer() as server, pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(cases)) as pool:
        server.tokens = {TOKEN: "alice"}
        for name in cases:
            server.add(Repository("model", name_of(name), files))
        client_of(server, tmp_path_factory.mktemp("home"), patch)
        patch.setattr("layerscope.hub.errors.time", Hurry)

        def outcome(name: str) -> Outcome:
            repo, scheduled, started = name_of(name), cases[name].fault, Hurry.monotonic()
            fault = replace(scheduled, match=scheduled.match.format(repo=repo))
            server.faults.append(fault)
            kind, message = "well", ""
            try:
                message = cases[name].ask(repo)
            except LayerscopeError as error:
                kind, message = type(error).__name__, str(error)
            asked = [request for request in server.requests if f"{repo}/" in request.path]
            return Outcome(kind, message, Hurry.monotonic() - started, asked, fault)

        came = dict(zip(cases, pool.map(outcome, cases), strict=True))
    return came.__getitem__


def client_of(server: HubServer, home: Path, patch: pytest.MonkeyPatch, offline: bool = False) -> None:
    """The hub's client in this process as `environment` has it; a new one imports for seconds."""
    point_to(server.endpoint, patch)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_HUB_OFFLINE", offline)
    patch.setenv("HF_TOKEN", TOKEN)


@pytest.mark.parametrize("name", PASSING)
def test_passing_fault_is_waited_out(name: str, outcomes: Outcomes, tiny: Path) -> None:
    """A hub that is busy for a moment, or a line that drops once, ends a run of hours."""
    outcome = outcomes(name)
    assert outcome.kind == "well", outcome.message
    assert outcome.fault.times == 0
    content = (tiny / "saes" / SAE).read_bytes()
    came = {fetched: sha256(content), last_kilobyte: sha256(content[-1000:])}
    assert outcome.message == came.get(PASSING[name].ask, outcome.message)
    if "Retry-After" in outcome.fault.headers:
        assert outcome.seconds >= int(outcome.fault.headers["Retry-After"])


# What a plan transfers

Plan = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def plan(command: Command, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """`layerscope plan` in this process."""

    def run(
        *options: str, server: HubServer, home: Path, offline: bool = False, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        client_of(server, home, monkeypatch, offline)
        return command("plan", *options, cwd=cwd)

    return run


def test_plan_of_a_large_model_transfers_little(plan: Plan, tiny: Path, tmp_path: Path) -> None:
    """A plan downloads the weights, or does not say how much a run will download."""
    weights = bytes(80_000_000)
    saes = {name: path for name, path in files_of(tiny / "saes").items() if name in CANONICAL.values()}
    with HubServer() as server:
        serve(server, tiny)
        server.add(Repository("model", "org/large", {**files_of(tiny / "model"), "model.safetensors": weights}))
        options = ["--model", "org/large", "--sae-repo", "google/gemma-scope-2b-pt-res", "--sae-width", "1k"]
        options += ["--dataset", "bundled", "--address", "local"]
        told = plan(*options, server=server, home=tmp_path, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    expected = len(weights) + sum(Path(str(path)).stat().st_size for path in saes.values())
    assert download_megabytes(told.stdout) == pytest.approx(expected / 1e6, rel=0.1)
    assert sum(request.sent for request in server.requests) < 1_000_000


# The whole job


@dataclass(frozen=True)
class Job:
    """The whole job on a hub, which was then closed."""

    home: Path
    records: Path
    commits: dict[str, str]
    plan: subprocess.CompletedProcess[str]
    plan_requests: list[Request]
    run: subprocess.CompletedProcess[str]
    requests: list[Request]
    """Of both commands."""
    server: HubServer
    options: list[str]

    @property
    def manifest(self) -> Path:
        return self.records.with_name(f"{self.records.name}.manifest.json")


@pytest.fixture(scope="module")
def job(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Plans and runs the whole job."""
    home, records = tmp_path_factory.mktemp("fresh") / "home", tmp_path_factory.mktemp("output") / "records.jsonl"
    spread = ["--gemma-actors", "1", "--layer-blocks", "1", "--encoders-per-block", "1"]
    options = ["--sae-width", "1k", "--num-samples", "8", "--address", "local", "--output-file", str(records), *spread]
    with HubServer() as server, actors_here() as patch:
        commits = serve(server, tiny)
        client_of(server, home, patch)
        plan = called("plan", *options)
        planned = len(server.requests)
        run = called("run", *options)
    requests = server.requests
    return Job(home, records, commits, plan, requests[:planned], run, requests, server, options)


def test_plan_reads_no_weights(job: Job) -> None:
    """A plan transfers weights, or a split of the data set that it does not need."""
    assert job.plan.returncode == 0, job.plan.stderr
    assert job.commits[MODEL] in job.plan.stdout
    assert f"8 of {QUESTIONS} in {PIQA} validation" in job.plan.stdout
    whole = {path for path, status, _ in downloads(job.plan_requests) if status == 200}
    assert whole == {"config.json", "tokenizer.json", VALIDATION}
    parts = [(path, sent) for path, status, sent in downloads(job.plan_requests) if status != 200]
    assert {path for path, _ in parts} == {SAE, "model.safetensors"}  # of both their headers
    assert sum(sent for _, sent in parts) < 128 << 10


def test_job_from_the_hub_answers_the_chosen_questions(job: Job) -> None:
    """A job from the hub fails, takes another split, or loses questions."""
    assert job.run.returncode == 0, job.run.stderr
    records = [json.loads(line) for line in job.records.read_text().splitlines()]
    assert len(records) == 8
    for record in records:
        assert record["question"] == f"validation {record['example_id']}"


def test_manifest_names_commits_and_hashes(job: Job, tiny: Path) -> None:
    """Nobody can tell later which weights and questions the numbers are of."""
    identity = json.loads(job.manifest.read_text())["identity"]
    assert (identity["model"]["repository"], identity["model"]["commit"]) == (MODEL, job.commits[MODEL])
    assert (identity["saes"]["repository"], identity["saes"]["commit"]) == (SAES, job.commits[SAES])
    assert identity["questions"] == {"dataset": PIQA, "revision": job.commits[PIQA], "split": "validation"}
    names = ("config.json", "tokenizer.json", "model.safetensors")
    assert identity["model"]["files"] == {name: sha256((tiny / "model" / name).read_bytes()) for name in names}
    assert identity["saes"]["layers"] == {
        str(layer): {"path": path, "sha256": sha256((tiny / "saes" / path).read_bytes())}
        for layer, path in CANONICAL.items()
    }


def test_each_file_is_downloaded_once(job: Job) -> None:
    """Actors, commands or repeated reads download a file of gigabytes again."""
    counts = Counter(path for path, status, _ in downloads(job.requests) if status == 200)
    names = ["config.json", "tokenizer.json", "model.safetensors", VALIDATION, *CANONICAL.values()]
    assert counts == dict.fromkeys(names, 1)


FETCH = """
import hashlib, sys
from layerscope.hub.repository import fetch, open_repository
print(hashlib.sha256(fetch(open_repository(sys.argv[1]), sys.argv[2]).read_bytes()).hexdigest())
"""


def test_processes_that_want_a_file_at_once_download_it_once(tiny: Path, tmp_path: Path) -> None:
    """Encoders of one block on one node, say."""
    with HubServer() as server:
        serve(server, tiny)
        server.faults = [Fault("GET .*/resolve/", times=None, delay=1)]
        command = [sys.executable, "-c", FETCH, SAES, SAE]
        env = {**os.environ, **environment(server, tmp_path)}
        both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        told = [process.communicate(timeout=100)[0] for process in both]
    assert told == [f"{sha256((tiny / 'saes' / SAE).read_bytes())}\n"] * 2
    assert [(path, status) for path, status, _ in downloads(server.requests)] == [(SAE, 200)]


def test_token_is_nowhere(job: Job) -> None:
    """A secret ends up in output that people share."""
    kept = job.home / "layerscope"
    written = [path for folder in (job.records.parent, kept) for path in folder.rglob("*") if path.is_file()]
    assert {job.records, job.manifest} < set(written)
    texts = [job.plan.stdout, job.plan.stderr, job.run.stdout, job.run.stderr]
    texts += [str(path) + path.read_bytes().decode(errors="replace") for path in written]
    assert not [text[:200] for text in texts if TOKEN in text]
    assert any(request.has_token for request in job.requests)


def test_revisions_pin_what_a_plan_reads(job: Job, tiny: Path, plan: Plan) -> None:
    """SAEs or questions come at whatever the main branch is today, though a commit is asked for."""
    with HubServer() as server:
        first = serve(server, tiny)
        server.add(Repository("model", SAES, files_of(tiny / "saes") | {"README.md": b"edited"}))
        server.add(Repository("dataset", PIQA, PIQA_FILES | {"README.md": b"edited"}))
        home = job.home.with_name("pinned")
        pinned = ["--sae-revision", first[SAES], "--dataset-revision", first[PIQA]]
        told = plan(*job.options, *pinned, server=server, home=home)
        assert f"{SAES} {first[SAES]}" in told.stdout, told.stderr
        assert f"{PIQA} validation {first[PIQA]}" in told.stdout
        went_on = plan(*job.options, server=server, home=home)  # at main, an edited README further than the file
    assert first[SAES] not in went_on.stdout
    assert re.search(r"^done\s+8 of 8 questions", went_on.stdout, re.MULTILINE), went_on.stdout


def test_finished_job_is_complete_offline(job: Job, plan: Plan, command: Command) -> None:
    """A machine without a connection cannot use what this one has downloaded."""
    before = job.records.read_bytes()
    told = plan(*job.options, server=job.server, home=job.home, offline=True)
    assert told.returncode == 0, told.stderr
    assert download_megabytes(told.stdout) == 0
    assert re.search(r"^done\s+8 of 8 questions", told.stdout, re.MULTILINE)
    assert "other settings" not in told.stdout
    run = command("run", *job.options)
    assert run.returncode == 0, run.stderr
    assert "is complete already" in run.stdout
    assert job.records.read_bytes() == before
    assert TOKEN not in told.stdout + told.stderr + run.stdout + run.stderr


# A cache that holds a part


@pytest.mark.parametrize(
    ("model_files", "sae_files"),
    [
        (["config.json", "tokenizer.json"], list(CANONICAL.values())),
        (None, ["layer_0/width_1k/average_l0_8/params.npz", CANONICAL[1]]),
    ],
    ids=["without weights", "without canonical SAEs"],
)
def test_half_a_cache_is_not_taken_for_a_repository(
    model_files: list[str] | None, sae_files: list[str], plan: Plan, tiny: Path, tmp_path: Path
) -> None:
    """Offline, a file that is only not cached counts as missing from the repository: other SAEs are run unnoticed."""
    with HubServer() as server:
        serve(server, tiny)
        for name, kind, patterns in (
            (MODEL, "model", model_files),
            (SAES, "model", sae_files),
            (PIQA, "dataset", None),
        ):
            cache = {"endpoint": server.endpoint, "token": TOKEN, "cache_dir": tmp_path / "hub"}
            snapshot_download(name, repo_type=kind, allow_patterns=patterns, **cache)
    options = ["--sae-width", "1k", "--num-samples", "8", "--address", "local", "--output-file", str(tmp_path / "x")]
    told = plan(*options, server=server, home=tmp_path, offline=True)
    assert told.returncode
    assert "HF_HUB_OFFLINE" in told.stderr, told.stdout + told.stderr


# Faults that last


def test_hub_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has everything in the cache is not told how to use it without a connection."""
    with HubServer() as server:
        client_of(server, tmp_path, monkeypatch)
    monkeypatch.setattr("layerscope.hub.errors.time", Hurry)
    with pytest.raises(LayerscopeError) as refused:
        open_repository(SAES)
    assert "HF_HUB_OFFLINE" in str(refused.value)
    assert SAES in str(refused.value)


def test_hub_that_stays_busy(outcomes: Outcomes) -> None:
    """A command waits for ever for a hub that does not recover, or does not say that it may be run again."""
    outcome = outcomes("busy")
    assert outcome.kind == "LayerscopeError"
    assert "500" in outcome.message
    assert name_of("busy") in outcome.message
    assert "again" in outcome.message
    assert 2 <= len(downloads(outcome.requests)) <= 10


def test_refusal_is_not_repeated(outcomes: Outcomes) -> None:
    """A command asks again and again for what the hub has refused."""
    outcome = outcomes("forbidden")
    assert (outcome.kind, len(outcome.requests)) == ("LayerscopeError", 1)
    assert "403" in outcome.message


def test_download_that_stays_short(outcomes: Outcomes, tiny: Path) -> None:
    """A file that is cut short is taken for whole, or the message blames a connection that is fine."""
    outcome = outcomes("short")
    assert outcome.kind == "LayerscopeError"
    assert "params.npz" in outcome.message
    assert f"{(tiny / 'saes' / SAE).stat().st_size}" in outcome.message
    assert "cannot be reached" not in outcome.message


@pytest.mark.parametrize("name", ["other size", "other content"])
def test_file_that_is_not_the_one_listed(name: str, outcomes: Outcomes) -> None:
    """Weights that were cut short or spoilt on the way give numbers, or the message does not say what to delete."""
    outcome = outcomes(name)
    assert outcome.kind == "LayerscopeError"
    assert SAE in outcome.message
    assert name_of(name) in outcome.message
    assert re.search(r"Delete \S+", outcome.message)


def test_offline_with_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, the hub is asked all the same, or the message does not say where the files were sought."""
    with HubServer() as server:
        client_of(server, tmp_path, monkeypatch, offline=True)
        with pytest.raises(LayerscopeError) as refused:
            open_repository(SAES)
    assert server.requests == []
    assert "HF_HUB_OFFLINE" in str(refused.value)
    assert SAES in str(refused.value)
    assert str(tmp_path / "hub") in str(refused.value)


def test_unknown_revision_when_the_branches_cannot_be_listed(outcomes: Outcomes) -> None:
    """The courtesy of listing the branches turns a usage error into a traceback."""
    outcome = outcomes("unknown revision, then drops")
    assert outcome.kind == "UsageError"
    assert "'v9'" in outcome.message
