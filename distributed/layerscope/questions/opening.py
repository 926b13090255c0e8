"""What `--dataset` names: PIQA, the bundled questions, a file or folder of one's own, or a data set of the hub."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import chain
from pathlib import Path

from layerscope.config import STANDARD_INPUT
from layerscope.errors import UsageError, did_you_mean
from layerscope.files import COMPRESSED, names_in, user_path
from layerscope.formatting import listed, visible
from layerscope.hub.repository import Repository, fetch, open_repository
from layerscope.questions.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from layerscope.questions.files.labels import FirstLabel
from layerscope.questions.files.layouts import Rules
from layerscope.questions.files.rows import FORMATS, UNPACKED, Rows, format_of, is_json_array, rows_of, saved_rows
from layerscope.questions.sources import QuestionFile, Source, labels_path
from layerscope.questions.table import QuestionTable

PIQA = "baber/piqa"  # PIQA as parquet; the authors' own repository is a script, which nobody should run
BUNDLED = {"bundled": "questions.jsonl", "bundled-middle": "questions_middle.jsonl"}
"""The files of questions that come with layerscope, by the name of the data set."""
_ENDING = re.compile(rf"\.({'|'.join(re.escape(ending[1:]) for ending in FORMATS)})(\.gz|\.zst)?\Z")
_PART = re.compile(r"[-_.]?\d+(-of-\d+)?(-[0-9a-f]{8,})?\Z")  # of a file that is one of several
_ON_THE_HUB = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class Wanted:
    """Which questions are asked for, and how they are read."""

    dataset: str
    split: str = "validation"
    config: str = ""
    revision: str = "main"
    columns: dict[str, str] = field(default_factory=dict)
    first_label: FirstLabel = "auto"
    metadata: tuple[str, ...] | None = ()
    """Other columns that are kept; None for all."""
    option: str = "--dataset"
    """That names it, for people."""
    usual_split: str = "validation"
    """Which is meant where none is named."""

    @property
    def reading(self) -> Rules:
        """How rows are read."""
        return Rules(self.columns, self.first_label, self.metadata)


def open_source(wanted: Wanted) -> Source:
    """The source that is asked for.

    Raises:
        UsageError: there is none, it has no revisions and one is asked for, or its rows are not questions.
        LayerscopeError: the hub cannot be reached.
    """
    dataset = wanted.dataset
    benchmark = find_benchmark(dataset)
    if benchmark:
        return _from_the_hub(replace(wanted, config=benchmark.config), benchmark.repository, benchmark)
    if dataset == "piqa" or _is_on_the_hub(dataset):
        return _from_the_hub(wanted, PIQA if dataset == "piqa" else dataset)
    path = user_path(dataset)
    on_the_hub = [("dataset-revision", wanted.revision, "main"), ("config", wanted.config, "")]
    for name, value, usual in (*on_the_hub, *([] if path.is_dir() else [("split", wanted.split, wanted.usual_split)])):
        if value != usual:
            of = "on the hub" + (" or from save_to_disk" if name == "split" else "")
            told = f"{wanted.option} {visible(dataset)}"
            raise UsageError(f"--{name} {visible(value)} is of a data set {of}; {told} has none.")
    if dataset in BUNDLED:
        path = Path(str(resources.files("layerscope") / "standin" / BUNDLED[dataset]))
        return QuestionFile(path, {"dataset": dataset}, wanted.reading)
    _check_kind(path, dataset, wanted.option)
    origin = {"dataset": visible(path.name)}  # it may be moved: the plan has its content's hash
    if path.is_dir():
        return QuestionTable(saved_rows(path, wanted.split, wanted.usual_split), str(path), origin, wanted.reading)
    if format_of(path) == (".jsonl", False) or (format_of(path) == (".json", False) and not is_json_array(path)):
        return QuestionFile(path, origin, wanted.reading)
    return QuestionTable(rows_of(path), str(path), origin, wanted.reading)


def _is_on_the_hub(dataset: str) -> bool:
    """Whether a name is of a data set there: like one, and of nothing here, nor misspelt for something here."""
    if not _ON_THE_HUB.fullmatch(dataset) or Path(dataset).suffix.lower() in (*FORMATS, *COMPRESSED):
        return False
    # Not by Path, which raises in a working folder that this user may not look into.
    return not os.path.exists(dataset) and not os.path.exists(os.path.dirname(dataset))  # noqa: PTH110, PTH120


def _check_kind(path: Path, dataset: str, option: str) -> None:
    """Refuses what is no file of questions by what it is.

    Raises:
        UsageError: there is nothing, or a pipe, a device, or something compressed in a way that is not read.
    """
    told = f"{option} {visible(dataset)}"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        names = ", ".join(("piqa", *BENCHMARKS, *BUNDLED))
        kinds = f"It is {names}, a file of questions, - for standard input, or a data set of the hub (owner/name)."
        near = did_you_mean(path.name, ["piqa", *BENCHMARKS, *BUNDLED, *names_in(path.parent)])
        raise UsageError(f"{told}: no such file ({error.strerror}).{near}\n{kinds}") from error
    if dataset.endswith("/") and not stat.S_ISDIR(mode):
        raise UsageError(f"{told} is a folder's name, and {path} a file. Leave out the / at its end.")
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UsageError(
            f"{told} is a pipe or a device; questions are read more than once, also by the run that goes on later.\n"
            "Write them to a file, and name that."
        )
    suffix = path.suffix.lower()
    if suffix in COMPRESSED and (suffix not in UNPACKED or path.with_suffix("").suffix.lower() == ".parquet"):
        raise UsageError(f"{told} is compressed, and not by gzip or zstd as text. Unpack it, and name the plain file.")
    if stat.S_ISREG(mode) and (kind := _kind_of_spreadsheet(path)):
        raise UsageError(f"{told} is {kind}. In the program that made it: File, Save As, CSV (UTF-8); name that file.")
    if stat.S_ISREG(mode) and suffix not in (*FORMATS, *COMPRESSED) and _is_binary(path):
        formats = ", ".join(FORMATS)
        raise UsageError(f"{told} is no text. Save it as one of {formats} (or .gz, .zst of a text), and name that.")


def _kind_of_spreadsheet(path: Path) -> str:
    """What a spreadsheet's file is, whatever its name says; empty for anything else."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(8)
    except OSError:
        return ""  # told by whoever reads it
    kinds = {b"PK\x03\x04": "a spreadsheet (or another zip archive)", b"\xd0\xcf\x11\xe0": "a spreadsheet (.xls)"}
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16 text, which Excel calls Unicode text"
    return kinds.get(begin[:4], "")


