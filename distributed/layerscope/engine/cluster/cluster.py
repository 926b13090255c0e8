"""Joining a running Ray cluster or starting one on this machine; what its nodes have, as they come and go."""

import atexit
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler.sdk import request_resources
from ray.exceptions import AuthenticationError, RayError

from layerscope.config import Config
from layerscope.engine.cluster import nodes
from layerscope.engine.cluster.address import find_ray
from layerscope.engine.cluster.connecting import connect
from layerscope.engine.cluster.nodes import Nodes
from layerscope.engine.cluster.own_ray import hindrance, own_ray
from layerscope.engine.cluster.ray_engine import RayEngine
from layerscope.errors import LayerscopeError, first_line
from layerscope.planning.machine import probe
from layerscope.planning.node import Node

_PROBE_SECONDS = 60.0  # for the nodes that are there at the start to say what they have
_POLL_SECONDS = 2.0
# What Ray prints of an object whose batch was given up is no news: the driver runs the batch again.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
# An actor that asks for no GPU sees none, so that a run on CPUs leaves the GPUs of its nodes alone.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
if colours := sys.modules.get("colorama.initialise"):  # Ray's, which at the end takes back what nobody has set
    atexit.unregister(colours.reset_all)


class Cluster:
    """The Ray of a command: the one that `--address` names, joined; or one of its own, started when there is work.

    Args:
        add_nodes: where no node can take work yet, ask a cluster that scales itself for one, and wait for it.

    Raises:
        UsageError: the address is not one.
        LayerscopeError: there is no cluster at the address, none of its nodes takes work, or their software differs.
    """

    def __init__(self, config: Config, add_nodes: bool) -> None:
        wanted, self._looked_at = find_ray(config.address)
        self.told = _told(wanted, self._looked_at)
        """Which Ray the command uses, for people."""
        self._known = Nodes()
        self._joined = wanted
        self.nodes = [probe()]
        """Its nodes, or this machine."""
        if wanted is not None:
            _join(wanted)
            self.nodes = self._first_nodes(config, add_nodes)
            check_software(self.nodes)

    def hindrance(self) -> str:
        """Why no Ray of one's own could start here, where one is needed; empty where nothing is seen."""
        reason = hindrance() if self._joined is None else ""
        return f"Ray cannot start on this machine: {reason}." if reason else ""

    @contextmanager
    def engine(self, cpus: float, tell: Callable[[str], None]) -> Iterator[RayEngine]:
        """What actors can be started on; Ray is left at the end, and joined or started anew for what comes after.

        Args:
            cpus: what Ray's own is told to have, so that every actor asked for starts; threads decide what they use.
            tell: is told what a person should know of its nodes.
        """
        self._known.tell, self._known.at_work = tell, True
        if self._joined is not None:
            if not ray.is_initialized():
                _join(self._joined)
            try:
                yield RayEngine(self._known)
            finally:
                ray.shutdown()
            return
        if self._looked_at:
            tell(f"No running Ray was found ({self._looked_at}): this run starts its own.")
        with own_ray(math.ceil(cpus)) as deaths:
            yield RayEngine(self._known, lambda: deaths.lost)

    def _first_nodes(self, config: Config, add_nodes: bool) -> list[Node]:
        """Usable nodes, asking a cluster that scales itself for the first one."""
        found = self._known.usable(_PROBE_SECONDS)
        needs_gpu = config.device == "cuda" or bool(config.gpu_type)

        def suffices() -> bool:
            return any(node.gpus for node in found) if needs_gpu else bool(found)

        while not suffices() and self._known.awaited():  # no reason to ask for one more
            time.sleep(_POLL_SECONDS)
            found = self._known.usable()
        if suffices():
            return found
        asked = "GPU" if needs_gpu or config.device != "cpu" else "CPU"
        if not add_nodes:
            raise LayerscopeError(
                f"No node of the cluster takes work now (a {asked} is needed): it has {nodes.resources()}.\n"
                "A run would ask it for a node, which may cost; `plan` starts none. To plan for this machine: "
                "--address local."
            )
        request_resources(bundles=[{asked: 1}])
        try:
            patient_until = time.monotonic() + config.patience
            told = ""
            while not suffices():
                launched = nodes.launching()
                if launched and launched != told:
                    told = launched
                    self._known.tell(f"Waiting for the cluster's first node to work on: {launched}")
                if launched or self._known.awaited():
                    patient_until = time.monotonic() + config.patience
                elif time.monotonic() > patient_until:
                    raise LayerscopeError(
                        f"No node of the cluster takes work (a {asked} was asked for), and it is adding "
                        f"none.\nIt has {nodes.resources()}. Add a node with one, or use --device cpu or "
                        "--address local."
                    )
                time.sleep(_POLL_SECONDS)
                found = self._known.usable()
        finally:
            request_resources(bundles=[])  # a request outlives its job, and its nodes would never be idle
        return found


def _told(joined: str | None, looked_at: str) -> str:
    if joined is not None:
        return f"{joined} is joined"
    return "one of its own" + (f"; no running one was found: {looked_at}" if looked_at else "")


def _join(address: str) -> None:
    _show_token(address)
    try:
        connect(address=address)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise LayerscopeError(
            f"The Ray cluster at {address} cannot be joined: {first_line(error)}\n"
            "Check that it runs the same versions of Ray and Python, or use --address local."
        ) from error


def check_software(found: Sequence[Node]) -> None:
    """All nodes that work have the same versions, and this process the same but for torch's build.

    Raises:
        LayerscopeError: they differ; numbers would too, within one file.
    """
    here = {name: version.partition("+")[0] for name, version in probe().software}
    for node in found:
        for (name, version), (_, first) in zip(node.software, found[0].software, strict=True):
            if version != first or version.partition("+")[0] != here[name]:
                other, there = (found[0].name, first) if version != first else ("this machine", here[name])
                raise LayerscopeError(
                    f"{node.name} has {name} {version} and {other} has {there}: they may compute other numbers.\n"
                    "Install the same versions on every node."
                )


def _show_token(address: str) -> None:
    """Switches this process to token authentication where the cluster wants it: Ray itself tries for half a minute.

    Raises:
        LayerscopeError: the cluster wants a token, and there is none here or another one.
    """
    for enable in (maybe_enable_token_auth_if_token_available, None):
        try:
            GcsClient(address=address)
        except AuthenticationError as error:
            if enable is None or not enable(warn_if_disabled=False):
                raise LayerscopeError(
                    f"The Ray cluster at {address} wants its token, which is not here (or another one is).\n"
                    "Put it into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH."
                ) from error
        except (RayError, RuntimeError):
            return  # joining will say what is wrong
        else:
            return
