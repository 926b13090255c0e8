"""The command line helps: every word of its help says something, and what is mistyped is told with what was meant."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest

from layerscope import cli
from layerscope.config import Config, option
from layerscope.config.ablation import AblationOptions
from layerscope.config.command_line import call
from layerscope.formatting import shell_word, utf8
from layerscope.records.status import as_text, status
from layerscope.records.verify import verify
from layerscope.report.page import report
from paths import ROOT
from synthetic_run import Spec, write_run

Command = Callable[..., subprocess.CompletedProcess[str]]
PACKAGE = ROOT / "distributed" / "layerscope"
COMMANDS = list(cli.COMMANDS)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that happens to run on this machine is not looked for: a plan would join it, and tell so."""
    monkeypatch.setenv("RAY_ADDRESS", "local")


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


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--attribution"], "gradient"),
        (["--attribution", "--tokens"], "gradient"),
        (["--attribution", "relp"], "relp"),
        (["--attribution=off"], "off"),
        ([], "off"),
    ],
)
def test_an_option_that_stands_for_a_value_alone_takes_one_too(words: list[str], rule: str) -> None:
    assert call(Config, words, "run", cli.COMMANDS).attribution == rule


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "--site", "residpost"], "transcoder or auto. Did you mean resid_post?"),
        (["plan", "--dtype=bfloat"], "--dtype is 'bfloat'; it is auto, float32 or bfloat16. Did you mean bfloat16?"),
        (["run", "--sae_dtype", "fp64"], "it is float32 or bfloat16."),
        (["run", "--num-sampels", "3"], "--num-samples"),
        (["run", "--readings", "lastword"], "Did you mean last-word?"),
        (["run", "--num-samples", "al"], "--num-samples is 'al'; it is a whole number or all. Did you mean all?"),
        (["run", "--top-k", "1.5"], "--top-k is '1.5'; it is a whole number or all."),
        (["plan", "--seed", "one"], "--seed is 'one'; it is a whole number."),
        (["ablate", "x", "--steer", "up", "--output-file", "y"], "--steer is 'up'; it is a number."),
        (["ablate", "x", "--by", "atribution"], "--by is 'atribution'; it is auto, attribution or contrast. Did you"),
        (
            ["export", "x", "--to", "y.parquet", "--layout", "row"],
            "--layout is 'row'; it is rows or lists. Did you mean",
        ),
        (["run", "--features", "x.csv"], "no option of `layerscope run`. It is one of `layerscope ablate`."),
        (["run", "--standin=yes"], "--standin takes no value"),
        (["run", "--device", "gpu"], "it is auto, cuda or cpu. Did you mean cuda?"),
        (["run", "--dtype"], "--dtype lacks its value, auto|float32|bfloat16."),
        (["run", "--attribution", "relep"], "it is gradient, relp or off. Did you mean relp?"),
        (["run", "--model", "--standin"], "--model lacks its value"),
        (["status", "a", "b"], "'b' is a word too many: `layerscope status` takes one FILE."),
        (["run", "-n", "3"], "'-n' is no option of `layerscope run`."),
        (["export", "x"], "--to is missing. The file to write"),
        (["report"], "FILE is missing. The .jsonl file of a run"),
        (["status", "pyproject.tml"], "There is no file pyproject.tml. Did you mean pyproject.toml?"),
        (["plan", "--dataset", "bundeld"], "Did you mean bundled?"),
        (["plan", "--dataset", "helaswag", "--standin"], "Did you mean hellaswag?"),
        (["plan", "--dataset", "scripts/constraint.txt"], "Did you mean constraints.txt?"),
        (["plan", "--standin", "--address", "locl"], "Did you mean local?"),
        (["plan", "--standin", "--model", "google/gemma-2-2b"], "and --model google/gemma-2-2b names others"),
        (["plan", "--standin", "--sae-repo", "google/gemma-scope-2b-pt-res"], "leave out --sae-repo"),
        (["run", "--columns", "gaol=question"], "Did you mean goal?"),
        (["run", "pyproject.toml"], "Did you mean --dataset pyproject.toml?"),
    ],
)
def test_a_mistyped_option_or_value_is_told_with_the_one_that_was_meant(
    words: list[str], told: str, command: Command
) -> None:
    done = command(*words, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    lines = [line for line in done.stderr.splitlines() if "waits for" not in line]  # which a busy machine is told
    assert 1 <= len(lines) <= 2


def test_names_in_files_are_told_with_what_was_meant(tmp_path: Path, command: Command) -> None:
    questions, run = tmp_path / "questions.csv", tmp_path / "run.jsonl"
    questions.write_text("how to,A,B,right,kind\nx,y,z,a,1\n")
    write_run(run, Spec(questions=3, layers=(0,)))
    plan = ["plan", "--standin", "--address", "local", "--dataset", str(questions), "--columns"]
    for words, told in (
        (
            [*plan, "goal=howto,sol1=A,sol2=B,label=right"],
            "no column howto. Its columns: how to, A, B, right, kind. Did",
        ),
        ([*plan, "goal=how to,sol1=A,sol2=B,label=right", "--metadata", "kid"], "Did you mean kind?"),
        (["report", str(run), "--reading", "finl"], "Did you mean final?"),
        (["report", str(run), "--dictionary", "frist"], "Did you mean first?"),
    ):
        done = command(*words)
        assert done.returncode == 2
        assert told in done.stderr


def test_options_may_stand_anywhere_and_be_spelled_as_in_python() -> None:
    def told(a: cli._Files, b: int | None = None, c: tuple[str, ...] = (), d: bool = False) -> object:
        return a, b, c, d

    words = ["x", "--c", "1", "-", "--b=-3", "--c=--2", "--d", "--", "--b"]
    assert call(told, words, "told", {}) == ((Path("x"), Path("-"), Path("--b")), -3, ("1", "--2"), True)
    assert call(Config, ["--batch_tokens", "7", "--batch-tokens", "8"], "run", {}) == Config(batch_tokens=8)


@pytest.mark.parametrize(("name", "settings"), [("run", Config), ("ablate", AblationOptions)])
def test_help_has_the_ten_that_are_most_used_first_and_the_others_in_groups(
    name: str, settings: type[Any], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    told = command(name, "-h").stdout
    groups = re.findall(r"^([a-z][^\n]+):\n((?:  .*\n)+)", told, re.MULTILINE)
    options = {title: re.findall(r"^  (--[\w-]+)", lines, re.MULTILINE) for title, lines in groups}
    options.pop("arguments", None)
    assert next(iter(options)) == "most used"
    assert len(options["most used"]) == 10
    assert sorted(each for those in options.values() for each in those) == sorted(
        option(field.name) for field in fields(settings)
    )
    assert len(options) > 2
    assert "options" not in options, "one has no group"
    assert max(map(len, told.splitlines())) < 100


def test_a_file_of_another_command_is_told_with_the_command_that_reads_it(tmp_path: Path, command: Command) -> None:
    questions, run = tmp_path / "questions.jsonl", tmp_path / "run.jsonl"
    questions.write_text('{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n')
    write_run(run, Spec(questions=3, layers=(0,)))
    page = tmp_path / "page.html"
    page.write_text("<!doctype html>")
    for words, told in (
        (["status", str(questions)], "It holds questions: `layerscope run --dataset` reads those."),
        (["report", str(questions)], "It holds questions: `layerscope run --dataset` reads those."),
        (["verify", f"{run}.manifest.json"], "name the file that it stands beside, run.jsonl."),
        (["status", str(page)], "a browser opens it"),
        (["plan", "--standin", "--dataset", str(run)], "holds the records of a run.\n`layerscope report`"),
    ):
        done = command(*words)
        assert done.returncode == 2
        assert told in done.stderr


def test_no_refusal_steers_the_terminal_by_the_name_of_a_file(tmp_path: Path, command: Command) -> None:
    """A name comes by completion, from whoever made the file."""
    path = tmp_path / "e\x1b]0;title\x07\x1b[31m.csv"
    path.write_bytes(b"goal,sol1,sol2,label\n\xff,a,b,0\n")
    for words in (["plan", "--standin", "--dataset", str(path)], ["status", str(path)]):
        done = command(*words)
        assert done.returncode
        assert "e[U+001B]]0;title[U+0007]" in done.stderr
        assert "\x1b" not in done.stderr + done.stdout


def test_no_answer_steers_the_terminal_by_the_name_of_a_file(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "e\x1b]0;title\x07\u202e\xff.jsonl"
    write_run(path, Spec(questions=3, layers=(0,)))
    other = tmp_path / "\x1b[2J.csv"
    for words in (
        ["status", str(path)],
        ["status", str(path), "--json"],
        ["verify", str(path)],
        ["export", str(path), "--to", str(other)],
        ["compare", str(path), str(path)],
        ["report", str(path)],
    ):
        done = command(*words)
        assert done.returncode == 0
        assert not {"\x1b", "\x07", "\u202e"} & {*done.stdout, *done.stderr}
        if "--json" in words:
            assert orjson.loads(done.stdout)["file"] == str(path)


def test_everything_that_is_printed_is_made_visible() -> None:
    """A module that prints by itself prints what a file says, one day."""
    printing = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    ours_alone = {"__main__.py", "planning/cards.py", "standin/build.py"}  # a home, JSON for a parent, a folder's name
    assert printing == {"formatting.py", *ours_alone}


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


@pytest.mark.parametrize("columns", ["0", "1", "3", "9", "19"])
def test_help_comes_at_once_however_narrow_the_terminal(
    columns: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = command("run", "--help")
    assert done.returncode == 0
    assert "--num-samples" in done.stdout


@pytest.mark.parametrize("word", [b"plain", b"two words", b"it's", b"\xfc\xff", b"\xfc'\\n\\\n", "ü".encode(), b""])
def test_a_word_is_printed_as_a_shell_reads_it(word: bytes) -> None:
    """The command to go on is copied from the screen; it stands in a manifest too, which is UTF-8."""
    spelled = shell_word(os.fsdecode(word))
    orjson.dumps([spelled, utf8(os.fsdecode(word))])
    assert subprocess.run(["bash", "-c", f"printf %s {spelled}"], capture_output=True, check=True).stdout == word


@pytest.mark.parametrize(
    ("words", "function", "told"),
    [
        (
            ("run", "--standin", "--overwrite"),
            "layerscope.commands.run.Cluster",
            "To go on: layerscope run --standin --overwrite",
        ),
        (
            ("report", "a b.jsonl"),
            "layerscope.commands.reporting.write_report",
            "To do it again: layerscope report 'a b.jsonl'",
        ),
    ],
)
def test_ctrl_c_is_answered_with_the_command_that_goes_on(
    words: tuple[str, ...], function: str, told: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(function, interrupted)
    done = command(*words)
    assert done.returncode == 130
    assert "Stopped by SIGINT before" in done.stderr
    assert told in done.stderr


def test_what_ray_makes_of_a_signal_while_it_starts_is_told_as_any(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes SIGTERM, and ends the process with its number as a code."""

    def ended(*_: object, **__: object) -> None:
        sys.exit(signal.SIGTERM)

    monkeypatch.setattr("layerscope.commands.run.Cluster", ended)
    done = command("run", "--standin")
    assert done.returncode == 143
    assert "Stopped by SIGTERM before the work began" in done.stderr


def test_what_an_import_makes_of_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension whose beginning is interrupted says that it could not be imported."""

    def half_imported(*_: object, **__: object) -> None:
        raise ImportError("initialization failed")

    monkeypatch.setattr("layerscope.records.status.status", half_imported)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "run.jsonl"], struck=lambda: True)
    assert ended.value.code == 130
    with pytest.raises(ImportError, match="initialization failed"):
        cli.main(["status", "run.jsonl"])


@pytest.mark.parametrize("step", ["leave_working_folder", "provide_home"])
def test_ctrl_c_before_anything_is_imported_is_answered_too(step: str) -> None:
    code = (
        "import os, signal, sys, layerscope.__main__ as begin\n"
        f"begin.{step} = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "begin.main(['status', 'run.jsonl'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "waits for" not in line]
    stopped = ["Stopped by SIGINT before anything began; nothing was changed.", "To go on: layerscope status run.jsonl"]
    assert (done.returncode, told) == (130, stopped)


WHEN_IT_CLOSES = """
import os, signal, time, layerscope.__main__ as begin, layerscope.records.verify as verifying

class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        list(range(1000))

def verify(_):
    try:
        START
        time.sleep(60)
    finally:
        for _ in range(3):
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        print("closed", flush=True)

verifying.verify = verify
begin.main(["verify", "run.jsonl"])
"""


@pytest.mark.parametrize("start", ["os.kill(os.getpid(), signal.SIGINT)", "Thing()"], ids=["at once", "clearing away"])
def test_ctrl_c_is_pressed_more_than_once(start: str) -> None:
    """What closes is not torn apart by it, and one that strikes while an object is cleared away is not forgotten."""
    done = subprocess.run(
        [sys.executable, "-c", WHEN_IT_CLOSES.replace("START", start)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "closed\n")
    assert "Stopped by SIGINT before the end" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


AT_A_MOMENT = """
import sys, layerscope.__main__ as begin
leave = begin.leave_working_folder
begin.leave_working_folder = lambda: (print("begun", flush=True), leave())
begin.main(sys.argv[1:])
"""


WHILE_A_COMPILED_MODULE_BEGINS = """
import os, signal, sys
from importlib.machinery import ExtensionFileLoader

class Strikes:
    struck = False

    @classmethod
    def find_spec(cls, *_):
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code is ExtensionFileLoader.exec_module.__code__ and not cls.struck:
                cls.struck = "orjson" in sys.modules
                os.kill(os.getpid(), signal.SIGINT)
            frame = frame.f_back

import layerscope.__main__ as begin
sys.meta_path.insert(0, Strikes)
begin.main(sys.argv[1:])
"""


def test_ctrl_c_while_a_compiled_module_is_imported_takes_no_process_down(tmp_path: Path) -> None:
    """orjson is one that dies of it: it strikes when that imports something in turn, and is obeyed when it is done."""
    write_run(path := tmp_path / "run.jsonl", Spec(questions=2, layers=(0,)))
    words = [sys.executable, "-c", WHILE_A_COMPILED_MODULE_BEGINS, "report", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "Stopped by SIGINT before " in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_at_any_moment_of_a_command_ends_it_in_words(tmp_path: Path) -> None:
    """A terminal sends it to the whole group; it strikes while things are imported, read, computed or written."""
    write_run(path := tmp_path / "run.jsonl", Spec(questions=60, layers=(0, 1)))
    codes = set[int]()
    for seconds in (0, 0.1, 0.3, 0.7, 1.5):
        process = subprocess.Popen(
            [sys.executable, "-c", AT_A_MOMENT, "report", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        for wait in (seconds, 0.2):
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        told = process.communicate(timeout=120)[1]
        codes.add(process.returncode)
        assert process.returncode == 0 or "Stopped by SIGINT before " in told
        assert "Traceback" not in told
    assert 130 in codes
    assert codes <= {0, 130}


def test_ctrl_c_after_all_is_said_changes_nothing() -> None:
    code = (
        "import atexit, os, signal, layerscope.__main__ as begin\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "begin.main(['--version'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:11]) == (0, "layerscope ")
    assert "Traceback" not in done.stderr