def _is_binary(path: Path) -> bool:
    """Whether a file begins with what no text has: a spreadsheet, say, or a database."""
    try:
        with path.open("rb") as stream:
            return b"\0" in stream.read(1 << 10)
    except OSError:
        return False  # told by whoever reads it


def question_files(dataset: str) -> list[Path]:
    """The files that a run reads its questions from, as far as they are the user's own."""
    if dataset in ("auto", "piqa", STANDARD_INPUT, *BUNDLED) or find_benchmark(dataset) or _is_on_the_hub(dataset):
        return []
    path = user_path(dataset)
    return [path, labels_path(path)]


def _from_the_hub(wanted: Wanted, name: str, benchmark: Benchmark | None = None) -> Source:
    """A split of a data set on the hub: its data files are fetched at one commit, and no code of it is run."""
    rules = replace(wanted.reading, repeated=name == PIQA)
    repository = open_repository(name, wanted.revision, kind="dataset")
    origin = {"dataset": name, "revision": str(repository.commit), "split": wanted.split}
    if wanted.config:
        origin["config"] = wanted.config
    paths = _data_files(repository, name, wanted)
    rows: Rows = chain.from_iterable(_named(repository, name, path) for path in paths)
    if benchmark is not None:
        origin["benchmark"] = wanted.dataset
        rows = ((where, benchmark.shaped(row, where)) for where, row in rows)
        rules = replace(
            rules, columns={part: part for part in ("goal", "choices", "label")}, first_label="0", repeated=True
        )
    return QuestionTable(rows, f"{name}, split {wanted.split}", origin, rules)


def _named(repository: Repository, name: str, path: str) -> Iterator[tuple[str, object]]:
    """Rows of one file, with its name on the hub in place of the cache's."""
    local, shown = fetch(repository, path), f"{name}, {path}"
    try:
        for where, row in rows_of(local):
            yield where.replace(str(local), shown), row
    except UsageError as error:
        raise UsageError(str(error).replace(str(local), shown)) from error


def _data_files(repository: Repository, name: str, wanted: Wanted) -> list[str]:
    """The files of the split and configuration.

    Raises:
        UsageError: there are none, or of several configurations, splits or formats; which there are.
    """
    split, at = re.escape(wanted.split), f"{name} at {repository.commit}"
    data = sorted(path for path in repository.files if _ENDING.search(path))
    paths = [path for path in data if re.fullmatch(rf"(?s)(.*[/_.-])?{split}([/_.-].*)?", _ENDING.sub("", path))]
    configs = _grouped(paths, lambda path: _config(path, wanted.split))
    if wanted.config:
        configs = {config: found for config, found in configs.items() if config == wanted.config}
    if not configs:
        told = f"no data file of a {wanted.split} split" + (f" of {wanted.config}" if wanted.config else "")
        if not data:
            script = any(path.endswith(".py") for path in repository.files)
            why = "It is a script, and no code of a data set is run" if script else "Its files are of other formats"
            raise UsageError(f"{at} has {told}.\n{why}. Download its questions as a file, and name that as --dataset.")
        raise UsageError(f"{at} has {told}.\nIts data files: {listed(data)}. Name one: --split.")
    if len(configs) > 1:
        raise UsageError(f"{at} has several configurations: {listed(configs, 20)}.\nName one: --config.")
    (paths,) = configs.values()
    splits = _grouped(paths, lambda path: _split_of(path, wanted.split))
    exact = {of: found for of, found in splits.items() if re.fullmatch(rf"(?s)(.*[_.-])?{split}", of)}
    if len(exact or splits) > 1:
        raise UsageError(f"{at} has several such splits: {listed(exact or splits, 20)}.\nName one: --split.")
    ((_, paths),) = (exact or splits).items()
    formats = _grouped(paths, lambda path: path[_ENDING.search(path).start() :])  # type: ignore[union-attr]
    if len(formats) > 1:
        raise UsageError(
            f"{at} has its {wanted.split} split as {' and as '.join(formats)}: the same questions twice, perhaps.\n"
            "Download the file that you mean, and name that as --dataset."
        )
    return paths


def _grouped(paths: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(key(path), []).append(path)
    return found


def _config(path: str, split: str) -> str:
    """The configuration that a data file is of, by the folder it lies in; what lies at the top is the hub's default."""
    folders = [folder for folder in path.split("/")[:-1] if folder != split]
    return "/".join(folders[folders[:1] == ["data"] :]) or "default"


def _split_of(path: str, split: str) -> str:
    """The split that a data file is of, by its name without numbers of parts; or by its folder's."""
    *folders, file = path.split("/")
    return split if split in folders else _PART.sub("", _ENDING.sub("", file))
