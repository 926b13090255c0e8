"""The one call that connects this process to a Ray, its own or a running one."""

import logging
import site
from pathlib import Path
from typing import Any

import ray
from ray.job_config import JobConfig

_SOURCES = str(Path(__file__).parents[3])
"""The folder that layerscope itself was imported from."""


class _Job(JobConfig):
    """What actors are told of the driver: not, as Ray would have it, to import from its working folder.

    They import layerscope from where the driver did, if it is not among what is installed.
    """

    def _serialize(self) -> str:
        if self._py_driver_sys_path and _SOURCES in [*site.getsitepackages(), site.getusersitepackages()]:
            self._py_driver_sys_path.clear()
        elif self._py_driver_sys_path:  # empty for a job whose code was sent: that is where actors have it from
            self._py_driver_sys_path[:] = [_SOURCES]
        return super()._serialize()


def connect(**options: Any) -> None:
    """`ray.init`, without what it prints of what it does."""
    ray.init(job_config=_Job(), log_to_driver=False, logging_level=logging.ERROR, **options)
