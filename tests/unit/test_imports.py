"""Every folder imports only what lies below it, so that a change in one is felt by those above it and no others.

`MAY_IMPORT` is the architecture: the rooms of the package (its folders, and the files at its top), the lowest first.
All imports count: at the top of a file, inside a function, and for type checkers alone, since a type that is known
upwards is a border crossed as well.
"""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from paths import ROOT

PACKAGE = ROOT / "distributed" / "layerscope"

_WORDS = {"errors", "files", "formatting", "config", "strict_json"}
_INPUTS = {*_WORDS, "hub", "questions"}
_RUN = {*_INPUTS, "numerics", "models", "saes", "records", "standin", "planning"}
_READING = {*_WORDS, "hub", "records"}
MAY_IMPORT = {
    "errors": set[str](),
    "files": {"errors"},
    "formatting": set[str](),
    "streams": set[str](),
    "process": set[str](),
    "config": {"errors"},
    "strict_json": set[str](),
    "hub": _WORDS,
    "questions": {*_WORDS, "hub"},
    "numerics": _WORDS,
    "models": {*_INPUTS, "numerics"},
    "saes": {*_WORDS, "hub", "numerics"},
    "records": {*_WORDS, "questions"},
    "standin": {*_INPUTS, "numerics", "models", "saes"},
    "planning": _RUN - {"numerics", "planning"},
    "engine": _RUN,
    "analysis": _READING,
    "tables": _READING,
    "neuronpedia": _READING,
    "report": {*_READING, "analysis", "neuronpedia"},
    "commands": {*_RUN, "process", "engine", "analysis", "tables", "neuronpedia", "report"},
    "cli": {*_WORDS, "records", "analysis", "tables", "neuronpedia", "report", "commands"},
    "__main__": {"cli", "streams", "process"},
    "__init__": {"commands", "process"},
}
# The package's face: what it shows to notebooks, which is over all else; its version all may say.
FACE, WORDS_OF_THE_FACE = "layerscope", {"__version__"}

TORCH = ("torch", "transformers", "accelerate", "safetensors")
COMPUTING_ROOMS = {"numerics", "models", "saes", "standin"}
COMPUTING_FILES = {f"engine/batches/{name}.py" for name in ("ablating", "batch", "encoding", "in_process", "probes")}
# What actors call imports torch in their own processes; the driver imports these files as well, and must not.
IN_FUNCTIONS_ONLY = {"engine/actors.py", "engine/batches/answers.py"}
# What the reading commands and the planning import, which start in a moment and run where there is no torch.
LIGHT = (
    "errors",
    "files",
    "formatting",
    "streams",
    "process",
    "config",
    "strict_json",
    "cli",
    "hub",
    "questions",
    "records",
    "planning",
    "analysis",
)
LIGHT += ("tables", "neuronpedia", "report")
LIGHT_MODULES = ("models.spec", "saes.choosing", "saes.weights", "standin")


class Import(NamedTuple):
    """One name that one file imports."""

    file: str
    module: str
    """As it stands there; of our own modules the module that the name is, or is in."""
    name: str
    eager: bool
    """It happens as soon as the file is imported."""

    @property
    def importer(self) -> str:
        return self.file.removesuffix(".py").partition("/")[0]

    @property
    def imported(self) -> str:
        return room(self.module)


def room(module: str) -> str:
    """The room of one of our modules."""
    return module.split(".")[1] if "." in module else "__init__"


