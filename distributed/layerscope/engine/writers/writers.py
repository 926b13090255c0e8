"""The head of a run of parts: which writer has which part, and what becomes of it when the writer dies.

No record passes through it. A part is given to one writer at a time; one whose writer or node died, or has to leave, is
given to another, which goes on where the file ends. Knows no Ray: `interface.py` is all it sees of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from layerscope.engine.interface import Engine, Handle, MachineFault, NoRoom, Reference
from layerscope.engine.writers.posts import Part, Post, Posts
from layerscope.engine.writers.writer import News, Outcome, ShownAtWork, Task
from layerscope.errors import LayerscopeError, first_line
from layerscope.planning.shares import Share
from layerscope.records.totals import Totals

MAX_DEATHS = 5  # of writers of one part, one after the other, none of which wrote a line
_WAIT_SECONDS = 0.5
_TEND_SECONDS = 2.0
_STOP_SECONDS = 60.0  # in which writers that are told to stop have stopped


@dataclass(frozen=True)
class ToWrite:
    """What there is to do, and how."""

    run: Path
    """Of parts."""
    manifest: bytes
    """As it lies where the head is."""
    parts: Sequence[Part]
    """In the order of the plan."""
    task: Callable[[int, Share, bool], Task]
    """That of a part's number, for a share, and whether another writer has had it."""
    start: Callable[[str], Handle]
    """Starts a writer on a node."""


