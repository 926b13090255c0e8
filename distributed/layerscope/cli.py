"""The `layerscope` command: reads the command line, calls, and turns known errors into lines and an exit code.

Imports nothing heavy before it knows what to do.
"""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from layerscope import __version__
from layerscope.config import Config
from layerscope.errors import LayerscopeError
from layerscope.files import user_path
from layerscope.streams import lost_output, outlive_readers

_app = tyro.extras.SubcommandApp()
_Options = Annotated[Config, tyro.conf.arg(name="")]


@_app.command
def run(config: _Options) -> int:
    """Run the job, or go on with it where its output file ends."""
    from layerscope.commands.run import run_job

    return run_job(config)


@_app.command
def plan(config: _Options) -> int:
    """Print what a run with the same options would do; loads no weights."""
    from layerscope.commands.run import print_plan

    return print_plan(config)


@_app.command
def status(file: tyro.conf.Positional[Path], json: bool = False) -> int:
    """Say how far the run of an output file is, whether it is alive, and how to go on.

    Args:
        json: Print it for programs, with the versions that it was made with.
    """
    from layerscope.records.status import as_json, as_text, status

    print((as_json if json else as_text)(status(file)))
    return 0


@_app.command
def verify(file: tyro.conf.Positional[Path]) -> int:
    """Read every line of an output file and check schema, order, ids and digest."""
    from layerscope.records.verify import verify

    print(verify(file))
    return 0


@_app.command
def export(file: tyro.conf.Positional[Path], to: str, overwrite: bool = False) -> int:
    """Write a run's records in another format: as tables of features and of questions, or as one JSON array.

    Args:
        to: The file to write, x.parquet, x.csv or x.json; the table of questions goes to x.questions.parquet or .csv.
        overwrite: Replace what is there.
    """
    from layerscope.tables.export import export

    print(export(file, user_path(to), overwrite))
    return 0


@_app.command
def compare(a: tyro.conf.Positional[Path], b: tyro.conf.Positional[Path], json: bool = False) -> int:
    """Compare two runs over the same questions: accuracy, log-likelihoods, features.

    Args:
        json: Print it for programs.
    """
    from layerscope.tables.compare import as_json, as_text, compare

    print((as_json if json else as_text)(compare(a, b)))
    return 0


@_app.command
def explain(
    file: tyro.conf.Positional[Path], density: bool = False, to: Path | None = None, overwrite: bool = False
) -> int:
    """Load Neuronpedia's explanations of a run's features into the cache, once, and say what there is.

    Args:
        density: Load how often each feature fires too; a larger download.
        to: Write the records to this file, with a description in each feature that has one.
        overwrite: Replace what is there.
    """
    from layerscope.neuronpedia.explanations import explain

    print(explain(file, density, to, overwrite))
    return 0


@_app.command
def report(
    file: tyro.conf.Positional[Path], to: Path | None = None, show: Annotated[bool, tyro.conf.arg(name="open")] = False
) -> int:
    """Make one web page of what a file says so far: which features tell the solutions apart, and at which depth.

    Args:
        to: The page; FILE with .html by default. A report that is there is replaced, anything else is not.
        show: Open the page in the browser.
    """
    from layerscope.report.page import report

    print(report(file, to, show))
    return 0


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and ends the process with its exit code: 0 done, 1 failed, 2 usage, 128 + n for signal n."""
    outlive_readers()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words == ["--version"]:
            print(f"layerscope {__version__}")
            code = 0
        else:
            code = _app.cli(args=words, prog="layerscope", config=(tyro.conf.FlagCreatePairsOff,))
    except LayerscopeError as error:
        print(f"layerscope: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    # The work of a run lies in its file, whatever becomes of what it prints.
    if (lost := lost_output()) is not None and not code and words[:1] != ["run"]:
        print(f"layerscope: Not all could be printed: {lost.strerror}.", file=sys.stderr)
        code = 1
    sys.exit(code)
