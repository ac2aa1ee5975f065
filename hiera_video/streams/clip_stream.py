"""The clips of many videos as one stream: each video is decoded once, front to back, whatever its length.

Who decodes which video is decided while it happens: processes draw from a `WorkQueue`, on one machine or on several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.distributed import TCPStore
from torch.utils.data import IterableDataset, get_worker_info

from hiera_video.data.transforms import ClipTransform
from hiera_video.streams.windows import ClipPlan, ClipPlanner
from hiera_video.video import FramesChangedError, VideoDecodeError, VideoReader
from hiera_video.video.manifest import open_video

_MAX_ATTEMPTS = 3  # a video whose damage shows only in decoding is started over
_TIMEOUT = timedelta(minutes=5)
NOTHING = -1


@dataclass
class WorkQueue:
    """Positions in a list, each given out once, to whoever asks next; the processes share a counter in a `TCPStore`.

    Attributes:
        order: int64 (n,), what is given out, in this order. The longest work belongs first: then no process has a long
            piece left when the others have finished.
        host: where the store is.
        port: of the store.
        redo: given out before `order`, by the processes of one loader alone: what another process did not finish.
    """

    order: np.ndarray
    host: str
    port: int
    redo: Sequence[int] = ()

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info else (0, 1)
        yield from self.redo[number::count]
        store = self.connect()
        while (drawn := store.add("drawn", 1) - 1) < len(self.order):
            yield int(self.order[drawn])

    def connect(self) -> TCPStore:
        """A connection of this process's own: one that was made before a fork must not be shared."""
        return TCPStore(self.host, self.port, is_master=False, timeout=_TIMEOUT)


class ClipStream(IterableDataset):
    """Chunks of clips, as they get decoded. A chunk is a dict:

    - ``index``: position of the video in the list; ``attempt``: chunks of a lower one are void; ``number_of_clips``
    - ``first_clip``: number of the chunk's first clip
    - ``views``: uint8 (n * crops, C, T, H, W), the crops of a clip together
    - ``spans_sec``: float64 (n, 2); ``is_last``: whether the video ends here
    - ``failure``: None, or why the video cannot be decoded; such a chunk has no clips and is the last one
    - ``busy_sec``: when its decoding began and ended, by `time.monotonic`

    Args:
        paths: of the videos.
        queue: which of them this process decodes.
        planner: chooses the clips of a video.
        transform: frames of a clip -> its views.
        clips_per_chunk: at most.
        open_reader: path -> `VideoReader`; see `open_video`.
        progress: int64 (workers + 1,), shared: what each worker is at, NOTHING when it is at nothing.
        is_started: bool (videos,), shared: which videos have been drawn.
    """

    def __init__(
        self,
        paths: np.ndarray,
        *,
        queue: WorkQueue,
        planner: ClipPlanner,
        transform: ClipTransform,
        clips_per_chunk: int,
        open_reader: Callable[[str], VideoReader],
        progress: torch.Tensor | None = None,
        is_started: torch.Tensor | None = None,
    ) -> None:
        self.paths, self.queue, self.planner, self.transform = paths, queue, planner, transform
        self.clips_per_chunk, self.open_reader = clips_per_chunk, open_reader
        self.progress, self.is_started = progress, is_started

    def __iter__(self) -> Iterator[dict[str, Any]]:
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

    def _stream_video(self, index: int) -> Iterator[dict[str, Any]]:
        path = str(self.paths[index])
        chunks = stream_clips(
            path,
            planner=self.planner,
            transform=self.transform,
            clips_per_chunk=self.clips_per_chunk,
            open_reader=self.open_reader,
        )
        began, attempt = time.monotonic(), 0
        try:
            for chunk in chunks:
                attempt = chunk["attempt"]
                yield {"index": index, "failure": None, **chunk, "busy_sec": (began, time.monotonic())}
                began = time.monotonic()
        except (VideoDecodeError, OSError, ValueError) as error:
            reason = str(error) if path in str(error) else f"{path}: {error}"
            busy_sec = began, time.monotonic()
            yield {"index": index, "attempt": attempt, "failure": reason, "is_last": True, "busy_sec": busy_sec}


def stream_clips(
    path: str,
    *,
    planner: ClipPlanner,
    transform: ClipTransform,
    clips_per_chunk: int,
    open_reader: Callable[[str], VideoReader] = open_video,
) -> Iterator[dict[str, Any]]:
    """The clips of one video, chunk by chunk; only the frames of unfinished clips are kept.

    Yields:
        dicts with ``attempt``, ``number_of_clips``, ``first_clip``, ``views``, ``spans_sec``, ``is_last``, see
        `ClipStream`.

    Raises:
        VideoDecodeError, OSError, ValueError: the video cannot be opened, decoded or planned for.
    """
    with open_reader(path) as reader:
        for attempt in range(_MAX_ATTEMPTS):
            try:
                for chunk in _make_chunks(reader, planner.plan(reader.index), transform, clips_per_chunk):
                    yield {"attempt": attempt, **chunk}
                return
            except FramesChangedError:
                continue
        raise VideoDecodeError(f"{path}: its frames change each time that it is decoded")


def _make_chunks(
    reader: VideoReader, plan: ClipPlan, transform: ClipTransform, clips_per_chunk: int
) -> Iterator[dict[str, Any]]:
    first = 0
    clips: list[torch.Tensor] = []
    for clip in _cut_clips(plan, reader.iterate_frames(np.unique(plan.frames).tolist()), transform):
        clips.append(clip)
        number = first + len(clips)
        if len(clips) == clips_per_chunk or number == len(plan):
            yield {
                "number_of_clips": len(plan),
                "first_clip": first,
                "views": torch.cat(clips),  # (n * crops, C, T, H, W)
                "spans_sec": plan.spans_sec[first:number],
                "is_last": number == len(plan),
            }
            first, clips = number, []


def _cut_clips(
    plan: ClipPlan, frames: Iterator[tuple[int, torch.Tensor]], transform: ClipTransform
) -> Iterator[torch.Tensor]:
    """The views (crops, C, T, H, W) of each clip in order, as soon as its last frame has come."""
    last_user = {position: clip for clip, row in enumerate(plan.frames.tolist()) for position in row}
    complete_at = np.maximum.accumulate(plan.frames.max(axis=1))
    kept: dict[int, torch.Tensor] = {}  # position -> prepared frame (h, w, C)
    clip = 0
    for position, frame in frames:
        kept[position] = transform.prepare(frame[None])[0]
        while clip < len(plan) and complete_at[clip] <= position:
            row = plan.frames[clip].tolist()
            size = transform.size_px
            views = torch.empty((transform.num_crops, 3, len(row), size, size), dtype=torch.uint8)
            transform.write_views([kept[place] for place in row], views)
            for place in set(row):
                if last_user[place] == clip:
                    del kept[place]
            yield views
            clip += 1
