"""The writers' posts: which nodes are whose, as nodes come and go. What is written is the business of `writers.py`.

Knows no Ray: `interface.py` is all it sees of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from layerscope.engine.interface import Engine, Handle, Reference
from layerscope.errors import LayerscopeError, first_line
from layerscope.formatting import count_of
from layerscope.planning.job import Job
from layerscope.planning.node import Node
from layerscope.planning.placing import suited
from layerscope.planning.shares import Share, share_of, shares_of
from layerscope.records.totals import Totals


@dataclass
class Part:
    """What the head knows of a part."""

    number: int
    """The first is 1."""
    planned: int
    totals: Totals
    """As far as is known."""
    again: bool = False
    """A writer of this run has had it."""
    deaths: int = 0
    """Of writers, one after the other, none of which wrote a line."""
    left: int = 0
    """Lines with errors that were to be computed again and were not."""
    elsewhere: str = ""
    """The node on whose own disk it lies; empty where the head sees it."""
    node_id: str = ""
    """Of that node, as the engine knows it."""

    @property
    def complete(self) -> bool:
        return self.totals.questions >= self.planned and not self.left


@dataclass(eq=False)
class Post:
    """A share of the machines, and the writer that has it now."""

    share: Share
    handle: Handle = None
    part: Part | None = None
    node_id: str = ""
    node_name: str = ""
    awaited: dict[Reference, str] = field(default_factory=dict)
    """By what is waited for, the method that it is the answer of."""
    told_to_stop: bool = False
    cramped: bool = False
    """What it has left of its nodes is too little for the whole of its actors: it takes no other part."""
    slice_of: str = field(init=False)
    """The node that it shares with others; empty for none."""

    def __post_init__(self) -> None:
        self.slice_of = self.share.nodes[0].identity if self.share.writers_here > 1 else ""

    @property
    def node_ids(self) -> set[str]:
        return {node.identity for node in self.share.nodes}

    @property
    def writes(self) -> bool:
        return "run" in self.awaited.values()

    def ask(self, engine: Engine, method: str, *arguments: Any) -> None:
        """Calls its writer and awaits the answer."""
        (reference,) = engine.submit(self.handle, method, arguments)
        self.awaited[reference] = method

    def stop(self, engine: Engine) -> None:
        """Tells its writer to stop, once."""
        if not self.told_to_stop:
            self.told_to_stop = True
            self.ask(engine, "stop")

    def release(self, engine: Engine) -> None:
        """Ends its writer's process, if there is one; its actors go with it."""
        if self.handle is not None:
            engine.end(self.handle)
        self.handle, self.part, self.node_id, self.told_to_stop = None, None, "", False
        self.awaited.clear()


