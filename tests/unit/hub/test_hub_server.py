"""What the real client libraries do with the answers of `HubServer`, faults included.

The tests pin the behaviour of the clients that the project has to cope with, as much as that of the server.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, HfFileSystem, get_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub_server import Fault, HubServer, Repository

WEIGHTS = bytes(range(256)) * 8
MODEL_FILES: dict[str, Path | bytes] = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "vocabulary/tokens.txt": b"a b c",
}
# huggingface_hub hands the body on in chunks of 10 MiB; of a chunk that breaks off it keeps nothing.
LARGER_THAN_A_CHUNK = bytes(11 * 2**20)

Download = Callable[..., Path]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.tokens = {"licensed": "alice", "unlicensed": "bob"}
        server.licensed = {"licensed"}
        server.add(Repository("model", "org/gated", MODEL_FILES, gated=True))
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture(autouse=True)
def model(hub: HubServer) -> str:
    return hub.add(Repository("model", "org/model", MODEL_FILES))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def client_options(hub: HubServer, cache: Path) -> dict[str, Any]:
    return {"endpoint": hub.endpoint, "cache_dir": cache, "token": False}


@pytest.fixture
def download(client_options: dict[str, Any]) -> Download:
    def fetch(repo_id: str = "org/model", filename: str = "model.safetensors", **options: Any) -> Path:
        return Path(hf_hub_download(repo_id, filename, **client_options | options))

    return fetch


@pytest.fixture
def download_snapshot(client_options: dict[str, Any]) -> Download:
    def fetch(repo_id: str = "org/model", **options: Any) -> Path:
        return Path(snapshot_download(repo_id, **client_options | options))

    return fetch


def answers(hub: HubServer) -> list[tuple[str, int | None, int]]:
    return [(request.method, request.status, request.sent) for request in hub.requests]


def run_client(hub: HubServer, home: Path, code: str, *arguments: str, offline: bool = False) -> str:
    """Run code in a process of its own, as the clients read their environment when they are imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        # `datasets` would count the download at an address outside HF_ENDPOINT.
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


# Information and listings


def test_model_info_with_file_metadata(api: HfApi, model: str) -> None:
    info = api.model_info("org/model", files_metadata=True)
    assert info.sha == model
    siblings = {sibling.rfilename: sibling for sibling in info.siblings}
    assert siblings.keys() == MODEL_FILES.keys()
    # The blob ids that `git hash-object` computes.
    assert siblings["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    assert (siblings["config.json"].size, siblings["config.json"].lfs) == (2, None)
    lfs = siblings["model.safetensors"].lfs
    assert (lfs.size, len(lfs.sha256), lfs.pointer_size) == (len(WEIGHTS), 64, 129)


def test_model_info_without_file_metadata_has_names_only(api: HfApi, model: str) -> None:
    siblings = api.model_info("org/model", revision=model).siblings
    assert {sibling.size for sibling in siblings} == {None}


def test_commits_stay_reachable_by_sha_and_branch(hub: HubServer, api: HfApi, download: Download) -> None:
    first = hub.add(Repository("model", "org/model", {"config.json": b"1"}))
    other = hub.add(Repository("model", "org/model", {"config.json": b"2"}, branch="refs/pr/1"))
    second = hub.add(Repository("model", "org/model", {"config.json": b"3"}))
    assert hub.add(Repository("model", "org/model", {"config.json": b"3"})) == second
    assert api.model_info("org/model").sha == second
    assert api.model_info("org/model", revision="refs/pr/1").sha == other
    revisions = first, "refs/pr/1", "main"
    contents = [download(filename="config.json", revision=revision).read_bytes() for revision in revisions]
    assert contents == [b"1", b"2", b"3"]


def test_models_and_datasets_are_apart(hub: HubServer, api: HfApi, model: str) -> None:
    dataset = hub.add(Repository("dataset", "org/model", {"train.csv": b"a\n1\n"}))
    assert api.dataset_info("org/model", files_metadata=True).sha == dataset != model
    assert api.dataset_info("org/model", revision=dataset).siblings[0].rfilename == "train.csv"


def test_repo_tree(api: HfApi) -> None:
    paths = [entry.path for entry in api.list_repo_tree("org/model", recursive=True)]
    assert paths == ["config.json", "model.safetensors", "vocabulary", "vocabulary/tokens.txt"]
    assert [entry.path for entry in api.list_repo_tree("org/model")] == paths[:3]
    (entry,) = api.list_repo_tree("org/model", "vocabulary", expand=True)
    assert entry.path == "vocabulary/tokens.txt"
    assert entry.last_commit is not None
    # The tree of a file is the file.
    assert [entry.path for entry in api.list_repo_tree("org/model", "config.json")] == ["config.json"]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("org/model", "missing"))


