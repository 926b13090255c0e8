"""There is one reader: a file or a manifest that is broken is told in the same words by every command."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.errors import LayerscopeError, UsageError
from layerscope.neuronpedia.explanations import explain
from layerscope.questions.sources import Question
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.identity import PackingName
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.status import status
from layerscope.records.verify import verify
from layerscope.records.writing.journal import open_journal
from layerscope.records.writing.packing import METHODS, Packed, pack, packing
from layerscope.report.page import report
from layerscope.tables.compare import compare
from layerscope.tables.export import export
from layerscope.tables.reading import read_features, read_questions
from made_up import about, compressed, edit_manifest, identity, record_line, typed
from paths import ROOT

SUPPORT = ROOT / "tests" / "support"
LAYERS = (0, 8)
ORDER = (4, 2, 7, 0)
PAGES = {str(layer): f"gemma-2-2b/{layer}-gemmascope-res-16k" for layer in LAYERS}
BATCHES = (2, 1, 1)
SAID = (
    identity(LAYERS, questions=len(ORDER)),
    about(LAYERS, ORDER, neuronpedia=PAGES, batches=" ".join(map(str, BATCHES))),
)
PARTS = typed(*SAID)


def line_of(number: int) -> bytes:
    if number == ORDER[2]:
        return error_line(number, "sol1 is empty").line
    question = Question(number, f"goal {number}", f"do {number}", "leave it", 0)
    scores = (SolutionScore(-2.5, 2, "a"), SolutionScore(-3.0, 2, "b"))
    return record_line(question, scores, dict.fromkeys(LAYERS, ([(7, 4.0), (9, 1.5)], [(9, 0.25)])))


LINES = [line_of(number) for number in ORDER]


def resume(path: Path) -> None:
    parts = {".zst": PACKED["zstd"], ".gz": PACKED["gzip"]}.get(path.suffix, PARTS)
    with open_journal(path, *parts, overwrite=False) as journal:
        journal.recover(lambda _: None)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "status": status,
    "verify": verify,
    "report": lambda path: report(path),
    "export": lambda path: export(path, path.with_suffix(".parquet"), overwrite=True),
    "export to json": lambda path: export(path, path.with_suffix(".json"), overwrite=True),
    "export to lines": lambda path: export(path, path.with_name("copy.jsonl.gz"), overwrite=True),
    "compare, first": lambda path: compare(path, path.with_name("sound.jsonl")),
    "compare, second": lambda path: compare(path.with_name("sound.jsonl"), path),
    "read_features": read_features,
    "read_questions": read_questions,
    "resume": resume,
}


def written(path: Path) -> Path:
    with open_journal(path, *PARTS, overwrite=False) as journal:
        journal.recover(lambda _: None)
        journal.append(LINES)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written(tmp_path / "sound.jsonl")
    return written(tmp_path / "run.jsonl")


def first_line_of(command: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(LayerscopeError) as caught:
        command(path)
    told = str(caught.value).splitlines()
    assert 2 <= len(told) <= 3
    if "keep that alone with: truncate -s" not in told[-1]:
        advises_overwriting = "--overwrite" in told[-1]
        assert advises_overwriting == (command is resume), "advice that this command cannot follow, or none"
    return told[0]


def put(number: int, before: bytes, after: bytes) -> Callable[[list[bytes]], None]:
    def change(lines: list[bytes]) -> None:
        assert before in lines[number]
        lines[number] = lines[number].replace(before, after, 1)

    return change


BROKEN: dict[str, tuple[Callable[[list[bytes]], object], str]] = {
    "a digit": (put(1, b"4.0", b"5.0"), "line 2: it is not the line that was written there"),
    "a likelihood": (put(0, b"-2.5", b"-2.6"), "line 1: it is not the line that was written there"),
    "a reason": (put(2, b"sol1", b"sol2"), "line 3: it is not the line that was written there"),
    "no JSON": (put(1, b"{", b"["), "line 2: JSON is malformed"),
    "no text": (put(3, b"leave", b"\xff\xff"), "line 4: "),
    "half a line": (lambda lines: lines.__setitem__(1, lines[1][:50] + b"\n"), "line 2: JSON is malformed"),
    "an empty line": (lambda lines: lines.insert(1, b"\n"), "line 2: Input data was truncated"),
    "a number": (lambda lines: lines.__setitem__(1, b"7\n"), "line 2: Expected `object`, got `int`"),
    "no question": (put(0, b'"question"', b'"q"'), "line 1: Object missing required field `question`"),
    "an endless activation": (put(0, b"4.0", b"1e999"), "line 1: "),
    "an activation of nothing": (put(0, b"4.0", b"0"), "line 1: Expected `float` > 0"),
    "a layer of another name": (put(0, b'"8":', b'"last":'), "line 1: Expected `int`, got `str`"),
    "another layer": (put(0, b'"8":', b'"9":'), "line 1: the layers are 0, 9, the run's are 0, 8"),
    "a line less": (lambda lines: lines.pop(1), "line 2: example_id is 7; the plan has 2 there"),
    "lines exchanged": (lambda lines: lines.insert(0, lines.pop()), "line 1: example_id is 0; the plan has 4 there"),
    "a line more": (lambda lines: lines.append(lines[0]), "line 5: the plan ends after 4 lines"),
}


@pytest.mark.parametrize(("spoil", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_line_is_told_alike_by_every_command(
    path: Path, spoil: Callable[[list[bytes]], object], told: str
) -> None:
    lines = list(LINES)
    spoil(lines)
    path.write_bytes(b"".join(lines))
    messages = {first_line_of(command, path) for command in COMMANDS.values()}
    assert len(messages) == 1, messages
    assert messages.pop().startswith(f"{path}, {told}")


# ---------------------------------------------------------------- compressed lines

PACKED: dict[PackingName, Any] = {name: typed(*compressed(*SAID, name, BATCHES)) for name in METHODS}
FRAMES = {
    name: [pack(LINES[end - size : end], packing(name)) for size, end in zip(BATCHES, accumulate(BATCHES), strict=True)]
    for name in METHODS
}
OTHERS: dict[PackingName, Callable[[bytes], bytes]] = {
    "zstd": lambda text: zstandard.ZstdCompressor(level=9).compress(text),
    "gzip": lambda text: gzip.compress(text, 9, mtime=0),
}
"""Another tool of the same format."""
SKIPPED = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"  # a frame that zstd passes over


def packed(path: Path, method: PackingName) -> Path:
    """A finished run with its lines compressed, and beside it another that is sound."""
    with open_journal(path, *PACKED[method], overwrite=False) as journal:
        journal.append([Packed(np.frombuffer(f, np.uint8), n) for f, n in zip(FRAMES[method], BATCHES, strict=True)])
    return path


def flipped(frame: bytes) -> bytes:
    return frame[:30] + bytes([frame[30] ^ 1]) + frame[31:]


Spoil = Callable[[PackingName, list[bytes]], bytes]
SPOILT_FRAMES: dict[str, tuple[Spoil, str, bool]] = {  # what is told, {} being a frame, and whether the rest is kept
    "cut": (lambda _, of: b"".join(of)[:-7], "line 4: missing; 4 lines were written", False),
    "cut at once": (lambda _, of: of[0][:9], "line 1: missing; 4 lines were written", False),
    "a frame less": (lambda _, of: of[0] + of[2], "line 3: example_id is 0; the plan has 7 there", False),
    "frames exchanged": (lambda _, of: of[1] + of[0], "line 1: example_id is 7; the plan has 4 there", False),
    "damaged": (lambda _, of: of[0] + flipped(of[1]) + of[2], "line 3 (byte {1}): a damaged {} is there", False),
    "lines behind": (lambda _, of: b"".join(of) + LINES[0], "line 5 (byte {3}): no {} is there", True),
    "a frame behind": (lambda m, of: b"".join(of) + OTHERS[m](LINES[0]), "line 5: the plan ends after 4 lines", True),
    "half a line behind": (
        lambda m, of: b"".join(of) + OTHERS[m](b"half"),
        "line 5 (byte {3}): a {} that does not end with a line is there",
        True,
    ),
    "nothing behind": (
        lambda m, of: b"".join(of) + OTHERS[m](b""),
        "line 5 (byte {3}): a {} that does not end with a line is there",
        True,
    ),
    "skipped behind": (lambda _, of: b"".join(of) + SKIPPED, "line 5 (byte {3}): no {} is there", True),
    "packed anew": (
        lambda m, _: OTHERS[m](b"".join(LINES)),
        "line 1: lines 1 to 4 are not those that were written there",
        False,
    ),
    "unpacked": (
        lambda *_: b"".join(LINES),
        "line 1: plain lines where a {} was written: another tool packed or unpacked the file",
        False,
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("spoil", "told", "keeps"), SPOILT_FRAMES.values(), ids=SPOILT_FRAMES.keys())
def test_a_compressed_file_that_is_off_is_told_alike_by_every_command(
    tmp_path: Path, method: PackingName, spoil: Spoil, told: str, keeps: bool
) -> None:
    suffix, frames = METHODS[method].suffix, FRAMES[method]
    packed(tmp_path / f"sound.jsonl{suffix}", method).rename(tmp_path / "sound.jsonl")
    manifest_path(tmp_path / f"sound.jsonl{suffix}").rename(manifest_path(tmp_path / "sound.jsonl"))
    path = packed(tmp_path / f"run.jsonl{suffix}", method)
    content = spoil(method, frames)
    path.write_bytes(content)
    cut_off = "missing" in told  # which a run writes again
    commands = [command for command in COMMANDS.values() if not (cut_off and command is resume)]
    messages = {first_line_of(command, path) for command in commands}
    assert len(messages) == 1, messages
    ends = [0, *accumulate(map(len, frames))]
    places = told.replace("{}", METHODS[method].unit).format(*(f"{end:,}" for end in ends))
    assert messages.pop().startswith(f"{path}, {places}")
    assert path.read_bytes() == content
    with pytest.raises(LayerscopeError) as caught:
        verify(path)
    assert (f"keep that alone with: truncate -s {ends[3]} {path}" in str(caught.value)) == keeps
    if keeps:
        os.truncate(path, ends[3])
        assert "4 of 4 lines" in verify(path)


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from layerscope.records.writing.journal import open_journal
from test_one_reader import LINES, PARTS

journal = open_journal(Path(sys.argv[1]), *PARTS, overwrite=False)
journal.append(LINES[:1])
journal.append(LINES[1:])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(path: Path) -> Path:
    """A file three of whose lines lie behind what the manifest notes: its run was killed within seconds of a note."""
    path.unlink()
    words = [sys.executable, "-c", _KILLED, str(path), str(Path(__file__).parent), str(SUPPORT)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    noted = orjson.loads(manifest_path(path).read_bytes())["progress"]["lines"]
    assert (noted, path.read_bytes()) == (1, b"".join(LINES))
    return path


def test_a_line_that_was_changed_behind_the_manifests_last_note_is_told_too(killed: Path) -> None:
    """Up to five seconds of lines lie there after a kill; a resume would vouch for a line that somebody edited."""
    for spoil, told in (BROKEN[change] for change in ("a digit", "a likelihood", "a reason")):
        lines = list(LINES)
        spoil(lines)
        killed.write_bytes(b"".join(lines))
        messages = {first_line_of(command, killed) for _ in range(2) for command in COMMANDS.values()}
        assert messages == {f"{killed}, {told}."}
    killed.write_bytes(b"".join(LINES))
    for command in COMMANDS.values():
        command(killed)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "resume"])
def test_lines_that_are_gone_are_missed(path: Path, name: str) -> None:
    """All but a run say so; a run writes them again."""
    path.write_bytes(b"".join(LINES[:2]))
    assert first_line_of(COMMANDS[name], path) == f"{path}, line 3: missing; 4 lines were written."
    resume(path)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a key less": (lambda m: m["identity"].pop("plan"), "Object missing required field `plan` - at `identity`"),
    "another type": (lambda m: m["about"].update(order=7), "Expected `str`, got `int` - at `about.order`"),
    "an order of words": (lambda m: m["about"].update(order="4 b 7 0"), "`about.order` is not numbers"),
    "an order too short": (lambda m: m["about"].update(order="4 2 7"), "`about.order` has 3 questions, the plan 4"),
    "no layer": (lambda m: m["about"]["average_l0"].pop("8"), "`about.neuronpedia` has other layers"),
    "no digest": (lambda m: m["progress"].pop("xxh3_128"), "`progress` has no digest"),
    "no size": (lambda m: m["progress"].pop("bytes"), "Object missing required field `bytes` - at `progress`"),
    "marks too few": (lambda m: m["progress"].update(running="0"), "`progress.running` has not as many marks"),
    "progress no object": (lambda m: m.update(progress=[]), "Expected `object`, got `array` - at `progress`"),
    "a later format": (lambda m: m.update(format=9), "it has format 9, of a later version"),
    "a page outside": (lambda m: m["about"]["neuronpedia"].update({"8": "../../x"}), "Expected `str` matching"),
}


@pytest.mark.parametrize(("change", "told"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_broken_manifest_is_told_alike_by_every_command(
    path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    edit_manifest(path, change)
    messages = {first_line_of(command, path) for command in [*COMMANDS.values(), explain]}
    assert len(messages) == 1, messages
    assert messages.pop().startswith(f"{manifest_path(path)} is not a whole manifest: {told}")


def test_a_key_that_stands_twice_in_a_manifest_is_told_alike_by_every_command(path: Path) -> None:
    """A reader takes the second in silence: a run would go on, and a report be made, with settings of no run."""
    text = manifest_path(path).read_bytes()
    manifest_path(path).write_bytes(text.replace(b'"dtype"', b'"dtype": "float64", "dtype"', 1))
    messages = {first_line_of(command, path) for command in [*COMMANDS.values(), explain]}
    assert messages == {f"{manifest_path(path)} is not a whole manifest: it has the key 'dtype' twice."}


def places(value: object, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where each value of a manifest is."""
    if not isinstance(value, dict):
        return [prefix]
    return [prefix, *(place for key, inner in value.items() for place in places(inner, (*prefix, key)))]


