"""The loop over the plan against an engine that loses, delays, repeats and reorders answers, and kills actors."""

import gc
import sys
from collections.abc import Iterator
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_engine import BATCHES, FakeEngine, Tape, expected_lines, job, node
from layerscope.config import Config
from layerscope.engine import driver
from layerscope.engine.budget import Budget
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.engine.interface import ActorLost
from layerscope.errors import LayerscopeError

LINES = expected_lines()
FILE = b"".join(LINES)
LINE_ENDS = {0, *accumulate(len(line) for line in LINES)}
TAPE, TAPES = 60, 10
NODES = [node("a"), node("b")]
JOBS = {
    (actors, blocks): job(Config(device="cpu", gemma_actors=actors, layer_blocks=blocks), NODES)
    for actors in (1, 2, 3)
    for blocks in (1, 2, 3)
}


@pytest.fixture(scope="module", autouse=True)
def _small_and_quick() -> Iterator[None]:
    """A window that is smaller than the plan; and the objects of this whole test process stay unfrozen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "BATCHES_PER_GEMMA_ACTOR", 1)
        patch.setattr(driver, "BATCHES_MORE", 1)
        patch.setattr(driver, "gc", SimpleNamespace(freeze=lambda: None, unfreeze=lambda: None))
        yield


def runs(engine: FakeEngine, the_job: object, batches: range = range(len(BATCHES))) -> Driver:
    crew = Crew(the_job, engine, lambda _: None)  # type: ignore[arg-type]
    return Driver(the_job, batches, crew, Budget(the_job, 1 << 30), lambda _: None)  # type: ignore[arg-type]


@settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(min_size=TAPE * TAPES, max_size=TAPE * TAPES))
def test_whatever_happens_the_file_is_a_prefix_and_a_run_that_ends_well_has_every_byte(data: bytes) -> None:
    """10,000 schedules: ten in an example, because drawing a tape takes as long as running it."""
    for start in range(0, len(data), TAPE):
        crew, length, *tape = data[start : start + TAPE]
        check_schedule(1 + crew % 3, 1 + crew // 3 % 3, Tape(bytes(tape[: length % TAPE])))


def check_schedule(actors: int, blocks: int, tape: Tape) -> None:
    engine = FakeEngine(list(NODES), tape)
    # The batch whose turn it is may always begin, and what an encoder was given of one that is run again stays there.
    window = blocks * (actors + 1 + 1) + blocks * driver.CALLS_PER_ENCODER
    written = b""
    try:
        for batch in runs(engine, JOBS[actors, blocks]).results(lambda: False):
            written += b"".join(bytes(piece) for line in batch.lines for piece in line.pieces)
            assert FILE.startswith(written)
            assert len(engine.store) <= window, "more is held than the window allows"
    except LayerscopeError as error:
        assert "failed 5 times" in str(error) or "died 5 times" in str(error)
        assert engine.measured["batch_retries"] + engine.measured["actor_restarts"] >= 4
        assert len(written) in LINE_ENDS
    else:
        assert written == FILE
    assert engine.most_held <= window
    assert all(actor.dead for actor in engine.actors), "an actor was left behind"
