"""Videos that training could not decode: gathered over all processes, logged once, limited together."""

from __future__ import annotations

from typing import Any

from hiera_video.data.samples import BadVideo
from hiera_video.engine.batch import check_bad_limit
from hiera_video.utils.distributed import all_gather_objects, is_main_process
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)


class BadVideos:
    """Distinct videos that could not be decoded so far, in any process of the group.

    Args:
        limit: more distinct bad files than this stop the job. A video that could only not be reached is counted apart.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.found: dict[int, BadVideo] = {}  # the same in all processes, by position in the list
        self._new: dict[int, BadVideo] = {}

    @property
    def num_bad(self) -> int:
        """How many files are bad."""
        return sum(not video.is_passing for video in self.found.values())

    @property
    def num_passing(self) -> int:
        """How many files could not be reached when they were wanted, and may be whole."""
        return sum(video.is_passing for video in self.found.values())

    def update(self, batch: dict[str, Any]) -> None:
        """Takes the ``bad`` entries of a batch of this process."""
        for video in batch["bad"]:
            if video.position not in self.found:
                self._new[video.position] = video

    def share(self) -> None:
        """Makes what each process has found known to all, which must all call it; the main process logs what is new.

        Raises:
            RuntimeError: more than ``limit`` files are bad; in all processes.
        """
        for part in all_gather_objects([tuple(video) for video in self._new.values()]):
            for video in (BadVideo(*fields) for fields in part):
                if video.position in self.found:
                    continue
                self.found[video.position] = video
                if is_main_process():
                    kind, count = ("unreachable", self.num_passing) if video.is_passing else ("bad", self.num_bad)
                    logger.warning("%s video %d: %s", kind, count, video.reason)
        self._new = {}
        check_bad_limit(self.num_bad, self.limit)

    def get_state(self) -> list[list[Any]]:
        """What a checkpoint keeps; call `share` before."""
        return [list(video) for video in self.found.values()]

    def set_state(self, state: list[list[Any]]) -> None:
        """Takes what `get_state` gave."""
        self.found = {fields[0]: BadVideo(*fields) for fields in state}
