"""How far an extraction is: a bar on a terminal, lines in the log."""

from __future__ import annotations

import time
from typing import Any

from tqdm import tqdm

from hiera_video.engine.extraction.rows import VideoRows
from hiera_video.engine.extraction.timing import WorkTimes
from hiera_video.engine.meters import format_duration
from hiera_video.streams.work_queue import WorkQueue
from hiera_video.utils.distributed import is_main_process
from hiera_video.utils.logging import get_logger, log_json_stats

logger = get_logger(__name__)
_REPORT_SEC = 30.0
_FAILURES_LOGGED = 20


class Progress:
    """Reports how far all processes are together. Use it as a context manager, which shows the bar.

    Args:
        output_dir: whose log gets the lines.
        rows: of this process.
        times: of this process.
        queue: counts the videos that all processes have ended.
    """

    def __init__(self, output_dir: str, rows: VideoRows, times: WorkTimes, queue: WorkQueue) -> None:
        self._output_dir, self._rows, self._times, self._queue = output_dir, rows, times, queue
        self._num_todo = len(queue.order)
        self._began = self._last_report = time.monotonic()
        self._num_reported = self._num_failures_logged = 0

    def __enter__(self) -> Progress:
        is_hidden = None if is_main_process() else True
        self._bar = tqdm(total=self._num_todo, desc="videos", leave=False, disable=is_hidden)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self) -> None:
        """Looks at what is new; cheap where nothing is."""
        self._log_failures()
        ended = self._rows.num_ended
        if ended == self._num_reported and time.monotonic() - self._last_report < _REPORT_SEC:
            return
        total = self._queue.count_ended(ended - self._num_reported)
        self._num_reported = ended
        self._bar.update(total - self._bar.n)
        if is_main_process() and time.monotonic() - self._last_report > _REPORT_SEC:
            self._last_report = time.monotonic()
            log_json_stats({"_type": "extract", **self.compute_stats(total)}, output_dir=self._output_dir)

    def compute_stats(self, num_ended: int) -> dict[str, Any]:
        """Speed of all processes together, which have ended ``num_ended`` videos, and how busy this one is."""
        seconds = time.monotonic() - self._began
        per_sec = num_ended / seconds
        return {
            "videos": f"{num_ended}/{self._num_todo}",
            "videos_per_sec": round(per_sec, 3),
            **self._times.summarize(seconds),
            "seconds": round(seconds, 1),
            "eta": format_duration((self._num_todo - num_ended) / per_sec) if per_sec else "unknown",
        }

    def _log_failures(self) -> None:
        if len(self._rows.failures) == self._num_failures_logged:
            return
        new = list(self._rows.failures.values())[self._num_failures_logged :]
        for reason in new[: max(_FAILURES_LOGGED - self._num_failures_logged, 0)]:
            logger.warning("no embeddings: %s", reason)
        self._num_failures_logged += len(new)
