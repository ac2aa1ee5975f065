"""The clips of many videos as one stream; which videos, a queue decides while the work is being done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from hiera_video.streams.chunk import Chunk, Failure
from hiera_video.streams.clip_reader import ClipReader
from hiera_video.video import VideoDecodeError

NOTHING = -1


class ClipStream(IterableDataset[Chunk | Failure]):
    """Gives chunks of clips as it decodes them, and a `Failure` for each video that cannot be decoded.

    Args:
        paths: of all videos of the list.
        queue: positions of the videos that this process decodes, such as a `WorkQueue`.
        reader: makes the chunks of a video.
        progress: int64 (workers,), shared: the position of the video that each worker is decoding, or NOTHING.
        is_started: bool (videos,), shared: which videos a worker has begun.
    """

    def __init__(
        self,
        paths: np.ndarray,
        *,
        queue: Iterable[int],
        reader: ClipReader,
        progress: torch.Tensor | None = None,
        is_started: torch.Tensor | None = None,
    ) -> None:
        self.paths, self.queue, self.reader = paths, queue, reader
        self.progress, self.is_started = progress, is_started

    def __iter__(self) -> Iterator[Chunk | Failure]:
        for index in self.queue:
            self._note(index)
            yield from self._stream_video(index)
            self._note(NOTHING)

    def _note(self, index: int) -> None:
        info = get_worker_info()
        if self.progress is not None:
            self.progress[info.id if info else 0] = index
        if self.is_started is not None and index != NOTHING:
            self.is_started[index] = True

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
