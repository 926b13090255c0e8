"""The command line helps: every word of its help says something, and what is mistyped is told with what was meant."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from layerscope import cli
from layerscope.records.status import as_text, status
from layerscope.records.verify import verify
from layerscope.report.page import report
from synthetic_run import Spec, write_run

Command = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = list(cli._app._subcommands)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_words_for_every_argument(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a positional argument the help would say `PATH file`, and of an optional one `--to {None}|PATH`."""
    monkeypatch.setenv("COLUMNS", "110")
    told = command(name, "--help").stdout
    assert "None" not in told
    arguments = re.findall(
        r"^\W (-\S.*?|[A-Z]+(?: \[[A-Z]+ \.\.\.\])?)(?: {2,}|\s*\n\W +)(\S.*?)\W*$", told, re.MULTILINE
    )
    assert {"-h, --help"} < {argument for argument, _ in arguments}, told
    for argument, said in arguments:
        assert len(said.split()) > 3, (argument, said)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("verfy", "verify"), ("Report", "report"), ("exprot", "export"), ("stat", "status"), ("xyz", "")],
)
def test_a_mistyped_command_is_told_with_the_one_that_was_meant(word: str, meant: str, command: Command) -> None:
    done = command(word, "some.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert ("Did you mean" in done.stderr) == bool(meant)
    assert f"Did you mean {meant}?" in done.stderr or not meant
    assert all(name in done.stderr for name in COMMANDS)
    assert len(done.stderr.splitlines()) == 2


def test_one_of_a_thing_is_not_several(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    write_run(path, Spec(questions=1, layers=(0,)))
    told = [as_text(status(path)), verify(path)]
    page = tmp_path / "one.html"
    report(path, page)
    told.append(re.sub(r"<script.*?</script>|<style.*?</style>", "", page.read_text("utf-8"), flags=re.DOTALL))
    for text in told:
        assert (
            re.findall(r"(?<![\d.,])1 (?:scored )?(?:question|line|layer|feature|pair|token|byte|file)s\b", text) == []
        )
