"""Neuronpedia's public export: what its explainers wrote about the features of an SAE, and how often these fire.

Owns every request to the export; keeps nothing. The export is Neuronpedia's database as files, of each SAE
gzip-compressed JSON lines in batches, in no useful order (`utils/neuronpedia-utils/neuronpedia_utils/export-data.py` in
Neuronpedia's repository writes them), in a bucket that is listed as S3's ListObjectsV2 does. What it holds is
untrusted text: sizes are bounded, and control characters never leave this module.
"""

import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, Self, TypeVar
from urllib.parse import quote
from xml.etree import ElementTree

import httpx2
from tqdm import tqdm

from layerscope.errors import LayerscopeError, UsageError, first_line
from layerscope.formatting import count_of, say, size_text, takes_back
from layerscope.hub.errors import patiently

_T = TypeVar("_T")

_VARIABLE = "LAYERSCOPE_NEURONPEDIA_EXPORT"
_BUCKET = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com"
_CONNECTIONS = 8
_TIMEOUT_SECONDS = 30.0  # until a connection stands, and of a silence within an answer
_PATIENCE_SECONDS = 60.0

# At most this much is taken in; a batch has 1,024 lines of a few kB today, and a listing 1,000 keys a page.
_MAX_PAGES = 16
_MAX_FILE_BYTES = 1 << 26
_MAX_LINES = 1 << 14
_MAX_LINE_BYTES = 1 << 20
_MAX_CHARACTERS = 1000


class Written(NamedTuple):
    """One explanation of a feature; a feature may have several."""

    feature_id: int
    explainer: str
    """The model that wrote it and, in brackets, the method: `gpt-4o-mini (oai_token-act-pair)`."""
    id: str
    description: str


class Density(NamedTuple):
    """How often a feature fires."""

    feature_id: int
    density: float
    """Share of the tokens of Neuronpedia's texts on which the feature fires."""


