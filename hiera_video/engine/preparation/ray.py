"""The job that prepares videos, on a Ray cluster: the same settings, the same files, bit for bit.

Each video is a task of one core. Nodes must see the videos and the output folder; this process writes everything else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from hiera_video.engine.preparation.job import prepare
from hiera_video.inspection.pool import WorkFailedError
from hiera_video.preparation.prepare_video import Outcome, Settings, Work

_POLL_SEC = 1.0


def prepare_on_ray(
    cfg: CfgNode, settings: Settings, *, address: str | None, num_workers: int, timeout_sec: float, **options: Any
) -> dict[str, Any]:
    """`job.prepare`, whose videos the processes of a cluster write.

    Args:
        cfg: see there.
        settings: see there.
        address: of the cluster; None: what Ray finds, or a local one.
        num_workers: videos that are prepared at the same time, one core each; 0: as many as the cluster has cores.
        timeout_sec: time limit for one video.
        **options: of `job.prepare`.

    Raises:
        ImportError: Ray is not installed.
    """
    import ray

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    num_workers = num_workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)

    def run(function: Callable[[Work], Outcome], works: Sequence[Work]) -> Iterator[tuple[Work, Any]]:
        return _map_works(function, works, num_workers=num_workers, timeout_sec=timeout_sec)

    return prepare(cfg, settings, num_workers=num_workers, timeout_sec=timeout_sec, map_works=run, **options)


def _map_works(
    function: Callable[[Work], Outcome], works: Sequence[Work], *, num_workers: int, timeout_sec: float
) -> Iterator[tuple[Work, Any]]:
    """As `inspection.pool.map_paths`: pairs as they become ready; a task that dies or takes too long is a failure."""
    import ray

    def call(work: Work) -> Outcome:
        return function(work)

    # Ray would start a task anew whose process dies, and the video that brings it down would do so again.
    task = ray.remote(num_cpus=1, max_retries=0)(call)
    todo = iter(works)
    running: dict[Any, tuple[Work, float]] = {}
    while True:
        while len(running) < num_workers and (work := next(todo, None)) is not None:
            running[task.remote(work)] = work, time.monotonic()
        if not running:
            return
        ready, _ = ray.wait(list(running), timeout=_POLL_SEC)
        for reference in ready:
            work, _ = running.pop(reference)
            yield work, _get_result(reference)
        late = [reference for reference, (_, began) in running.items() if time.monotonic() - began > timeout_sec]
        for reference in late:
            work, _ = running.pop(reference)
            ray.cancel(reference, force=True)
            yield work, WorkFailedError("stuck", f"not done after {timeout_sec:g} s")


def _get_result(reference: Any) -> Outcome | WorkFailedError:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return WorkFailedError("crashed", f"its process on the cluster ended: {str(error).splitlines()[0]}")