def test_paths_info_leaves_out_what_is_missing(api: HfApi) -> None:
    file, folder = api.get_paths_info("org/model", ["model.safetensors", "vocabulary", "missing"], expand=True)
    assert (file.size, file.lfs.size, folder.path) == (len(WEIGHTS), len(WEIGHTS), "vocabulary")


def test_unknown_revision(api: HfApi, download: Download) -> None:
    for ask in (lambda: api.model_info("org/model", revision="missing"), lambda: download(revision="missing")):
        with pytest.raises(RevisionNotFoundError):
            ask()


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("licensed", 404)])
def test_unknown_repository(api: HfApi, download: Download, token: str | bool, status: int) -> None:
    for ask in (lambda: api.model_info("org/missing", token=token), lambda: download("org/missing", token=token)):
        with pytest.raises(RepositoryNotFoundError) as failure:
            ask()
        assert not isinstance(failure.value, GatedRepoError)
        assert failure.value.response.status_code == status


# Access


def test_whoami(api: HfApi) -> None:
    assert api.whoami("licensed")["name"] == "alice"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami("invalid")


def test_licence_is_accepted(api: HfApi, download: Download) -> None:
    api.auth_check("org/gated", token="licensed")
    assert download("org/gated", token="licensed").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("token", "error", "status", "message"),
    [
        (False, GatedRepoError, 401, "Please log in"),
        ("unlicensed", GatedRepoError, 403, "not in the authorized list"),
        # Neither a GatedRepoError nor a RepositoryNotFoundError: only the message tells.
        ("invalid", HfHubHTTPError, 401, "Invalid credentials in Authorization header"),
    ],
)
def test_gate_is_closed(
    api: HfApi,
    download: Download,
    download_snapshot: Download,
    token: str | bool,
    error: type[HfHubHTTPError],
    status: int,
    message: str,
) -> None:
    for ask in (
        lambda: api.auth_check("org/gated", token=token),
        lambda: download_snapshot("org/gated", token=token),
    ):
        with pytest.raises(HfHubHTTPError, match=message) as failure:
            ask()
        assert type(failure.value) is error
        assert failure.value.response.status_code == status
    # The HEAD request of a download gets no body; the message comes from the X-Error-Message header.
    with pytest.raises(error, match=message):
        download("org/gated", token=token)


