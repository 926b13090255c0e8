"""Writing the records of a run in other formats: as tables in Parquet or CSV, one JSON array, or lines in another form.

Every file is written as a stream and takes its place as a whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import remove_leftovers, replacing, user_path
from layerscope.formatting import size_text
from layerscope.records.ablations import AblationFile, ablations_of
from layerscope.records.copying import copy_run
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.array import write_array
from layerscope.records.reading.run import RecordsFile
from layerscope.records.reading.shards import Files, open_records
from layerscope.records.writing.targets import check_target, inner_suffix
from layerscope.tables.ablations import ABLATION_ROWS, ABLATIONS, ablation_rows, several
from layerscope.tables.attribution_rows import attribution_rows, term_rows
from layerscope.tables.columns import ATTRIBUTION_TERMS, ATTRIBUTIONS, features_schema, lists_schema, questions_schema
from layerscope.tables.exported import SUFFIX
from layerscope.tables.reading import FEATURE_ROWS, LIST_ROWS, QUESTION_ROWS, RowGroups, read_records
from layerscope.tables.rows import feature_lists, feature_rows, question_row

_ARRAY, _LINES = ".json", ".jsonl"
_TABLES = (".parquet", ".csv")
_FORMULA = r"^[\x00-\x20]*[=+\-@＝＋－＠]"  # spreadsheets pass over white space, and East Asian ones take wide signs


def export(
    files: Files, target: Path, overwrite: bool, dictionary: str = FIRST, layout: Literal["rows", "lists"] = "rows"
) -> str:
    """Writes the records of a run, finished or growing, in the format that the target's suffix names.

    In CSV, texts that a spreadsheet would run get an apostrophe in front; the other formats hold every text as it is.
    `x.parquet` and `x.csv` get the table of features, and `x.questions.parquet` or `x.questions.csv` beside them the
    table of questions; `x.json` gets the array of records. Where the run has attributions, their tables lie beside
    these: `x.attributions.parquet`, and `x.attribution_terms.parquet` with what they add up to. `x.jsonl`,
    `x.jsonl.zst` and `x.jsonl.gz` are a copy of the run with its lines plain or compressed, manifest and all. A file of
    ablations makes one table, of its lines.

    Args:
        files: the output file, or those of the shards of one job.
        dictionary: whose features the tables are of.
        layout: a row for every feature, or for every list of them, in columns of lists; of Parquet.

    Returns:
        What was written, for people.

    Raises:
        UsageError: there is no such file, several are not shards of one job, there is no such dictionary, or the target
            cannot be meant.
        LayerscopeError: a line is not a record, or the disk is full or fails; what stood there before stands there yet.
    """
    if (ablations := ablations_of(files)) is not None:
        return _export_ablations(ablations, user_path(target), overwrite, dictionary)
    file = open_records(files, dictionary)
    inputs = [beside for part in file.parts for beside in (part.path, manifest_path(part.path))]
    target = user_path(target)
    tables, targets, as_lines = _tables(file, layout), [target], inner_suffix(target) == _LINES
    if target.suffix in _TABLES:
        targets += [target.with_suffix(f".{table.name}{target.suffix}") for table in tables[1:]]
    elif target.suffix != _ARRAY and not as_lines:
        formats = ", ".join((*_TABLES, _ARRAY, _LINES))
        raise UsageError(f"--to {target}: the suffix says the format; take {formats}, {_LINES}.zst or {_LINES}.gz.")
    elif dictionary != FIRST:
        raise UsageError(
            f"--to {target}: records have all dictionaries, and --dictionary {dictionary} names one.\n"
            f"Leave --dictionary out, or take {' or '.join(_TABLES)}."
        )
    if layout == "lists" and target.suffix != SUFFIX:
        raise UsageError(f"--to {target}: columns of lists are Parquet's. Name a {SUFFIX} file, or take --layout rows.")
    for each in targets:
        check_target("--to", each, inputs=inputs, overwrite=overwrite, compressed=as_lines)
        remove_leftovers(each)
    notes = file.notes
    if as_lines:
        notes = copy_run(file, target)
    elif target.suffix == _ARRAY:
        write_array(file.path, target, (line for line, _ in read_records(file)))
    else:
        _write_tables((record for _, record in read_records(file)), tables, targets)
    told = [f"{target}  {size_text(target.stat().st_size)}" for target in targets]
    return "\n".join([*told, *notes])


def _export_ablations(file: AblationFile, target: Path, overwrite: bool, dictionary: str) -> str:
    if target.suffix not in (_ARRAY, *_TABLES):
        raise UsageError(f"--to {target}: the suffix says the format; take {', '.join((*_TABLES, _ARRAY))}.")
    if dictionary != FIRST:
        raise UsageError(f"--dictionary {dictionary}: ablations are of one dictionary.\nLeave --dictionary out.")
    check_target("--to", target, inputs=[file.path, manifest_path(file.path)], overwrite=overwrite)
    remove_leftovers(target)
    if target.suffix == _ARRAY:
        write_array(file.path, target, (line for line, _ in file.entries()))
    else:
        table = _Table("", ABLATIONS, ablation_rows, ABLATION_ROWS)
        _write_tables(several(found for _, found in file.entries()), [table], [target])
    return f"{target}  {size_text(target.stat().st_size)}"


class _Table(NamedTuple):
    """One of the tables that a file makes."""

    name: str
    """Of its own file, before the suffix; that of features has the target's."""
    schema: pa.Schema
    rows: Callable[[Any], pa.RecordBatch]
    """Of a record, or of several ablations."""
    held: int
    """Rows that are held before they are written."""


