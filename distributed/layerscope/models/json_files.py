"""Reads the JSON files of a repository; no torch."""

from typing import Any

from layerscope.errors import UsageError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.strict_json import RepeatedKeyError, parse_object

CONFIG = "config.json"
MAX_JSON_BYTES = 64 << 20
_SHOWN = 5  # files of a repository


def require(repository: Repository, path: str, consequence: str) -> None:
    """
    Raises:
        UsageError: a repository has no such file.
    """
    if path not in repository.files:
        held = sorted(repository.files)
        more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
        raise UsageError(
            f"{repository.name} has no {path}, {consequence}.\nIt holds {', '.join(held[:_SHOWN]) or 'no file'}{more}."
        )


def read_json(repository: Repository, path: str, consequence: str) -> dict[str, Any]:
    """A JSON object of a repository.

    Args:
        consequence: what it means that there is no such file, for people.

    Raises:
        UsageError: there is none, or it is no JSON object.
    """
    require(repository, path, consequence)
    file = hub.fetch(repository, path)
    if file.stat().st_size > MAX_JSON_BYTES:
        raise UsageError(f"{path} of {repository.name} has {file.stat().st_size} bytes: not what it should be.")
    try:
        value = parse_object(file.read_bytes())
    except RepeatedKeyError as error:
        raise UsageError(f"{path} of {repository.name}: {error}. Nobody can say which value counts.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} of {repository.name} is not JSON: {str(error)[:200]}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} of {repository.name} is not a JSON object.")
    return value