def test_invalid_token_fails_on_a_public_repository(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header"):
        api.model_info("org/model", token="invalid")


def test_information_of_a_gated_repository_is_public(api: HfApi) -> None:
    assert api.model_info("org/gated").gated == "auto"
    assert "config.json" in api.list_repo_files("org/gated")


# Downloads


def test_download_lands_in_blobs_refs_and_snapshots(
    hub: HubServer, model: str, download: Download, cache: Path
) -> None:
    path = download()
    assert path == cache / "models--org--model" / "snapshots" / model / "model.safetensors"
    # The blob is named after the ETag, of a large file its sha256.
    assert path.resolve().parent.name == "blobs"
    assert len(path.resolve().name) == 64
    assert (cache / "models--org--model" / "refs" / "main").read_text() == model
    assert answers(hub) == [("HEAD", 200, 0), ("GET", 200, len(WEIGHTS))]


def test_download_by_sha_from_the_cache_asks_nothing(hub: HubServer, model: str, download: Download) -> None:
    download(revision=model)
    hub.requests.clear()
    download(revision=model)
    assert hub.requests == []


def test_missing_file(model: str, download: Download, cache: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        download(filename="missing.json")
    # That it is missing from the commit is remembered, for use offline.
    assert (cache / "models--org--model" / ".no_exist" / model / "missing.json").exists()


def test_snapshot_by_branch_then_by_sha(
    hub: HubServer, api: HfApi, download_snapshot: Download, tmp_path: Path, cache: Path
) -> None:
    local_file = tmp_path / "model.safetensors"
    local_file.write_bytes(WEIGHTS)
    sha = hub.add(Repository("model", "org/model", MODEL_FILES | {"model.safetensors": local_file}))
    snapshot = download_snapshot()
    assert snapshot == cache / "models--org--model" / "snapshots" / sha
    assert {str(path.relative_to(snapshot)) for path in snapshot.rglob("*.*")} == MODEL_FILES.keys()
    assert api.verify_repo_checksums("org/model", cache_dir=cache).checked_count == len(MODEL_FILES)
    hub.requests.clear()
    assert download_snapshot(revision=sha) == snapshot
    assert hub.requests == []


def test_byte_ranges_at_the_end(hub: HubServer) -> None:
    url = f"{hub.endpoint}/org/model/resolve/main/config.json"
    answer = get_session().get(url, headers={"Range": "bytes=2-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */2")
    assert get_session().get(url, headers={"Range": "bytes=-1"}).content == b"}"


def test_file_system_reads_one_array_of_an_npz_by_ranges(hub: HubServer) -> None:
    archive = io.BytesIO()
    np.savez(archive, large=np.zeros(100_000), small=np.arange(5))
    size = len(archive.getvalue())
    hub.add(Repository("model", "org/model", {"arrays/weights.npz": archive.getvalue()}))
    # Instances are cached by endpoint, and a later server may get the port of an earlier one.
    files = HfFileSystem(endpoint=hub.endpoint, token=False, skip_instance_cache=True)
    with files.open("org/model/arrays/weights.npz", block_size=1024) as file:
        assert file.seek(0, io.SEEK_END) == size
        with zipfile.ZipFile(file) as members, members.open("small.npy") as member:
            assert np.lib.format.read_array(member).tolist() == [0, 1, 2, 3, 4]
    ranges = [request for request in hub.requests if "/resolve/" in request.path]
    assert {request.status for request in ranges} == {206}
    assert sum(request.sent for request in ranges) < size / 100


def test_file_system_takes_a_short_answer_to_a_range(hub: HubServer) -> None:
    hub.faults = [Fault("GET .*/resolve/", replace=b"short")]
    files = HfFileSystem(endpoint=hub.endpoint, token=False, skip_instance_cache=True)
    with files.open("org/model/model.safetensors") as file:
        assert file.read(100) == b"short"


# Datasets

LOAD_VALIDATION_SPLIT = """
import json, sys
from datasets import load_dataset
for revision in sys.argv[1:]:
    split = load_dataset("baber/piqa", split="validation", revision=revision)
    print(json.dumps([type(split.features["label"]).__name__, split.to_list()]))
"""

DATASET_CARD = b"""---
dataset_info:
  features:
  - {name: goal, dtype: string}
  - {name: sol1, dtype: string}
  - {name: sol2, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': first, '1': second}}}}
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: validation, path: data/validation-*}
---
# PIQA
"""


def piqa_rows(count: int) -> list[dict[str, object]]:
    return [{"goal": f"goal {i}", "sol1": "first", "sol2": "second", "label": i % 2} for i in range(count)]


def piqa_files(validation_rows: int) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {}
    for split, count in {"train": 4, "validation": validation_rows}.items():
        parquet = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(piqa_rows(count)), parquet)
        files[f"data/{split}-00000-of-00001.parquet"] = parquet.getvalue()
    return files


def test_load_dataset_then_without_access(hub: HubServer, tmp_path: Path) -> None:
    plain = hub.add(Repository("dataset", "baber/piqa", piqa_files(2)))
    with_card = hub.add(Repository("dataset", "baber/piqa", piqa_files(3) | {"README.md": DATASET_CARD}))
    output = run_client(hub, tmp_path, LOAD_VALIDATION_SPLIT, plain, with_card)
    assert [json.loads(line) for line in output.splitlines()] == [
        ["Value", piqa_rows(2)],
        ["ClassLabel", piqa_rows(3)],  # the features come from the card
    ]
    # All the splits are downloaded, whichever is asked for, to the cache of the hub ...
    snapshot = tmp_path / "hub" / "datasets--baber--piqa" / "snapshots" / plain
    assert (snapshot / "data" / "train-00000-of-00001.parquet").exists()
    # ... and converted under the commit.
    assert (tmp_path / "datasets" / "baber___piqa" / "default" / "0.0.0" / plain / "piqa-validation.arrow").exists()

    # Offline, and when access is refused, `datasets` takes the commit that it built last, whichever is asked for.
    for offline in (True, False):
        hub.requests.clear()
        hub.faults = [Fault("/resolve/", times=None, status=401)]
        output = run_client(hub, tmp_path, LOAD_VALIDATION_SPLIT, plain, offline=offline)
        assert json.loads(output) == ["ClassLabel", piqa_rows(3)]
        assert answers(hub) == ([] if offline else [("HEAD", 401, 0)])


# Offline

ASK_OFFLINE = """
import json
from huggingface_hub import auth_check, hf_hub_download, model_info, snapshot_download
def ask(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return [type(error).__name__, type(error.__cause__).__name__]
print(json.dumps([
    ask(hf_hub_download, "org/model", "config.json"),
    ask(hf_hub_download, "org/model", "model.safetensors"),
    ask(snapshot_download, "org/model"),
    ask(snapshot_download, "org/missing"),
    ask(model_info, "org/model"),
    ask(auth_check, "org/model"),
]))
"""


def test_offline_mode(hub: HubServer, download_snapshot: Download, tmp_path: Path) -> None:
    snapshot = download_snapshot(cache_dir=tmp_path / "hub", allow_patterns="config.json")
    hub.requests.clear()
    assert json.loads(run_client(hub, tmp_path, ASK_OFFLINE, offline=True)) == [
        f"{snapshot}/config.json",
        ["LocalEntryNotFoundError", "OfflineModeIsEnabled"],
        ["IncompleteSnapshotError", "OfflineModeIsEnabled"],
        ["LocalEntryNotFoundError", "OfflineModeIsEnabled"],
        ["OfflineModeIsEnabled", "NoneType"],
        ["OfflineModeIsEnabled", "NoneType"],
    ]
    assert hub.requests == []


# Faults


def test_download_drops_then_starts_again(hub: HubServer, download: Download) -> None:
    hub.faults = [Fault("GET .*/resolve/", cut_after=1000)]
    assert download().read_bytes() == WEIGHTS
    assert answers(hub) == [("HEAD", 200, 0), ("GET", 200, 1000), ("GET", 200, len(WEIGHTS))]


def test_download_drops_after_a_chunk_then_resumes(hub: HubServer, download: Download) -> None:
    hub.add(Repository("model", "org/model", {"model.safetensors": LARGER_THAN_A_CHUNK}))
    kept, size = 10 * 2**20, len(LARGER_THAN_A_CHUNK)
    hub.faults = [Fault("GET .*/resolve/", cut_after=kept + 1)]
    assert download().read_bytes() == LARGER_THAN_A_CHUNK
    assert answers(hub) == [("HEAD", 200, 0), ("GET", 200, kept + 1), ("GET", 206, size - kept)]


def test_head_drops_and_the_error_of_the_transport_comes_through(hub: HubServer, download: Download) -> None:
    # Neither an OSError nor an error of huggingface_hub, and not repeated.
    hub.faults = [Fault("HEAD", cut_after=0)]
    with pytest.raises(httpx2.RemoteProtocolError) as failure:
        download()
    assert not isinstance(failure.value, OSError)
    assert answers(hub) == [("HEAD", None, 0)]


def test_hub_is_down(download: Download, hub: HubServer, api: HfApi) -> None:
    path = download(filename="config.json")
    hub.close()
    # What the branch pointed to last is taken from the cache without a word.
    assert download(filename="config.json") == path
    with pytest.raises(httpx2.ConnectError) as failure:
        api.model_info("org/model")
    assert not isinstance(failure.value, OSError)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_head_fails_once_and_is_repeated_at_once(hub: HubServer, download: Download, status: int) -> None:
    # Retry-After counts from the second failure on.
    hub.faults = [Fault("HEAD", status=status, headers={"Retry-After": "3600"})]
    assert download().read_bytes() == WEIGHTS
    assert [status for _, status, _ in answers(hub)] == [status, 200, 200]


def test_get_with_429_is_repeated_after_retry_after(hub: HubServer, download: Download) -> None:
    hub.faults = [Fault("GET", status=429, headers={"Retry-After": "0"})]
    assert download().read_bytes() == WEIGHTS
    assert [status for _, status, _ in answers(hub)] == [200, 429, 200]


@pytest.mark.parametrize("status", [500, 503])
def test_get_with_500_is_not_repeated(hub: HubServer, download: Download, status: int) -> None:
    hub.faults = [Fault("GET", status=status)]
    with pytest.raises(HfHubHTTPError) as failure:
        download()
    assert failure.value.response.status_code == status
    assert download().read_bytes() == WEIGHTS


@pytest.mark.parametrize("status", [429, 500])
def test_information_that_fails_is_not_repeated(hub: HubServer, api: HfApi, status: int) -> None:
    hub.faults = [Fault("/api/", status=status)]
    with pytest.raises(HfHubHTTPError) as failure:
        api.model_info("org/model")
    assert failure.value.response.status_code == status


def test_snapshot_hides_the_error_behind_a_local_one(hub: HubServer, download_snapshot: Download) -> None:
    hub.faults = [Fault("/api/", status=500)]
    with pytest.raises(LocalEntryNotFoundError) as failure:
        download_snapshot()
    assert isinstance(failure.value.__cause__, HfHubHTTPError)


@pytest.mark.parametrize("status", [403, 404])
def test_error_without_a_code_is_hidden_behind_a_local_one(hub: HubServer, download: Download, status: int) -> None:
    hub.faults = [Fault("HEAD", status=status)]
    with pytest.raises(LocalEntryNotFoundError) as failure:
        download()
    assert failure.value.__cause__.response.status_code == status


def test_slow_head_is_asked_again(hub: HubServer, download: Download) -> None:
    hub.faults = [Fault("HEAD", delay=60)]
    assert download(filename="config.json", etag_timeout=0.1).read_bytes() == b"{}"
    assert answers(hub) == [("HEAD", None, 0), ("HEAD", 200, 0), ("GET", 200, 2)]


def test_short_file_fails_the_check_of_its_size(hub: HubServer, download: Download, cache: Path) -> None:
    hub.faults = [Fault("GET", replace=WEIGHTS[:100])]
    with pytest.raises(OSError, match="Consistency check failed") as failure:
        download()
    assert type(failure.value) is OSError
    assert list((cache / "models--org--model" / "blobs").iterdir()) == []


def test_other_content_of_the_same_size_is_taken(hub: HubServer, api: HfApi, download: Download, cache: Path) -> None:
    # The sha256 that names the blob is not compared with the content, unless one asks for it.
    hub.faults = [Fault("GET", replace=bytes(len(WEIGHTS)))]
    assert download().read_bytes() == bytes(len(WEIGHTS))
    (mismatch,) = api.verify_repo_checksums("org/model", cache_dir=cache).mismatches
    assert mismatch["path"] == "model.safetensors"


def test_other_content_under_the_same_name_is_taken(hub: HubServer, download: Download) -> None:
    hub.faults = [Fault("/resolve/", times=2, replace=b"other")]
    assert download().read_bytes() == b"other"


def test_faults_are_taken_in_order_and_run_out(hub: HubServer, api: HfApi) -> None:
    hub.faults = [Fault("revision", times=None, status=503), Fault("/api/models", times=2, status=500)]
    statuses = []
    for revision in (None, "main", None, None, "main"):
        with contextlib.suppress(HfHubHTTPError):
            api.model_info("org/model", revision=revision)
        statuses.append(hub.requests[-1].status)
    assert statuses == [500, 503, 500, 200, 503]


def test_requests_are_recorded(hub: HubServer, api: HfApi) -> None:
    api.model_info("org/model", token="licensed", files_metadata=True)
    (request,) = hub.requests
    assert (request.method, request.path, request.has_token) == ("GET", "/api/models/org/model?blobs=true", True)
    assert request.sent > 0