def _tables(file: RecordsFile, layout: Literal["rows", "lists"]) -> list[_Table]:
    """Those of a file, that of features first."""
    readings, of_features, of_questions = file.readings, features_schema(file), questions_schema(file)
    of_lists = lists_schema(of_features)
    tables = [
        _Table("", of_lists, lambda of: feature_lists(of, readings, of_lists), LIST_ROWS)
        if layout == "lists"
        else _Table("", of_features, lambda of: feature_rows(of, readings=readings, schema=of_features), FEATURE_ROWS),
        _Table("questions", of_questions, lambda of: question_row(of, of_questions), QUESTION_ROWS),
    ]
    if file.attributed:
        tables.append(_Table("attributions", ATTRIBUTIONS, attribution_rows, FEATURE_ROWS))
        tables.append(_Table("attribution_terms", ATTRIBUTION_TERMS, term_rows, FEATURE_ROWS))
    return tables


def _write_tables(entries: Iterable[Any], tables: Sequence[_Table], targets: Sequence[Path]) -> None:
    writer = _parquet_writer if targets[0].suffix == ".parquet" else _CsvWriter
    both = list(zip(tables, targets, strict=True))
    try:
        with ExitStack() as stack:  # left from the last to the first: all files are whole before any takes its place
            files = [stack.enter_context(replacing(target)) for _, target in reversed(both)][::-1]
            writing = [
                stack.enter_context(_writing(of_table, writer, table.schema, table.held))
                for table, of_table in zip(tables, files, strict=True)
            ]
            for entry in entries:
                for table, groups in zip(tables, writing, strict=True):
                    groups.add(table.rows(entry))
    except OSError as error:
        raise LayerscopeError(
            f"{targets[0]} cannot be written: {error.strerror or error}. What was there before is as it was.\n"
            "Make room, or name a file elsewhere, and run the same command again."
        ) from error


def _parquet_writer(stream: BinaryIO, schema: pa.Schema) -> parquet.ParquetWriter:
    # Numbers that hardly repeat: split by bytes they take two thirds of what a dictionary makes of them.
    leaves = {f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name: f.type for f in schema}
    floats = [name for name, kind in leaves.items() if pa.types.is_floating(getattr(kind, "value_type", kind))]
    lists = [name for name, kind in leaves.items() if pa.types.is_list(kind) and name not in floats]
    others = [name for name in leaves if name not in floats and name not in lists]
    return parquet.ParquetWriter(
        stream,
        schema,
        compression="zstd",
        use_dictionary=others,
        use_byte_stream_split=floats,
        column_encoding=dict.fromkeys(lists, "DELTA_BINARY_PACKED") or None,
    )


class _CsvWriter:
    """CSV that a spreadsheet only shows: a text that it would run as a formula gets an apostrophe in front."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema) -> None:
        self._writer = csv.CSVWriter(stream, schema)

    def __enter__(self) -> "_CsvWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write_table(self, table: pa.Table) -> None:
        for index, field in enumerate(table.schema):
            if pa.types.is_string(field.type):
                texts = table.column(index)
                runs = pc.match_substring_regex(texts, _FORMULA)
                shown = pc.if_else(runs, pc.binary_join_element_wise("'", texts, ""), texts)
                table = table.set_column(index, field, shown)
        self._writer.write_table(table)


@contextmanager
def _writing(file: Path, writer: Callable[..., Any], schema: pa.Schema, rows: int) -> Iterator[RowGroups]:
    """Takes rows for a file."""
    with file.open("wb") as stream, writer(stream, schema) as tables, RowGroups(tables.write_table, rows) as groups:
        yield groups
