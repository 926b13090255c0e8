"""What a command prints may find no reader, no room and no character: the command ends as its work did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = "from layerscope.streams import lost_output, outlive_readers; outlive_readers(); import sys, os, pathlib\n"
CLI = [sys.executable, "-m", "layerscope"]


def shell(redirection: str, *command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command with `"$@"` and something behind it, as bash reads it; its exit code is the command's."""
    script = f'"$@" {redirection}; exit "${{PIPESTATUS[0]}}"'
    words = ["bash", "-c", script, "bash", *command]
    environment = {**os.environ, **(env or {})}
    encoding = environment.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    return subprocess.run(words, capture_output=True, encoding=encoding, check=False, timeout=60, env=environment)


@pytest.mark.parametrize("redirection", ["| true", ">&-", "2>&-", ">&- 2>&- <&-", "2>&1 | head -n 1"])
def test_work_goes_on_when_nobody_reads(redirection: str, tmp_path: Path) -> None:
    """A pipe that closes, or a stream that was never open, ends work that takes hours."""
    work = PRELUDE + "for i in range(20_000): print(i); print(i, file=sys.stderr)\npathlib.Path(sys.argv[1]).touch()"
    done = shell(redirection, sys.executable, "-c", work, str(tmp_path / "done"))
    assert (tmp_path / "done").exists()
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_does_not_become_the_next_file(closed: str, tmp_path: Path) -> None:
    """What is printed goes into the records, because they got the number of standard output."""
    records = tmp_path / "records"
    prints = "print('a', flush=True); print('b', file=sys.stderr); os.write(1, b'c'); os.write(2, b'd')"
    work = PRELUDE + f"os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n{prints}"
    assert shell(closed, sys.executable, "-c", work, str(records)).returncode == 0
    assert records.read_bytes() == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
def test_characters_that_a_terminal_has_not_are_escaped(encoding: str) -> None:
    """A finished run ends with UnicodeEncodeError for a name or a ±, or what is JSON is none any more."""
    work = PRELUDE + r"import json; print(json.dumps('d\u00e9j\u00e0 \u2192 \U0001f600', ensure_ascii=False))"
    done = shell("", sys.executable, "-c", work, env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == "déjà → 😀"


def test_a_pipe_that_somebody_made_non_blocking_gets_everything() -> None:
    """BlockingIOError, or lines that are lost, where the reader is slower than the command."""
    work = PRELUDE + "os.set_blocking(1, False)\nfor i in range(50_000): print(i)"
    done = shell("| (sleep 0.5; cat)", sys.executable, "-c", work)
    assert done.stdout.split() == [str(i) for i in range(50_000)], done.stderr[-500:]


@pytest.mark.parametrize(("redirection", "code"), [("| true", 0), (">&-", 0), ("> /dev/full", 1), ("2> /dev/full", 0)])
def test_a_command_whose_reader_is_gone_ends_well_and_one_without_room_says_so(redirection: str, code: int) -> None:
    """What was asked for is cut short in a file, and the exit code is 0."""
    done = shell(redirection, *CLI, "--version")
    assert done.returncode == code
    assert done.stderr == ("layerscope: Not all could be printed: No space left on device.\n" if code else "")
