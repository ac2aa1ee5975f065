"""Chunks of clips from decoding processes, which a damaged video may bring down."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import wait

import numpy as np
import torch
from torch.utils.data import DataLoader

from hiera_video.streams.chunk import Chunk, Failure
from hiera_video.streams.clip_reader import ClipReader
from hiera_video.streams.clip_stream import NOTHING, ClipStream
from hiera_video.streams.work_queue import WorkQueue
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)
_ATTEMPTS = 1000  # more than one generation of processes makes at a video
_POLL_SEC = 5.0  # the death of a process is noticed within this time
_DYING_SEC = 1.0  # a process ends within this time after its connection has
_MAX_IDLE_DEATHS = 10  # processes that died at no video; one more is no bad luck, but an error
_TIMED_OUT = "DataLoader timed out"  # how torch's message begins


class ClipLoader:
    """Gives the chunks of `ClipStream`s that run in other processes, in the order in which they are ready.

    If a process dies, or no chunk comes for ``timeout_sec``, the video that it was decoding fails. New processes decode
    the videos of the other processes again, with a higher ``attempt``.

    Args:
        paths: of all videos of the list.
        reader: makes the chunks of a video.
        queue: gives out what is left to do.
        num_workers: decoding processes; 0: this process decodes, and dies with what brings it down.
        chunks_ahead: chunks that each of them prepares.
        timeout_sec: the longest time without any chunk.
    """

    def __init__(
        self,
        paths: np.ndarray,
        *,
        reader: ClipReader,
        queue: WorkQueue,
        num_workers: int,
        chunks_ahead: int = 2,
        timeout_sec: float = 600,
    ) -> None:
        self._paths, self._reader, self._queue = paths, reader, queue
        self._num_workers, self._chunks_ahead, self._timeout_sec = num_workers, chunks_ahead, timeout_sec
        self._progress = torch.full((max(num_workers, 1),), NOTHING, dtype=torch.int64).share_memory_()
        self._is_started = torch.zeros(len(paths), dtype=torch.bool).share_memory_()
        self._is_finished = torch.zeros(len(paths), dtype=torch.bool)
        self._num_idle_deaths = 0

    def __iter__(self) -> Iterator[Chunk | Failure]:
        generation = 0
        failed: dict[int, str] | None = {}
        while failed is not None:
            chunks = self._start()
            failed = None
            with _undisturbed():
                try:
                    for chunk in self._await_chunks(chunks):
                        self._is_finished[chunk.index] |= chunk.is_last
                        yield replace(chunk, attempt=chunk.attempt + generation * _ATTEMPTS)
                except (RuntimeError, OSError, EOFError) as error:  # a death may show in a connection first
                    failed = self._find_culprits(chunks, error)
                del chunks  # ends the processes that are left
            generation += 1
            for index, reason in (failed or {}).items():
                self._is_finished[index] = True
                yield Failure(index, generation * _ATTEMPTS, reason)

    def _await_chunks(self, chunks: Iterator[Chunk | Failure]) -> Iterator[Chunk | Failure]:
        """The same chunks. torch looks for dead processes only when a wait ends, so this waits in short spans."""
        began = time.monotonic()
        while True:
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            except RuntimeError as error:
                if not str(error).startswith(_TIMED_OUT) or time.monotonic() - began >= self._timeout_sec:
                    raise
            else:
                yield chunk
                began = time.monotonic()

    def _start(self) -> Iterator[Chunk | Failure]:
        """An iterator over the chunks of a new set of processes."""
        unfinished = torch.nonzero(self._is_started & ~self._is_finished).flatten().tolist()
        self._progress.fill_(NOTHING)
        stream = ClipStream(
            self._paths,
            queue=self._queue.copy(redo=unfinished),
            reader=self._reader,
            progress=self._progress,
            is_started=self._is_started,
        )
        is_parallel = self._num_workers > 0
        loader = DataLoader(
            stream,
            batch_size=None,
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=self._chunks_ahead if is_parallel else None,
            timeout=min(_POLL_SEC, self._timeout_sec) if is_parallel else 0,
            in_order=not is_parallel,
        )
        return iter(loader)

    def _find_culprits(self, chunks: Iterator[Chunk | Failure], error: Exception) -> dict[int, str]:
        """Video -> reason, for the processes that died or make no progress. Raises ``error`` where there are none."""
        workers = getattr(chunks, "_workers", ())
        is_stuck = str(error).startswith(_TIMED_OUT)
        ending = [] if is_stuck else wait([worker.sentinel for worker in workers], timeout=_DYING_SEC)
        for worker in workers:
            if worker.sentinel in ending:
                worker.join(_DYING_SEC)  # it has an exit code only after this
        dead = {number: worker.exitcode for number, worker in enumerate(workers) if worker.exitcode}
        at = self._progress.tolist()
        if dead:
            culprits = {at[number]: f"its decoding process {_describe_exit(code)}" for number, code in dead.items()}
        elif is_stuck:
            culprits = dict.fromkeys(at, f"decoding gave nothing for {self._timeout_sec:g} s")
        else:
            raise error
        culprits = {i: reason for i, reason in culprits.items() if i != NOTHING and not self._is_finished[i]}
        self._num_idle_deaths += not culprits
        if self._num_idle_deaths > _MAX_IDLE_DEATHS or (is_stuck and not culprits):
            raise error
        logger.warning("decoding processes are started anew: %s", str(error).split("\n")[0])
        return culprits


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps the death of a decoding process from interrupting what this process is doing; the loader notices it itself.

    torch's loader installs a signal handler that raises in the main thread, wherever that happens to be.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _describe_exit(exit_code: int) -> str:
    if exit_code > 0:
        return f"ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
