"""Plans of many questions in the cache: a run that goes on, and the shards of a job, tokenise nothing twice."""

import zipfile
from collections.abc import Callable
from dataclasses import fields
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from layerscope import __version__
from layerscope.hub.cache import cached, keep, sha256_of, touch
from layerscope.questions.measuring import FEW
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.plan import Plan
from layerscope.questions.selection import Selection

_COUNTS = tuple(each.name for each in fields(Plan) if each.name not in ("order", "starts"))


def kept_plan(
    selection: Selection, tokenizer: PairTokenizer, batch_tokens: int, share: bool, make: Callable[[], Plan]
) -> Plan:
    """A plan as `make` makes it, or the one that it made of the same questions, tokeniser and settings before.

    Args:
        batch_tokens, share: as `make_plan` takes them.
    """
    if len(selection) < FEW or not selection.source.content:
        return make()
    path, *settings = tokenizer.arguments
    drawn = b"" if selection.drawn is None else selection.example_ids.tobytes()
    parts = (selection.source.content, selection.strip_solutions, sha256(drawn).hexdigest(), sha256_of(path))
    told = repr((*parts, settings, batch_tokens, share, __version__, version("tokenizers"), _program()))
    name = f"{sha256(told.encode('utf-8', 'surrogatepass')).hexdigest()}.npz"
    if (known := _recalled(cached("plans", name))) is not None:
        return known
    plan = make()
    counts = orjson.dumps({count: getattr(plan, count) for count in _COUNTS})

    def write(stream: IO[bytes]) -> None:
        np.savez(stream, order=plan.order, starts=plan.starts, counts=np.frombuffer(counts, np.uint8))

    keep("plans", name, write)
    return plan


def _recalled(file: Path) -> Plan | None:
    """What a file of the cache holds; None where it holds nothing that can be read."""
    try:
        with (
            file.open("rb") as stream,
            np.load(stream, allow_pickle=False) as arrays,
        ):  # whose archive has a checksum of each
            counts: dict[str, Any] = orjson.loads(arrays["counts"].tobytes())
            plan = Plan(arrays["order"], arrays["starts"], **counts)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    touch(file)
    return plan


def _program() -> str:
    """A hash of what makes a plan: another version of it may make another one."""
    digest = sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
