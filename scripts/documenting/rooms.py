"""The rooms of the package (its folders, and two groups of files at its top) and their imports, as the sources say."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "distributed/layerscope"
TOP = {
    "cli.py": (
        "The command line: reads it, calls, and turns known errors into lines and an exit code.",
        ("__main__", "streams"),
    ),
    "errors.py": (
        "Known errors, files and numbers for people: what everything speaks with.",
        ("files", "formatting", "process", "strict_json"),
    ),
}
"""Files at the top of the package that are drawn: what is said of them, and the files that are drawn with them."""


@dataclass(frozen=True)
class Room:
    """A folder of the package, or some files at its top."""

    name: str
    purpose: str
    """The first sentence of what its `__init__.py` says."""
    uses: frozenset[str]
    """The rooms that it imports."""
    heavy: frozenset[str]
    """Which of torch and ray it imports, in whatever part of a file."""


def rooms() -> list[Room]:
    """Every room, sorted by name."""
    files = {path.parent.name: sorted(path.parent.rglob("*.py")) for path in PACKAGE.glob("*/__init__.py")}
    purposes = {name: _purpose(paths[0].parent / "__init__.py") for name, paths in files.items()}
    for name, (purpose, others) in TOP.items():
        files[name] = [PACKAGE / name, *(PACKAGE / f"{other}.py" for other in others)]
        purposes[name] = purpose
    room_of = {folder: folder for folder in files} | {
        path.stem: name for name in TOP for path in files[name]
    }  # by the second word of a module's name
    found = []
    for name, paths in sorted(files.items()):
        imported = {module for path in paths for module in _imports(path)}
        own = {room_of.get(module.split(".")[1], name) for module in imported if module.startswith("layerscope.")}
        heavy = frozenset(module.split(".")[0] for module in imported) & {"torch", "ray"}
        found.append(Room(name, purposes[name], frozenset(own - {name}), heavy))
    return found


def levels(found: list[Room]) -> list[list[Room]]:
    """The rooms by height, the highest first: each stands above all that it imports, and as high as that allows.

    Raises:
        ValueError: some rooms import one another in a circle.
    """
    users = {room.name: {other.name for other in found if room.name in other.uses} for room in found}
    placed: list[list[Room]] = []
    above: set[str] = set()
    left = list(found)
    while left:
        level = [room for room in left if users[room.name] <= above]
        if not level:
            raise ValueError(f"these rooms import one another in a circle: {', '.join(room.name for room in left)}")
        placed.append(level)
        above |= {room.name for room in level}
        left = [room for room in left if room not in level]
    return placed


def direct_uses(found: list[Room]) -> dict[str, set[str]]:
    """Whom each room imports, without those that it reaches through another one, which a picture need not show."""
    uses = {room.name: room.uses for room in found}

    def reached(name: str) -> set[str]:
        return {name}.union(*(reached(use) for use in uses[name]))

    return {
        name: {use for use in used if not any(use in reached(other) for other in used - {use})}
        for name, used in uses.items()
    }


def _purpose(file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return said.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".") + "."


def _imports(file: Path) -> Iterator[str]:
    """The modules that a file names, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
