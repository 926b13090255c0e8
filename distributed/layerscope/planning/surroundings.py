"""What `plan` says of this machine and of what it meets: what a helper of users asks first.

Says whether there is a login at the hub, and never the token.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from layerscope.errors import LayerscopeError, first_line, without_credentials
from layerscope.formatting import count_of, size_text
from layerscope.hub import cache
from layerscope.planning.describe import made_otherwise
from layerscope.planning.job import Job, check_space, download_bytes
from layerscope.planning.limits import limits
from layerscope.planning.node import Node, gpu_types
from layerscope.records.storage.stored_run import StoredRun
from layerscope.records.writing import locking

_ELSE = ("ray", "huggingface_hub")  # whose versions change no number


def surroundings(job: Job, nodes: Sequence[Node], ray: str, no_ray: str = "") -> str:
    """
    Args:
        nodes: that the run may use.
        ray: which Ray a run would use.
        no_ray: why it could not, a sentence; empty where nothing says so.
    """
    told = {"python": platform.python_version(), **dict(nodes[0].software), **{name: version(name) for name in _ELSE}}
    cards = [f"{count} x {name}" for name, count in sorted(gpu_types(nodes).items())]
    cards += sorted({node.trouble for node in nodes if node.trouble})
    allowed = limits()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    login = "yes" if huggingface_hub.get_token() else "no"
    lines = [
        f"versions   {', '.join(f'{name} {number}' for name, number in told.items())}",
        f"GPUs       {'; '.join(cards) or 'none'}",
        f"limits     {count_of(allowed.cpus, 'CPU')} and {size_text(allowed.memory)} of memory for this process, of "
        f"{os.cpu_count()} and {size_text(memory)} that the machine has",
        f"Ray        {ray}",
        f"hub        {without_credentials(constants.ENDPOINT)}, login: {login}, files kept in {constants.HF_HUB_CACHE}",
        f"free disk  {', '.join(_free(job))}",
        *(
            f"would stop {each}"
            for each in [*filter(None, [no_ray]), *obstacles(job)] or ["nothing that is seen from here"]
        ),
    ]
    return "\n".join(lines)


def obstacles(job: Job) -> list[str]:
    """What a run of the job would be refused for, though its plan can be made; a sentence each."""
    found = []
    try:
        check_space(job)
    except LayerscopeError as error:
        found.append(first_line(error))
    needed, free = download_bytes(job), _free_at(Path(constants.HF_HUB_CACHE))
    if needed > free:
        found.append(f"{constants.HF_HUB_CACHE} has {size_text(free)} free; {size_text(needed)} are to come there.")
    there = [file for file in job.output.files if file.is_file() and file.stat().st_size]
    found += [f"{file} is being written by another run." for file in there if locking.is_locked(file)][:1]
    if there and not job.output.overwrite and made_otherwise(job):
        found.append(f"{there[0]} holds a run with other settings; name another --output-file, or --overwrite it.")
    return found


def _free(job: Job) -> list[str]:
    """Each disk once: where the records go, downloads, what is derived from them, and Ray's own files."""
    places = {
        "hub": Path(constants.HF_HUB_CACHE),
        "cache": cache.cache_folder(),
        "temporary": Path(tempfile.gettempdir()),
    }
    if not isinstance(job.output.records, StoredRun):
        places = {"output": job.output.records.parent, **places}
    by_disk = dict[int, list[str]]()
    for name, place in places.items():
        by_disk.setdefault(_there(place).stat().st_dev, []).append(name)
    return [f"{size_text(_free_at(places[names[0]]))} for {' and '.join(names)}" for names in by_disk.values()]


def _free_at(place: Path) -> int:
    return shutil.disk_usage(_there(place)).free


def _there(place: Path) -> Path:
    """The folder, or the nearest above it that is there already."""
    return next(each for each in (place, *place.parents) if each.is_dir())
