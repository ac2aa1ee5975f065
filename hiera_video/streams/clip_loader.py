"""Chunks of clips from decoding processes, which a damaged video may bring down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader

from hiera_video.streams.chunk import Chunk, Failure
from hiera_video.streams.clip_reader import ClipReader
from hiera_video.streams.clip_stream import ClipStream
from hiera_video.streams.work_queue import WorkQueue
from hiera_video.utils.board import NOTHING, Board, find_dead, is_timeout, undisturbed
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)
_ATTEMPTS = 1000  # more than one generation of processes makes at a video
_POLL_SEC = 5.0  # the death of a process is noticed within this time
_MAX_IDLE_DEATHS = 10  # processes that died at no video; one more is no bad luck, but an error
_PATIENCE = 10  # times the time limit, until a silence without a culprit is an error


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
        self._board = Board(num_workers)
        self._is_started = torch.zeros(len(paths), dtype=torch.bool).share_memory_()
        self._is_finished = torch.zeros(len(paths), dtype=torch.bool)
        self._num_idle_deaths = 0

    def __iter__(self) -> Iterator[Chunk | Failure]:
        generation = 0
        failed: dict[int, str] | None = {}
        while failed is not None:
            chunks = self._start()
            failed = None
            with undisturbed():
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
                silence_sec = time.monotonic() - began
                if not is_timeout(error) or (silence_sec >= self._timeout_sec and self._is_anyone_late(silence_sec)):
                    raise
            else:
                yield chunk
                began = time.monotonic()

    def _start(self) -> Iterator[Chunk | Failure]:
        """An iterator over the chunks of a new set of processes."""
        unfinished = torch.nonzero(self._is_started & ~self._is_finished).flatten().tolist()
        self._board.clear()
        stream = ClipStream(
            self._paths,
            queue=self._queue.copy(redo=unfinished),
            reader=self._reader,
            board=self._board,
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

    def _is_anyone_late(self, silence_sec: float) -> bool:
        """Whether a process stands still; one that has only just begun, on a slow machine, does not."""
        return bool(self._board.find_busy(self._timeout_sec)) or silence_sec > _PATIENCE * self._timeout_sec

    def _find_culprits(self, chunks: Iterator[Chunk | Failure], error: Exception) -> dict[int, str]:
        """Video -> reason, for the processes that died or make no progress. Raises ``error`` where there are none."""
        is_stuck = is_timeout(error)
        if is_stuck:
            reason = f"decoding gave nothing for {self._timeout_sec:g} s"
            culprits = {index: reason for index, _ in self._board.find_busy(self._timeout_sec).values()}
        else:
            dead, at = find_dead(chunks), self._board.positions.tolist()
            if not dead:
                raise error
            culprits = {at[number]: f"its decoding process {how}" for number, how in dead.items() if how}
        culprits = {i: reason for i, reason in culprits.items() if i != NOTHING and not self._is_finished[i]}
        self._num_idle_deaths += not culprits
        if self._num_idle_deaths > _MAX_IDLE_DEATHS or (is_stuck and not culprits):
            raise error
        logger.warning("decoding processes are started anew: %s", str(error).split("\n")[0])
        return culprits
