"""Chunks of clips from decoding processes, which may be brought down by what they decode."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from torch.distributed import TCPStore
from torch.utils.data import DataLoader

from hiera_video.streams.clip_stream import NOTHING, ClipStream, WorkQueue
from hiera_video.utils.distributed import all_gather_objects, is_initialized, is_main_process
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)
_ATTEMPTS = 1000  # more than there are within one generation of processes
_POLL_SEC = 5.0  # this soon the death of a process is noticed
_DYING_SEC = 1.0  # from a connection's end to that of its process
_MAX_IDLE_DEATHS = 10  # of processes that were at no video, before it is taken for more than bad luck
_TIMED_OUT = "DataLoader timed out"  # how torch's message begins


def open_queue(order: np.ndarray) -> tuple[WorkQueue, TCPStore]:
    """A queue that all processes of the group share, and this process's connection to its store. All must call it.

    Args:
        order: positions to give out; the main process's counts.
    """
    host = os.environ.get("MASTER_ADDR", "127.0.0.1") if is_initialized() else "127.0.0.1"
    server = TCPStore(host, 0, is_master=True, wait_for_workers=False) if is_main_process() else None
    queue = all_gather_objects(WorkQueue(order, host, server.port) if server else None)[0]
    return queue, server or queue.connect()


class ClipLoader:
    """Iterates over the chunks of a `ClipStream` that runs in other processes, in the order in which they get done.

    Where a process dies, or nothing comes for ``timeout_sec``, the video that it was at fails; what the others were at
    is done again by new processes, with a higher ``attempt``.

    Args:
        make_stream: the arguments of `ClipStream` beside its paths -> the stream.
        num_videos: length of the list.
        queue: what is left to do.
        num_workers: decoding processes; 0: this process decodes, and dies with what brings it down.
        chunks_ahead: chunks that each of them prepares.
        timeout_sec: without any chunk.
    """

    def __init__(
        self,
        make_stream: Callable[..., ClipStream],
        *,
        num_videos: int,
        queue: WorkQueue,
        num_workers: int,
        chunks_ahead: int = 2,
        timeout_sec: float = 600,
    ) -> None:
        self._make_stream, self._queue = make_stream, queue
        self._num_workers, self._chunks_ahead, self._timeout_sec = num_workers, chunks_ahead, timeout_sec
        self._progress = torch.full((max(num_workers, 1),), NOTHING, dtype=torch.int64).share_memory_()
        self._is_started = torch.zeros(num_videos, dtype=torch.bool).share_memory_()
        self._is_finished = torch.zeros(num_videos, dtype=torch.bool)
        self._num_idle_deaths = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        generation = 0
        failed: dict[int, str] | None = {}
        while failed is not None:
            chunks = self._start()
            failed = None
            with _undisturbed():
                try:
                    for chunk in self._await_chunks(chunks):
                        self._is_finished[chunk["index"]] |= chunk["is_last"]
                        yield {**chunk, "attempt": chunk["attempt"] + generation * _ATTEMPTS}
                except (RuntimeError, OSError, EOFError) as error:  # a death may show in a connection first
                    failed = self._find_culprits(chunks, error)
                del chunks  # ends the processes that are left
            generation += 1
            for index, reason in (failed or {}).items():
                self._is_finished[index] = True
                yield {"index": index, "attempt": generation * _ATTEMPTS, "failure": reason, "is_last": True}

    def _await_chunks(self, chunks: Any) -> Iterator[dict[str, Any]]:
        """The chunks. torch looks for dead processes where nothing comes, so it waits in short spans."""
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

    def _start(self) -> Any:
        """An iterator of a new set of processes."""
        unfinished = torch.nonzero(self._is_started & ~self._is_finished).flatten().tolist()
        self._progress.fill_(NOTHING)
        stream = self._make_stream(
            queue=replace(self._queue, redo=unfinished), progress=self._progress, is_started=self._is_started
        )
        poll_sec = min(_POLL_SEC, self._timeout_sec)
        several = {"prefetch_factor": self._chunks_ahead, "timeout": poll_sec, "in_order": False}
        loader = DataLoader(
            stream,
            batch_size=None,
            num_workers=self._num_workers,
            collate_fn=_keep,
            pin_memory=torch.cuda.is_available(),
            **(several if self._num_workers else {}),
        )
        return iter(loader)

    def _find_culprits(self, chunks: Any, error: Exception) -> dict[int, str]:
        """Video -> reason, of the processes that died, or that do not get on. Raises ``error`` where there is none."""
        workers = getattr(chunks, "_workers", ())
        is_stuck = str(error).startswith(_TIMED_OUT)
        ending = [] if is_stuck else wait([worker.sentinel for worker in workers], timeout=_DYING_SEC)
        for worker in workers:
            if worker.sentinel in ending:
                worker.join(_DYING_SEC)  # only then it has an exit code
        dead = {number: worker.exitcode for number, worker in enumerate(workers) if worker.exitcode}
        at = self._progress.tolist()
        if dead:
            culprits = {at[number]: f"its decoding process {_describe_exit(code)}" for number, code in dead.items()}
        elif is_stuck:
            culprits = dict.fromkeys(at, f"decoding gave nothing for {self._timeout_sec:g} s")
        else:
            raise error
        culprits = {i: told for i, told in culprits.items() if i != NOTHING and not self._is_finished[i]}
        self._num_idle_deaths += not culprits
        if self._num_idle_deaths > _MAX_IDLE_DEATHS or (is_stuck and not culprits):
            raise error
        logger.warning("decoding processes are started anew: %s", str(error).split("\n")[0])
        return culprits


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Lets no death of a decoding process interrupt what this process is at; the loader notices it by itself.

    torch's loader installs a handler that raises in the main thread, wherever that happens to be.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _keep(chunk: dict[str, Any]) -> dict[str, Any]:
    return chunk


def _describe_exit(exit_code: int) -> str:
    if exit_code > 0:
        return f"ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def order_by_size(sizes_bytes: Sequence[int | None]) -> np.ndarray:
    """Positions, the largest files first: what takes long begins early, so that no process is left with it at the end.

    Files of unknown size keep their order, behind the others.
    """
    sizes = np.array([-1 if size is None else size for size in sizes_bytes], dtype=np.int64)
    return np.argsort(-sizes, kind="stable")
