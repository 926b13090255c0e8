"""The loop over the plan against an engine that loses, delays, repeats and reorders answers, and kills actors."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_engine import BATCHES, FakeEngine, Tape, expected_lines, job, node
from layerscope.config import Config
from layerscope.engine import driver
from layerscope.engine.batches.lines import BatchLines
from layerscope.engine.budget import Budget
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.engine.interface import EngineLost
from layerscope.errors import LayerscopeError
from layerscope.questions.reading import FINAL

LINES = expected_lines()
FILE = b"".join(LINES)
LINE_ENDS = {0, *accumulate(len(line) for line in LINES)}
TAPE, TAPES = 60, 10
NODES = [node("a"), node("b")]
JOBS = {
    (actors, blocks, name): job(Config(device="cpu", gemma_actors=actors, layer_blocks=blocks, output_file=name), NODES)
    for actors in (1, 2, 3)
    for blocks in (1, 2, 3)
    for name in ("x.jsonl", "x.jsonl.zst")
}


@pytest.fixture(scope="module", autouse=True)
def _small_and_quick() -> Iterator[None]:
    """A window that is smaller than the plan; and the objects of this whole test process stay unfrozen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "BATCHES_PER_GEMMA_ACTOR", 1)
        patch.setattr(driver, "BATCHES_MORE", 1)
        patch.setattr(driver, "gc", SimpleNamespace(freeze=lambda: None, unfreeze=lambda: None))
        yield


def runs(
    engine: FakeEngine,
    the_job: Any,
    batches: Sequence[int] = range(len(BATCHES)),
    tell: Callable[[str], None] = lambda _: None,
) -> Driver:
    return Driver(the_job, batches, Crew(the_job, engine, tell), Budget(the_job, 1 << 30), tell)


def anything(examples: int) -> Callable[[Callable[[bytes], None]], Callable[[], None]]:
    """Gives a test tapes: ten in an example, because drawing one takes as long as running it."""
    quiet = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    drawn = given(data=st.binary(min_size=TAPE * TAPES, max_size=TAPE * TAPES))
    return lambda test: quiet(drawn(test))


@anything(examples=300)
def test_whatever_happens_the_file_is_a_prefix_and_a_run_that_ends_well_has_every_byte(data: bytes) -> None:
    """3,000 schedules, other ones each time."""
    check_schedules(data)


@pytest.mark.nightly
@anything(examples=10_000)
def test_whatever_happens_a_hundred_thousand_times(data: bytes) -> None:
    check_schedules(data)