class Posts:
    """All posts, and the nodes that nobody has.

    Args:
        shares: of those who can be at work at once.
        tell: is told what a person should know.
    """

    def __init__(self, job: Job, shares: Sequence[Share], engine: Engine, tell: Callable[[str], None]) -> None:
        self.all = [Post(share) for share in shares]
        self._job, self._engine, self._tell = job, engine, tell
        self._known = {node.identity: node.name for share in shares for node in share.nodes}
        self._own_ray = "" in self._known  # which stays as it is
        self._free: list[Node] = []
        self._able = engine.now()

    def idle(self) -> list[Post]:
        """Those who can take a part."""
        staying = self._staying()
        able = [post for post in self.all if post.part is None and not post.cramped]
        return [post for post in able if self._own_ray or post.node_ids <= staying]

    def tend(self, waiting: int) -> None:
        """Gives every node to somebody who can use it; posts on a node that leaves are told to stop.

        Args:
            waiting: how many parts are nobody's.

        Raises:
            LayerscopeError: no writer has a node, and none is on its way.
        """
        if self._own_ray:
            return
        there, leaving = self._engine.node_ids(), self._engine.leaving()
        for post in list(self.all):
            self._keep(post, there - leaving, waiting)
            if post.writes and not post.node_ids & there:  # it is elsewhere than its actors, which are gone
                post.stop(self._engine)
            elif post.writes and post.node_id in leaving and not post.told_to_stop:
                self._tell(f"{post.node_name} is about to leave the cluster: its writer's part goes on elsewhere.")
                post.stop(self._engine)
        for identity in sorted(self._known.keys() - there):
            self._tell(f"{self._known.pop(identity)} left the cluster.")
        given = [node for node in self._free if node.identity in there - leaving]
        for node in suited(self._job.crew, self._engine.usable_nodes()):
            if node.identity not in self._known:
                self._known[node.identity] = node.name
                self._tell(f"{node.name} joined the cluster.")
                given.append(node)
        self._free = []
        for number, node in enumerate(given):
            self._give(node, ceil(self._writers_lacking(waiting) / (len(given) - number)))
        self._look_for_a_way_on(waiting)

    def leave_out(self, post: Post) -> None:
        """Gives up a post on whose nodes its actors find no room, whatever Ray says that they have."""
        post.release(self._engine)
        self.all.remove(post)

    def _staying(self) -> set[str]:
        return self._engine.node_ids() - self._engine.leaving()

    def _keep(self, post: Post, staying: set[str], waiting: int) -> None:
        """A post on the nodes that it still has. One without any is given up; one without work gives them away, but for
        a slice of one, whose others are at work."""
        left = [node for node in post.share.nodes if node.identity in staying]
        if post.part is None and post.cramped:
            self._free += left
            left = []
        elif post.part is None and not waiting:
            self._free += [node for node in left if node.identity != post.slice_of]
            left = [node for node in left if node.identity == post.slice_of]
        if post.part is None and not left:
            self.all.remove(post)
        elif left and len(left) < len(post.share.nodes):
            try:
                self._use(post, left)
            except LayerscopeError:  # its actors are where they were, or wait for room: its crew sees to that
                post.cramped, post.share = True, replace(post.share, nodes=tuple(left))

    def _use(self, post: Post, nodes: Sequence[Node]) -> None:
        """Has a post use other nodes.

        Raises:
            LayerscopeError: its actors do not find room there, or their numbers may be others.
        """
        post.share = share_of(self._job, post.share.crew, nodes, post.share.writers_here)
        post.cramped = False
        if post.handle is not None:
            post.ask(self._engine, "use", list(nodes))

    def _writers_lacking(self, waiting: int) -> int:
        """How many writers more would find a part to write, and a Gemma actor where their number is given."""
        lacking = waiting - len([post for post in self.all if post.part is None and not post.cramped])
        return lacking if self._job.crew.gemma_actors is None else min(lacking, self._actors_left())

    def _actors_left(self) -> int:
        """Of the Gemma actors that were asked for, those that nobody has."""
        return (self._job.crew.gemma_actors or 0) - sum(post.share.crew.gemma_actors or 0 for post in self.all)

    def _give(self, node: Node, writers: int) -> None:
        """Gives a node to so many new writers; where none is lacking, to the one that has the fewest GPUs or nodes."""
        working = [post for post in self.all if post.part is not None]
        try:
            if writers > 0:
                actors = None if self._job.crew.gemma_actors is None else self._actors_left()
                self.all += [Post(share) for share in shares_of(self._job, node, writers, actors)]
            elif working:
                fewest = min(working, key=lambda post: sum(max(1, len(node.gpus)) for node in post.share.nodes))
                self._use(fewest, [*fewest.share.nodes, node])
            else:
                self._free.append(node)
        except LayerscopeError as error:
            self._tell(f"{node.name} is left out: {first_line(error)}")

    def _look_for_a_way_on(self, waiting: int) -> None:
        now = self._engine.now()
        if self.all or not waiting:
            self._able = now
        elif now - self._able > self._job.patience and not self._engine.launching():
            raise LayerscopeError(
                f"For {now - self._able:.0f} s no node could take a writer, and {count_of(waiting, 'part')} "
                f"{'is' if waiting == 1 else 'are'} not finished; the cluster has {self._engine.resources()}.\n"
                "Add nodes and run again to go on; --patience waits longer."
            )