class Export:
    """A connection to the export, closed by leaving its `with` block."""

    def __init__(self) -> None:
        """Connects to nothing yet.

        Raises:
            UsageError: the environment names another place, and it is no address.
        """
        base = os.environ.get(_VARIABLE) or _BUCKET
        try:
            if httpx2.URL(base).scheme not in ("http", "https"):
                raise httpx2.InvalidURL("it does not begin with http:// or https://")
            # Identity: the files are stored compressed, and nothing else may be.
            self._client = httpx2.Client(
                base_url=base,
                headers={"Accept-Encoding": "identity"},
                timeout=_TIMEOUT_SECONDS,
                follow_redirects=True,
            )
        except httpx2.InvalidURL as error:
            raise UsageError(f"{_VARIABLE} is {base[:200]!r}, which is no address: {error}.") from error
        self._answers = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def explanations(self, neuronpedia_id: str) -> list[Written]:
        """Every explanation of an SAE's features.

        Raises:
            LayerscopeError: the export has none, or cannot be read for good.
        """
        return self._read_all(f"v1/{neuronpedia_id}/explanations/", _written)

    def densities(self, neuronpedia_id: str) -> list[Density]:
        """How often each of an SAE's features fires.

        Raises:
            LayerscopeError: the export has none, or cannot be read for good.
        """
        return self._read_all(f"v1/{neuronpedia_id}/features/", _density)

    def _read_all(self, prefix: str, parse: Callable[[Any], _T]) -> list[_T]:
        keys = self._list(prefix)
        if not keys:
            raise LayerscopeError("Neuronpedia's export has none for this SAE")
        rows, passed_over, size = list[_T](), 0, 0
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            batches = pool.map(lambda key: self._patiently(partial(self._read_batch, key, parse)), keys)
            quiet = not takes_back(sys.stderr)
            for batch in tqdm(batches, desc=prefix, total=len(keys), unit="file", leave=False, disable=quiet):
                rows += batch.rows
                passed_over += batch.passed_over
                size += batch.size
        told = f", {passed_over:,} of them passed over: without what is looked for" if passed_over else ""
        lines = f"{count_of(len(rows) + passed_over, 'line')}{told}"
        say(f"{prefix}: {count_of(len(keys), 'file')}, {size_text(size)}, {lines}", sys.stderr)
        if not rows:
            raise LayerscopeError("none of the lines in Neuronpedia's export has what is looked for")
        return rows

    def _list(self, prefix: str) -> list[str]:
        """The keys of the batches below a prefix."""
        keys, query = list[str](), {"list-type": "2", "prefix": prefix}
        for _ in range(_MAX_PAGES):
            page = self._patiently(lambda: _parse_listing(self._get("/", query)))
            found = [key.text or "" for key in page.iterfind("{*}Contents/{*}Key")]
            keys += [key for key in found if re.fullmatch(re.escape(prefix) + r"batch-[0-9]{1,6}\.jsonl\.gz", key)]
            token = page.findtext("{*}NextContinuationToken")
            if not token:
                return keys
            query["continuation-token"] = token
        raise LayerscopeError(f"the listing in Neuronpedia's export goes on after {_MAX_PAGES} pages")

    def _read_batch(self, key: str, parse: Callable[[Any], _T]) -> "_Batch[_T]":
        name = key.rpartition("/")[2]
        body = self._get("/" + quote(key))
        rows, passed_over = list[_T](), 0
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
                while line := stream.readline(_MAX_LINE_BYTES):
                    if len(line) == _MAX_LINE_BYTES or len(rows) + passed_over == _MAX_LINES:
                        raise LayerscopeError(f"{name} of Neuronpedia's export has too many lines, or too long ones")
                    try:
                        rows.append(parse(json.loads(line)))
                    except (ValueError, KeyError, TypeError, RecursionError):
                        passed_over += 1
        except (OSError, EOFError, zlib.error) as error:
            raise httpx2.DecodingError(f"{name}: {first_line(error)}") from error
        return _Batch(rows, passed_over, len(body))

    def _get(self, path: str, query: dict[str, str] | None = None) -> bytes:
        body = bytearray()
        with self._client.stream("GET", path, params=query) as response:
            response.raise_for_status()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > _MAX_FILE_BYTES:
                    raise LayerscopeError(f"a file of Neuronpedia's export has more than {size_text(_MAX_FILE_BYTES)}")
        return bytes(body)

    def _patiently(self, request: Callable[[], _T]) -> _T:
        """Repeats a request for about a minute; once that was in vain, nothing is repeated until something succeeds.

        Raises:
            LayerscopeError: it fails for good.
        """
        try:
            answer = patiently(request, _PATIENCE_SECONDS if self._answers else 0.0)
        except httpx2.DecodingError as error:
            raise LayerscopeError(f"Neuronpedia's export arrives broken: {_printable(first_line(error))}") from error
        except httpx2.HTTPStatusError as error:
            self._answers = False
            raise LayerscopeError(f"Neuronpedia's export answers {error.response.status_code}") from error
        except httpx2.HTTPError as error:
            self._answers = False
            reason = _printable(first_line(error))
            raise LayerscopeError(f"Neuronpedia's export cannot be reached: {reason}") from error
        self._answers = True
        return answer


class _Batch(NamedTuple, Generic[_T]):
    rows: list[_T]
    passed_over: int
    """Lines that lack what is looked for."""
    size: int
    """Bytes that travelled."""


def _parse_listing(body: bytes) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise httpx2.DecodingError(f"its listing is no XML ({error})") from error
    if not root.tag.endswith("}ListBucketResult"):  # some other server's page
        raise httpx2.DecodingError("its listing is none")
    return root


def _written(row: dict[str, Any]) -> Written:
    description = _printable(row["description"])
    if not description:
        raise ValueError("no description")
    model, method = row.get("explanationModelName"), row.get("typeName")
    explainer = _printable(model or "unknown") + (f" ({_printable(method)})" if method else "")
    return Written(_feature_id(row), explainer, _printable(row.get("id") or ""), description)


def _density(row: dict[str, Any]) -> Density:
    density = float(row["frac_nonzero"])
    if not 0 <= density <= 1:
        raise ValueError("not a share")
    return Density(_feature_id(row), density)


def _feature_id(row: dict[str, Any]) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", row["index"]):
        raise ValueError("not a feature id")
    return int(row["index"])


def _printable(text: str) -> str:
    """A text as one line without control, format and private characters, cut to a bounded length.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} instead of a text")
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * _MAX_CHARACTERS]).split())
    return line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 1] + "…"
