"""The clips of many videos as one stream; which videos, a queue decides while the work is being done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset

from hiera_video.streams.chunk import Chunk, Failure
from hiera_video.streams.clip_reader import ClipReader
from hiera_video.utils.board import Board
from hiera_video.video import VideoDecodeError


class ClipStream(IterableDataset[Chunk | Failure]):
    """Gives chunks of clips as it decodes them, and a `Failure` for each video that cannot be decoded.

    Args:
        paths: of all videos of the list.
        queue: positions of the videos that this process decodes, such as a `WorkQueue`.
        reader: makes the chunks of a video.
        board: which video each worker is decoding.
        is_started: bool (videos,), shared: which videos a worker has begun.
    """

    def __init__(
        self,
        paths: np.ndarray,
        *,
        queue: Iterable[int],
        reader: ClipReader,
        board: Board | None = None,
        is_started: torch.Tensor | None = None,
    ) -> None:
        self.paths, self.queue, self.reader = paths, queue, reader
        self.board, self.is_started = board, is_started

    def __iter__(self) -> Iterator[Chunk | Failure]:
        for index in self.queue:
            if self.is_started is not None:
                self.is_started[index] = True
            # Between two pieces the worker waits for whoever takes them: then it is at nothing.
            pieces = self._stream_video(index)
            while (piece := self._make_next(pieces, index)) is not None:
                yield piece

    def _make_next(self, pieces: Iterator[Chunk | Failure], index: int) -> Chunk | Failure | None:
        if self.board is None:
            return next(pieces, None)
        self.board.enter(index)
        piece = next(pieces, None)
        self.board.leave()
        return piece

    def _stream_video(self, index: int) -> Iterator[Chunk | Failure]:
        path = str(self.paths[index])
        began, attempt = time.monotonic(), 0
        try:
            for chunk in self.reader.read(path, index=index):
                attempt = chunk.attempt
                yield chunk
                began = time.monotonic()
        except (VideoDecodeError, OSError, ValueError) as error:
            reason = str(error) if path in str(error) else f"{path}: {error}"
            yield Failure(index, attempt, reason, busy_sec=(began, time.monotonic()))