def check_schedules(tapes: bytes) -> None:
    for start in range(0, len(tapes), TAPE):
        crew, length, *tape = tapes[start : start + TAPE]
        name = ("x.jsonl", "x.jsonl.zst")[crew // 9 % 2]
        check_schedule(1 + crew % 3, 1 + crew // 3 % 3, name, Tape(bytes(tape[: length % TAPE])))


def check_schedule(actors: int, blocks: int, name: str, tape: Tape) -> None:
    engine = FakeEngine(list(NODES), tape)
    # The batch whose turn it is may always begin, and what an encoder was given of one that is run again stays there.
    window = blocks * (actors + 1 + 1) + blocks * driver.CALLS_PER_ENCODER * (2 if name.endswith(".zst") else 1)
    written, failure = b"", ""
    try:
        for batch in runs(engine, JOBS[actors, blocks, name]).results(lambda: False):
            assert (batch.packed is not None) == name.endswith(".zst")
            written += text(batch)
            assert FILE.startswith(written)
            assert len(engine.store) <= window, "more is held than the window allows"
    except LayerscopeError as error:
        failure = str(error)
    if failure:
        assert "failed 5 times" in failure or "died 5 times" in failure
        assert engine.measured["batch_retries"] + engine.measured["actor_restarts"] >= 4
        assert len(written) in LINE_ENDS
    else:
        assert written == FILE
    assert engine.most_held <= window
    assert all(actor.dead for actor in engine.actors), "an actor was left behind"


def text(batch: BatchLines) -> bytes:
    return b"".join(batch.texts())


def file_of(engine: FakeEngine, tell: Callable[[str], None] = lambda _: None) -> bytes:
    return b"".join(text(batch) for batch in runs(engine, JOBS[1, 2, "x.jsonl"], tell=tell).results(lambda: False))


def test_a_batch_that_kills_its_actor_ends_the_run_after_five_times_and_names_its_questions() -> None:
    """Of the calls to a dead actor the oldest was at work: the one that waits behind it is not blamed."""
    engine = FakeEngine(list(NODES), kills_its_actor=2)
    written: list[BatchLines] = []
    with pytest.raises(LayerscopeError, match=r"Batch 2 \(questions 1, 3\) failed 5 times: it died"):
        written.extend(runs(engine, JOBS[1, 1, "x.jsonl"]).results(lambda: False))
    assert [batch.batch for batch in written] == [0, 1], "what comes before it is in the file"
    assert engine.measured["actor_restarts"] == 5


def test_a_known_error_ends_the_run_at_once_and_leaves_no_actor() -> None:
    engine = FakeEngine(list(NODES), error=LayerscopeError("Question 4 does not fit"))
    with pytest.raises(LayerscopeError, match="Question 4 does not fit"):
        file_of(engine)
    assert engine.measured["batch_retries"] == 0
    assert all(actor.dead for actor in engine.actors)


def test_an_engine_that_is_lost_ends_the_run_wherever_it_is() -> None:
    """While actors start, while they load, and at any wait behind that."""
    ended = 0
    for moment in range(100):
        engine = FakeEngine(list(NODES), lost_at_wait=moment)
        with contextlib.suppress(EngineLost):
            assert file_of(engine) == FILE
            break
        ended += 1
        assert engine.waits == moment + 1, "it went on asking"
    assert 5 < ended < 100


def test_a_kernel_that_never_ends_is_a_death_that_is_seen_late() -> None:
    told: list[str] = []
    engine = FakeEngine(list(NODES), hangs=1)
    assert file_of(engine, told.append) == FILE
    assert any("gave no answer for 1" in line and "is replaced" in line for line in told), told
    assert 1800 < engine.seconds < 2000
    assert engine.measured["actor_restarts"] == 1
    silences = [line for line in told if line.startswith("Nothing came back")]
    assert 3 < len(silences) < 7, "it is told ever more seldom"


def test_a_kernel_that_hangs_for_ever_ends_the_run() -> None:
    with pytest.raises(LayerscopeError, match="failed 5 times: gemma #0 on a gave no answer"):
        file_of(FakeEngine(list(NODES), hangs=1000))


def test_a_process_that_was_stopped_for_an_hour_goes_on_as_if_nothing_had_been() -> None:
    """Neither is an actor taken for hung, nor patience for run out: everybody slept."""
    engine = FakeEngine(list(NODES), sleeps=3600.0)
    assert file_of(engine) == FILE
    assert engine.seconds > 3600
    assert engine.measured["actor_restarts"] == 0


def test_a_stop_hands_out_nothing_more_and_ends_the_actors() -> None:
    engine = FakeEngine(list(NODES))
    written: list[BatchLines] = []
    written.extend(runs(engine, JOBS[1, 1, "x.jsonl"]).results(lambda: engine.measured["questions"] > 0))
    assert [batch.batch for batch in written] == [0]
    assert all(actor.dead for actor in engine.actors)


def test_only_the_batches_that_are_asked_for_come_in_their_order() -> None:
    got = [
        batch.batch for batch in runs(FakeEngine(list(NODES)), JOBS[2, 2, "x.jsonl"], [1, 3, 4]).results(lambda: False)
    ]
    assert got == [1, 3, 4]


def test_what_is_begun_and_not_written_is_bounded_by_a_share_of_the_object_store() -> None:
    """Batches of ten questions, foretold at 100 bytes each, then learnt to be larger; the store has 1,000 bytes."""
    the_job = SimpleNamespace(
        plan=SimpleNamespace(batch=lambda _: range(10)),
        layers=[0],
        d_read=1,
        numerics=SimpleNamespace(dtype="float32", batch_tokens=100),
        reading=FINAL,
        n_questions=10,
        estimated_bytes=lambda: 20,
        residual_bytes=lambda: 0,
    )
    budget = Budget(the_job, 1000)  # type: ignore[arg-type]
    begun = 0
    while budget.has_room(begun):
        budget.take(begun)
        begun += 1
    assert (begun, budget.taken) == (3, 300)
    budget.learn(0, 150)
    assert budget.taken == 350
    budget.free(1)
    budget.free(2)
    assert not budget.has_room(3), "a batch is now foretold at 230 bytes, beside the 150 of the first"
    budget.free(0)
    assert budget.taken == 0
    assert budget.has_room(3)


def test_a_run_gives_back_all_that_it_took_of_the_object_store() -> None:
    """Else a long run would end with one batch at a time."""
    the_job = JOBS[2, 2, "x.jsonl"]
    budget = Budget(the_job, 1 << 30)
    crew = Crew(the_job, FakeEngine(list(NODES)), lambda _: None)
    driver = Driver(the_job, range(len(BATCHES)), crew, budget, lambda _: None)
    taken = [budget.taken for _ in driver.results(lambda: False)]
    assert max(taken) > 0
    assert taken[-1] == pytest.approx(0)