WRONG = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.floats() | st.lists(st.integers())
WRONG |= st.dictionaries(st.text(max_size=3), st.integers())


@pytest.fixture(scope="module")
def two_runs() -> Iterator[Path]:
    """A folder with two sound runs, in memory where there is such a file system: a copy then waits for no disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        folder = Path(name) / "sound"
        folder.mkdir()
        for run in ("sound.jsonl", "run.jsonl"):
            written(folder / run)
        yield folder


@settings(max_examples=300, deadline=None)
@given(data=st.data(), drop=st.booleans(), wrong=WRONG)
def test_no_mutation_of_a_manifest_ends_in_a_traceback(
    two_runs: Path, data: st.DataObject, drop: bool, wrong: object
) -> None:
    folder = two_runs.with_name("mutated")
    shutil.rmtree(folder, ignore_errors=True)
    path = shutil.copytree(two_runs, folder) / "run.jsonl"
    manifest = orjson.loads(manifest_path(path).read_bytes())
    place = data.draw(st.sampled_from(places(manifest)[1:]), label="place")
    *outer, key = place
    inside = manifest
    for name in outer:
        inside = inside[name]
    inside.pop(key) if drop else inside.update({key: wrong})
    manifest_path(path).write_text(json.dumps(manifest), encoding="utf-8")
    for name in ("status", "verify", "export", "compare, first", "compare, second", "resume"):
        with suppress(LayerscopeError):  # or it passes: some values may be any
            COMMANDS[name](path)


def test_a_manifest_that_is_lost_is_told_with_what_the_command_can_do(path: Path) -> None:
    manifest_path(path).unlink()
    for name in ("status", "verify", "resume"):
        with pytest.raises(UsageError, match="has no manifest") as caught:
            COMMANDS[name](path)
        assert ("--overwrite" in str(caught.value)) == (name == "resume")
    assert read_questions(path).num_rows == len(LINES), "the records alone are read as far as they can be checked"
    for name in ("report", "compare, first", "compare, second"):
        COMMANDS[name](path)
