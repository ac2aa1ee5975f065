"""Batches in their order, from decoding processes that a damaged video may bring down or to a halt."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

from hiera_video.data.samples import SampleDataset
from hiera_video.utils.board import NOTHING, Board, find_dead, is_timeout
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)

_POLL_SEC = 5.0  # a process that has died or stands still is noticed within this time
_WARN_SEC = 30.0  # a loader that has given nothing for so long says what its processes are at
_MAX_IDLE_DEATHS = 10  # processes that died at no video; one more is no bad luck, but an error


class _DueBatches:
    """The keys of an iteration's batches, as torch's loader asks for them.

    They are made when they are asked for: a million keys as Python objects would be in the memory of each process. Only
    the batches that have been asked for and have not come are kept, since new processes must begin with them.
    """

    def __init__(self) -> None:
        self._not_asked: Iterator[list[Any]] = iter(())
        self._not_come: deque[list[Any]] = deque()
        self._num_left = 0

    def begin(self, batches: BatchSampler) -> None:
        """Takes the batches of a new iteration."""
        self._not_asked, self._num_left = iter(batches), len(batches)
        self._not_come.clear()

    def take_off(self) -> None:
        """The batch that was due next has come."""
        self._not_come.popleft()
        self._num_left -= 1

    def __len__(self) -> int:
        return self._num_left

    def __iter__(self) -> Iterator[list[Any]]:
        again = list(self._not_come)
        yield from again
        for batch in self._not_asked:
            self._not_come.append(batch)
            yield batch


class BatchLoader:
    """Batches of a `SampleDataset`, always the same ones in the same order, however many processes decode them.

    If a process dies at a video, or is at one for longer than ``timeout_sec``, that video is given up: from then on it
    is a bad video like any other. New processes go on with the batch that is due next.

    The processes are kept from one iteration to the next. On Linux they are forks, whatever Python's own choice is, so
    that all of them share one copy of the list and the manifest. Nothing is drawn from the global random generators.

    Args:
        dataset: whose samples are asked for by the keys of the sampler.
        sampler: keys, in their order.
        batch_size: samples of a batch; the last one may have less.
        num_workers: decoding processes; 0: this process decodes, dies with what brings it down, and has no time limit.
        prefetch_factor: batches that each process prepares.
        pin_memory: whether batches come in page-locked memory.
        timeout_sec: the longest time for one video.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        *,
        sampler: Sampler,
        batch_size: int,
        num_workers: int,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        timeout_sec: float = 300.0,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.num_workers, self.timeout_sec = num_workers, timeout_sec
        self.board = Board(num_workers)
        self._batches = BatchSampler(sampler, batch_size, drop_last=False)
        self._options: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        if num_workers:
            self._options |= {"prefetch_factor": prefetch_factor, "persistent_workers": True}
            self._options["timeout"] = min(_POLL_SEC, timeout_sec)
            self._options["multiprocessing_context"] = "fork" if sys.platform == "linux" else None
            dataset.board = self.board
        self._due = _DueBatches()  # what torch's loader is asked for: it holds this very object
        self._loader: DataLoader | None = None
        self._num_idle_deaths = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._due.begin(self._batches)
        while len(self._due):
            batches = self._start()
            while len(self._due):
                batch = self._get_next(batches)
                if batch is None:
                    break  # some processes are gone; the next ones begin with what has not come
                self._due.take_off()
                yield batch

    def _start(self) -> Iterator[dict[str, Any]]:
        loader = self._loader or self._make_loader()
        try:
            batches = iter(loader)
        except (RuntimeError, OSError, EOFError) as error:  # processes have died since the last iteration
            logger.warning("decoding processes are started anew: %s", str(error).split("\n")[0])
            self._end_processes(loader._iterator)
            loader = self._make_loader()
            batches = iter(loader)
        self._loader = loader
        if self.num_workers and threading.current_thread() is threading.main_thread():
            # torch's handler would raise in the main thread, wherever it is, when a process dies. This loader looks.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches

    def _make_loader(self) -> DataLoader:
        # A generator of its own: torch would draw a seed from the global one, whenever processes are started.
        own = torch.Generator().manual_seed(0)
        collate = self.dataset.collate
        return DataLoader(self.dataset, batch_sampler=self._due, collate_fn=collate, generator=own, **self._options)

    def _get_next(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        """The next batch; None when the processes are lost and new ones are needed."""
        began, warn_after_sec = time.monotonic(), _WARN_SEC
        while True:
            try:
                return next(batches)
            except (RuntimeError, OSError, EOFError) as error:  # a death may show in a connection first
                if not self.num_workers:
                    raise
                if self._give_up_culprits(batches, error):
                    return None
            waited_sec = time.monotonic() - began
            if waited_sec > warn_after_sec:
                logger.warning("no batch has come for %.0f s; %s", waited_sec, self._describe_workers())
                warn_after_sec *= 2

    def _give_up_culprits(self, batches: Iterator[dict[str, Any]], error: Exception) -> bool:
        """Whether processes were lost; gives up the videos that they were at. Raises ``error`` if it is another one."""
        if is_timeout(error):
            late = self.board.find_busy(self.timeout_sec)
            reason = f"it gave no clips for {self.timeout_sec:g} s (DATA.TIMEOUT_SEC)"
            culprits = {position: reason for position, _ in late.values()}
            if not culprits:
                return False
        else:
            dead, at = find_dead(batches), self.board.positions.tolist()
            if not dead:
                raise error
            culprits = {at[worker]: f"its decoding process {how}" for worker, how in dead.items() if how}
            culprits.pop(NOTHING, None)
            self._num_idle_deaths += not culprits
            if self._num_idle_deaths > _MAX_IDLE_DEATHS:
                raise error
        self.dataset.given_up.update(culprits)
        names = ", ".join(str(self.dataset.videos.paths[position]) for position in culprits) or "no video"
        logger.warning("decoding processes are started anew: %s; at: %s", str(error).split("\n")[0], names)
        self._end_processes(batches)
        return True

    def _end_processes(self, batches: Any) -> None:
        for worker in batches._workers:
            worker.kill()  # one that hangs in a decoder would not hear anything else
        self._loader = None
        self.board.clear()

    def _describe_workers(self) -> str:
        busy = self.board.find_busy().values()
        at = [f"{self.dataset.videos.paths[position]} (for {seconds:.0f} s)" for position, seconds in busy]
        return f"the decoding processes are at: {', '.join(at) or 'nothing'}. DATA.TIMEOUT_SEC = {self.timeout_sec:g}"