def own_modules() -> dict[str, str]:
    """Our modules' names and their files."""
    files = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]
    names = [f"layerscope.{file.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


MODULES = own_modules()


def within(tree: ast.AST) -> Iterator[ast.AST]:
    """What a part of a program is made of, without expressions, which hold no statements and are most of it."""
    return (node for node in ast.iter_child_nodes(tree) if not isinstance(node, ast.expr))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in within(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        yield from functions(node)


def statements(tree: ast.AST, eager: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import of a file, and whether it happens as soon as the file is imported."""
    for node in within(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, eager
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from statements(node, eager and not typing_only and not in_function)


def imports_of(file: str) -> Iterator[Import]:
    for node, eager in statements(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(file, alias.name, "", eager) for alias in node.names)
            continue
        assert node.module is not None, f"{file}: relative imports hide where they lead"
        assert node.level == 0, f"{file}: relative imports hide where they lead"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield Import(file, inner if inner in MODULES else node.module, alias.name, eager)


IMPORTS = [found for file in MODULES.values() for found in imports_of(file)]
OWN = [
    found
    for found in IMPORTS
    if found.module.split(".")[0] == "layerscope" and not (found.module == FACE and found.name in WORDS_OF_THE_FACE)
]


def arrows() -> set[tuple[str, str]]:
    """Who imports whom, room by room."""
    return {(found.importer, found.imported) for found in OWN if found.importer != found.imported}


def test_the_table_itself_leads_downwards() -> None:
    """Only then can nothing that obeys it run in a circle."""
    for index, (importer, imported) in enumerate(MAY_IMPORT.items()):
        assert imported <= set(list(MAY_IMPORT)[:index]), importer


def test_every_room_is_in_the_table() -> None:
    """A new folder says first what it may import and who may import it."""
    assert {room(name) for name in MODULES} == set(MAY_IMPORT)


def test_no_room_imports_from_above() -> None:
    crossings = [
        f"{found.file} imports {found.module}, and {found.importer} may not import {found.imported}"
        for found in OWN
        if found.importer != found.imported and found.imported not in MAY_IMPORT[found.importer]
    ]
    assert crossings == []


def test_no_module_is_in_a_circle() -> None:
    """Within a room too: modules in a circle are one module in several files."""
    below = defaultdict(set)
    for found in OWN:
        below[found.file].add(MODULES.get(found.module, found.file))
    finished = set[str]()

    def walk(file: str, path: tuple[str, ...]) -> None:
        assert file not in path, " -> ".join([*path[path.index(file) :], file])
        for other in sorted(below[file] - {file}) if file not in finished else ():
            walk(other, (*path, file))
        finished.add(file)

    for file in MODULES.values():
        walk(file, ())


def test_the_house_stays_small() -> None:
    """So that one can see the whole of it: under 25 rooms, and at most 100 arrows between them."""
    assert len(MAY_IMPORT) < 25
    assert len(arrows()) <= 100, sorted(arrows())


def test_no_file_and_no_function_is_longer_than_one_can_see() -> None:
    """300 lines of a source file; 60 of a function, whole, those of tests too."""
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    lengths = [(file.read_text(encoding="utf-8").count("\n"), 300, str(file)) for file in sources]
    for file in [*sources, *(ROOT / "tests").rglob("*.py")]:
        for one in functions(ast.parse(file.read_text(encoding="utf-8"))):
            lengths += [((one.end_lineno or 0) - one.lineno + 1, 60, f"{file}: {one.name}")]
    assert len(lengths) > 1000
    assert [(name, length) for length, most, name in lengths if length > most] == []


def test_no_folder_has_more_files_than_one_can_see() -> None:
    """At most 25: what is looked for is found by reading a folder's listing, once."""
    files = Counter((PACKAGE / file).parent for file in MODULES.values() if not file.endswith("__init__.py"))
    assert {str(folder): count for folder, count in files.items() if count > 25} == {}


def test_torch_is_imported_only_where_something_is_computed() -> None:
    strangers = [
        f"{found.file} imports {found.module}"
        for found in IMPORTS
        if found.module.split(".")[0] in TORCH
        and found.importer not in COMPUTING_ROOMS
        and found.file not in COMPUTING_FILES
        and (found.eager or found.file not in IN_FUNCTIONS_ONLY)
    ]
    assert strangers == []


def test_ray_is_imported_only_by_the_engine() -> None:
    assert {found.importer for found in IMPORTS if found.module.split(".")[0] == "ray"} == {"engine"}


@pytest.mark.parametrize(
    ("rooms", "absent"),
    [
        (LIGHT, ("torch", "ray", "transformers", "datasets")),
        ((*LIGHT, "engine.driver", "commands"), ("torch", "transformers", "datasets")),
        (("commands.run",), ("pyarrow", "scipy")),
    ],
    ids=["reading and planning", "the driver of a run", "a run before Ray"],
)
def test_what_must_start_fast_loads_nothing_heavy_by_detours(rooms: tuple[str, ...], absent: tuple[str, ...]) -> None:
    """The files say what they import, and only an interpreter says what that imports in turn."""
    short = {name: name.removeprefix("layerscope.") for name in MODULES}
    wanted = [name for name in MODULES if room(name) in rooms or short[name] in (*rooms, *LIGHT_MODULES)]
    program = f"import sys, {', '.join(wanted)}\nprint(*set({absent!r}).intersection(sys.modules))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.split() == []


def test_no_two_files_of_tests_have_one_name() -> None:
    """Each passes alone, and all together are not even collected."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name, count in names.items() if count > 1} == set()
