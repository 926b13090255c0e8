"""The `layerscope` command: reads the command line, calls, and turns known errors into lines and an exit code.

Imports nothing heavy before it knows what to do.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from layerscope import __version__
from layerscope.config import FIRST, Config
from layerscope.config.ablation import AblationOptions
from layerscope.config.command_line import call, parser_of
from layerscope.config.options import HELP, Shown
from layerscope.errors import LayerscopeError, Stopped, UsageError, did_you_mean
from layerscope.formatting import say, shell_word, visible_json

COMMANDS: dict[str, Callable[..., int]] = {}
"""By their names, in the order of the help."""
_Files = Annotated[tuple[Path, ...], Shown(positional=True, takes="FILE")]
_RunFile = Annotated[Path, Shown(positional=True, takes="FILE")]
_Where = Annotated[str, Shown(positional=True, takes="WHERE")]
_OneDictionary = Annotated[str, Shown(takes="NAME", default="default: that of --sae-repo")]


def _command(function: Callable[..., int]) -> Callable[..., int]:
    COMMANDS[function.__name__] = function
    return function


@_command
def run(config: Config) -> int:
    """Run the job, or go on with it where its output file ends."""
    from layerscope.commands.run import run_job

    return run_job(config)


@_command
def plan(config: Config) -> int:
    """Print what a run with the same options would do; loads no weights."""
    from layerscope.commands.run import print_plan

    return print_plan(config)


@_command
def ablate(file: _RunFile, options: AblationOptions) -> int:
    """Take features out of a run's questions, exactly, and say how far each moves the margin beside its controls.

    Args:
        file: The .jsonl file of a finished run.
    """
    from layerscope.commands.ablate import ablate

    return ablate(file, options)


@_command
def saes(where: _Where = "google/gemma-2-2b", json: bool = False) -> int:
    """List the SAEs of a model, a repository or a folder: sites, layers, widths, L0s, which are canonical; no weights.

    Args:
        where: A model or a repository of SAEs on the hub, or a folder of either.
        json: Print it for programs.
    """
    from layerscope.commands.saes import as_json, as_text, shelves

    found = shelves(where)
    say(visible_json(as_json(found)) if json else as_text(found))
    return 0


@_command
def status(file: _RunFile, json: bool = False) -> int:
    """Say how far the run of an output file is, whether it is alive, and how to go on.

    Args:
        file: The .jsonl file of a run, finished or growing.
        json: Print it for programs, with the versions that it was made with.
    """
    from layerscope.records.status import as_json, as_text, status

    say(visible_json(as_json(status(file))) if json else as_text(status(file)))
    return 0


@_command
def verify(files: _Files) -> int:
    """Read every line of an output file and check schema, order, ids and digest.

    Args:
        files: The .jsonl file of a run, finished or growing, or those of the shards of one job.
    """
    from layerscope.records.verify import verify

    say(verify(files))
    return 0


@_command
def export(
    files: _Files,
    to: Annotated[Path, Shown(takes="PATH")],
    overwrite: bool = False,
    dictionary: _OneDictionary = FIRST,
    layout: Literal["rows", "lists"] = "rows",
) -> int:
    """Write a run's records in another format: as tables of features, questions and attributions, or as a JSON array.

    As x.jsonl, x.jsonl.zst or x.jsonl.gz it is a copy of the run, manifest and all, with its lines plain or compressed.

    Args:
        files: The .jsonl file of a run, finished or growing, or those of the shards of one job; or one of ablations.
        to: The file to write, x.parquet, x.csv, x.json, x.jsonl, x.jsonl.zst or x.jsonl.gz; other tables go beside it:
            x.questions.parquet or .csv.
        overwrite: Replace what is there.
        dictionary: Whose features, of a run with several: the name that --dictionary gave it.
        layout: Of the features, in Parquet: rows, one for every feature; or lists, a row for every solution and layer.
    """
    from layerscope.tables.export import export

    say(export(files, to, overwrite, dictionary, layout))
    return 0


@_command
def compare(files: _Files, json: bool = False, reading: str = "final", dictionary: _OneDictionary = FIRST) -> int:
    """Compare two runs over the same questions: accuracy, log-likelihoods, features, attributions; or two ablations.

    Args:
        files: The .jsonl files of two runs, those of the shards of two jobs, or two of layerscope ablate.
        json: Print it for programs.
        reading: Whose features are compared: final, last-word, max or prompt, of those that both runs have.
        dictionary: Of which SAEs, where a run has several: the name that --dictionary gave them.
    """
    from layerscope.records.ablations import ablations_of
    from layerscope.records.reading.shards import two_runs
    from layerscope.tables.compare import as_json, as_text, compare
    from layerscope.tables.compare_ablations import ablations_as_text, compare_ablations

    two = two_runs(files)
    a, b = map(ablations_of, two)
    if a is not None and b is not None:
        found = compare_ablations(a, b)
        say(visible_json(as_json(found)) if json else ablations_as_text(found))
        return 0
    found = compare(*two, reading, dictionary)
    say(visible_json(as_json(found)) if json else as_text(found))
    return 0


@_command
def explain(
    file: _RunFile,
    density: bool = False,
    to: Annotated[Path | None, Shown(takes="PATH", default="default: no file")] = None,
    overwrite: bool = False,
    dictionary: _OneDictionary = FIRST,
) -> int:
    """Load Neuronpedia's explanations of a run's features into the cache, once, and say what there is.

    Args:
        file: The .jsonl file of a run, finished or growing.
        density: Load how often each feature fires too; a larger download.
        to: Write the records to this file, with a description in each feature that has one.
        overwrite: Replace what is there.
        dictionary: Whose features, of a run with several: the name that --dictionary gave it.
    """
    from layerscope.neuronpedia.explanations import explain

    say(explain(file, density, to, overwrite, dictionary))
    return 0


@_command
def report(
    files: _Files,
    to: Annotated[Path | None, Shown(takes="PATH", default="default: beside the first FILE")] = None,
    show: Annotated[bool, Shown(name="open")] = False,
    reading: Annotated[str | None, Shown(takes="READING", default="default: all on one page")] = None,
    baseline_dictionary: bool = False,
    dictionary: _OneDictionary = FIRST,
    title: str = "",
    ablations: Annotated[tuple[Path, ...], Shown(takes="PATH")] = (),
    all_features: bool = False,
) -> int:
    """Make one web page of what a file says so far: which features tell the solutions apart, and at which depth.

    Args:
        files: The .jsonl file of a run, finished or growing, or those of the shards of one job; two runs are put side
            by side; of a folder the page lists its runs.
        to: The page; the (first) FILE with .html by default. A report that is there is replaced, anything else is not.
        show: Open the page in the browser.
        reading: The one it is about: final, last-word, max or prompt, of those that the run has.
        baseline_dictionary: Say what random features reach that fire as often; of a run with --residuals, in minutes. A
            run with --baseline-dictionary has them already.
        dictionary: Whose features, of a run with several: the name that --dictionary gave it.
        title: What the page is called, in its tab and above its heading; the file's name by default.
        ablations: A file of layerscope ablate of this run, which the section of causes shows: one of features that were
            chosen, one of a --check, or both.
        all_features: Write every feature that was tested, not the surest alone, to a CSV beside the page.
    """
    from layerscope.commands.reporting import PageOptions, write_report

    options = PageOptions(to, show, reading, baseline_dictionary, dictionary, title, ablations, all_features)
    say(write_report(files, options))
    return 0


def _do(words: list[str]) -> int:
    """
    Raises:
        UsageError: the words are no command of ours; which was meant, perhaps.
    """
    name, *others = words or [""]
    if name == "--version":
        say(f"layerscope {__version__}")
    elif name in COMMANDS and not {*HELP} & {*others}:
        return call(COMMANDS[name], others, name, COMMANDS)
    elif name in COMMANDS or name in HELP:
        from layerscope.config.help import help_of_all

        say(parser_of(name, COMMANDS[name]).format_help() if name in COMMANDS else help_of_all(COMMANDS))
    else:
        told = f"{name[:80]!r} is no command.{did_you_mean(name, list(COMMANDS))}" if name else "Which command?"
        raise UsageError(f"{told}\nThere are {', '.join(COMMANDS)}; `layerscope --help` says what each does.")
    return 0


def _interrupted(words: list[str], name: str) -> str:
    """Where things stand after a signal, and what goes on."""
    command = " ".join(map(shell_word, ["layerscope", *words]))
    if words[:1] in (["run"], ["ablate"]):
        return f"Stopped by {name} before the work began; nothing was changed.\nTo go on: {command}"
    return f"Stopped by {name} before the end; what it was to write is as it was.\nTo do it again: {command}"


def main(arguments: list[str] | None = None, struck: Callable[[], bool] = lambda: False) -> None:
    """Runs the command and ends the process with its exit code: 0 done, 1 failed, 2 usage, 128 + n for signal n.

    Args:
        struck: whether there was an interrupt: an error behind one is what something made of it that was imported.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = _do(words)
    except (Exception, KeyboardInterrupt) as error:
        if struck() or isinstance(error, KeyboardInterrupt):
            stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
            name = signal.Signals(stopped.number).name
            say(stopped.told or _interrupted(words, name), None if stopped.told else sys.stderr)
            code = stopped.exit_code
        elif isinstance(error, LayerscopeError):
            say(f"layerscope: {error}", sys.stderr)
            code = error.exit_code
        else:
            raise
    sys.exit(code)