class Writers:
    """Has every part written; `run` comes back when all are, or when it is stopped.

    Args:
        stopped: whether to come to an end.
    """

    def __init__(
        self, to_write: ToWrite, posts: Posts, engine: Engine, shown: ShownAtWork, stopped: Callable[[], bool]
    ) -> None:
        self._to_write, self._posts, self._engine, self._shown, self._stopped = to_write, posts, engine, shown, stopped
        self._waiting = list[tuple[bool, int]]()  # a heap: last those that have all lines, which are only looked at
        for part in to_write.parts:
            self._put_in_line(part)
        self._stopping_since: float | None = None
        self._error: LayerscopeError | None = None
        self._other_disks = set[str]()
        self.lost = 0
        """Writers that died."""
        self._tended = engine.now()

    def run(self) -> None:
        """
        Raises:
            LayerscopeError: a fault that a retry does not mend; all writers have stopped, with whole lines.
        """
        try:
            while self._goes_on():
                if self._stopped() or self._error:
                    self._stop()
                else:
                    self._begin()
                awaited = [reference for post in self._posts.all for reference in post.awaited]
                for reference in self._engine.wait(awaited, _WAIT_SECONDS):
                    self._take(reference)
                self._show()
        finally:
            for post in self._posts.all:
                post.release(self._engine)
        if self._error is not None:
            raise self._error

    def _goes_on(self) -> bool:
        at_work = any(post.part for post in self._posts.all)
        if self._stopping_since is None:
            return at_work or bool(self._waiting)
        return at_work and self._engine.now() - self._stopping_since < _STOP_SECONDS

    def _begin(self) -> None:
        """Gives waiting parts to whoever can take one; looks after the nodes now and then."""
        if self._engine.now() - self._tended > _TEND_SECONDS:
            self._tended = self._engine.now()
            self._posts.tend(len(self._waiting))
            self._miss_finished_parts()
        for post in self._posts.idle() if self._waiting else []:
            if self._waiting:
                post.part = part = self._to_write.parts[heappop(self._waiting)[1] - 1]
                # After a death anywhere: its node may be gone, and nobody has noticed yet.
                post.handle = self._to_write.start("" if part.deaths else post.share.nodes[0].identity)
                post.ask(self._engine, "begin", self._to_write.run, self._to_write.manifest)

    def _take(self, reference: Reference) -> None:
        """Takes an answer of a writer."""
        post = next((post for post in self._posts.all if reference in post.awaited), None)
        if post is None or post.part is None:
            return  # it was given up a moment ago
        method, part = post.awaited.pop(reference), post.part
        try:
            answer: Any = self._engine.fetch(reference)
        except MachineFault as fault:
            self._lose(post, part, fault)
            return
        except LayerscopeError as error:
            if isinstance(error, NoRoom) and any(other.part for other in self._posts.all if other is not post):
                nodes = ", ".join(node.name for node in post.share.nodes)
                self._shown.note(f"{self._name(part)} goes on elsewhere; {nodes} is left out: {first_line(error)}")
                self._posts.leave_out(post)
                self._put_in_line(part)
                return
            self._error = self._error or error
            post.release(self._engine)
            return
        if method == "begin":
            self._welcome(post, part, answer)
        elif method == "news":
            self._hear(part, answer)
            post.ask(self._engine, "news")
        elif method == "run":
            self._end(post, part, answer)

    def _welcome(self, post: Post, part: Part, place: tuple[str, str, bool]) -> None:
        """A writer is there: it gets its part."""
        post.node_id, post.node_name, sees_the_run = place
        part.elsewhere, part.node_id = ("", "") if sees_the_run else (post.node_name, post.node_id)
        if not sees_the_run and post.node_name not in self._other_disks:
            self._other_disks.add(post.node_name)
            self._shown.note(
                f"{self._to_write.run.parent} on {post.node_name} is another than here: parts that are written there "
                "stay there, and if that node is lost they are computed again. A folder that all share has neither."
            )
        post.ask(self._engine, "run", self._to_write.task(part.number, post.share, part.again), post.share)
        post.ask(self._engine, "news")
        part.again = True

    def _hear(self, part: Part, news: News) -> None:
        if news.totals.questions > part.totals.questions:
            part.deaths = 0
        part.totals = news.totals
        if news.at_work:
            self._shown.begin()
        self._shown.begin_again(news.begun_again)
        for note in news.notes:
            self._shown.note(f"{self._name(part)}: {note}")

    def _end(self, post: Post, part: Part, outcome: Outcome) -> None:
        """A writer has come to its end: of its part, or because it was told to stop."""
        self._hear(part, outcome.news)
        part.left = outcome.left
        post.release(self._engine)
        if outcome.lines < part.planned or outcome.left:
            self._put_in_line(part)

    def _lose(self, post: Post, part: Part, fault: MachineFault) -> None:
        """A writer died: its part is given to another, which goes on where the file ends."""
        post.release(self._engine)
        part.deaths += 1
        if part.deaths >= MAX_DEATHS:
            self._error = self._error or LayerscopeError(
                f"The writer of {self._name(part)} died {MAX_DEATHS} times: {first_line(fault)}\n"
                "What is in the files is whole; look at its node's memory, and run again to go on."
            )
            return
        if self._stopping_since is None:
            self._shown.note(f"The writer of {self._name(part)} died and is replaced: {first_line(fault)}")
        self._engine.measure("actor_restarts", 1, role="writer")
        self.lost += 1
        self._put_in_line(part)

    def _miss_finished_parts(self) -> None:
        """A finished part whose node is gone, with the disk on which it was, is written again."""
        there, at_work = self._engine.node_ids(), [post.part for post in self._posts.all]
        for part in self._to_write.parts:
            if part.complete and part.node_id and part.node_id not in there and part not in at_work:
                self._shown.note(f"{self._name(part)} was on {part.elsewhere}, which is gone: it is computed again.")
                part.totals, part.elsewhere, part.node_id = Totals(), "", ""
                self._put_in_line(part)

    def _put_in_line(self, part: Part) -> None:
        heappush(self._waiting, (part.complete, part.number))

    def _stop(self) -> None:
        """Tells every writer to stop; one that has not begun is sent away."""
        if self._stopping_since is None:
            self._stopping_since = self._engine.now()
        for post in self._posts.all:
            if post.writes:
                post.stop(self._engine)
            elif post.part is not None:
                self._put_in_line(post.part)
                post.release(self._engine)

    def _show(self) -> None:
        self._shown.totals = Totals.of_all(part.totals for part in self._to_write.parts)
        self._shown.update()

    def _name(self, part: Part) -> str:
        return f"part {part.number} of {len(self._to_write.parts)}"
