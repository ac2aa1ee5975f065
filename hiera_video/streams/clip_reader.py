"""The clips of one video, of any length, in one pass: only the frames of unfinished clips are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.data.loader import build_manifest
from hiera_video.data.transforms import ClipTransform, build_eval_transform
from hiera_video.streams.chunk import Chunk
from hiera_video.streams.windows import ClipPlan, ClipPlanner
from hiera_video.video import VideoReader
from hiera_video.video.attempts import start_over
from hiera_video.video.file_cache import build_file_cache
from hiera_video.video.manifest import open_video

_VIEWS_PER_CHUNK = 8


@dataclass(frozen=True, eq=False)
class ClipReader:
    """How videos become chunks of clips.

    Attributes:
        planner: chooses the clips of a video.
        transform: makes the views of a clip from its frames.
        clips_per_chunk: a chunk has at most so many clips.
        open_reader: opens the video at a path, see `hiera_video.video.manifest.open_video`.
    """

    planner: ClipPlanner
    transform: ClipTransform
    clips_per_chunk: int
    open_reader: Callable[[str], VideoReader] = open_video

    def read(self, path: str, *, index: int = 0) -> Iterator[Chunk]:
        """Decodes a video from front to back.

        Args:
            path: of the video.
            index: the position that the chunks carry.

        Raises:
            VideoDecodeError, OSError, ValueError: the video cannot be opened or decoded, or has no such clips.
        """
        began = time.monotonic()
        with self.open_reader(path) as video:
            for attempt, (plan, first, views) in start_over(path, lambda: self._read_once(video)):
                end = min(first + self.clips_per_chunk, len(plan))
                yield Chunk(
                    index=index,
                    attempt=attempt,
                    num_clips=len(plan),
                    first_clip=first,
                    views=views,
                    spans_sec=plan.spans_sec[first:end],
                    is_last=end == len(plan),
                    busy_sec=(began, time.monotonic()),
                )
                began = time.monotonic()

    def _read_once(self, video: VideoReader) -> Iterator[tuple[ClipPlan, int, torch.Tensor]]:
        """For each chunk: the plan of the video, the number of its first clip, its views (n * crops, C, T, H, W)."""
        plan = self.planner.plan(video.index)
        frames = video.iterate_frames(np.unique(plan.frames).tolist())
        clips = _cut_clips(plan, frames, self.transform)
        for first in range(0, len(plan), self.clips_per_chunk):
            yield plan, first, torch.cat(list(islice(clips, self.clips_per_chunk)))


def _cut_clips(
    plan: ClipPlan, frames: Iterator[tuple[int, torch.Tensor]], transform: ClipTransform
) -> Iterator[torch.Tensor]:
    """The views (crops, C, T, H, W) of each clip in order, as soon as its last frame is decoded."""
    last_user = {position: clip for clip, row in enumerate(plan.frames.tolist()) for position in row}
    complete_at = np.maximum.accumulate(plan.frames.max(axis=1))
    kept: dict[int, torch.Tensor] = {}  # position -> prepared frame (h, w, C)
    clip = 0
    for position, frame in frames:
        kept[position] = transform.prepare(frame[None])[0]
        while clip < len(plan) and complete_at[clip] <= position:
            row = plan.frames[clip].tolist()
            yield make_views(transform, [kept[place] for place in row])
            for place in set(row):
                if last_user[place] == clip:
                    del kept[place]
            clip += 1


def make_views(transform: ClipTransform, frames: Sequence[torch.Tensor]) -> torch.Tensor:
    """The views of a clip of T prepared frames (h, w, C): uint8 (crops, C, T, H, W)."""
    views = torch.empty((transform.num_crops, 3, len(frames), transform.size_px, transform.size_px), dtype=torch.uint8)
    transform.write_views(frames, views)
    return views


def build_clip_reader(
    cfg: CfgNode,
    planner: ClipPlanner,
    *,
    num_crops: int,
    views_per_chunk: int = _VIEWS_PER_CHUNK,
    listed: np.ndarray | None = None,
) -> ClipReader:
    """The one way in which extraction, prediction and queries open the videos of a config and cut their views.

    Args:
        cfg: DATA says how videos are decoded, resized and cropped.
        planner: chooses the clips of a video.
        num_crops: views of a clip.
        views_per_chunk: a chunk has at most so many views, and at least one clip.
        listed: paths of the videos of a list, which are then looked up in DATA.MANIFEST.

    Raises:
        ValueError: an argument out of range, or a manifest that is none.
    """
    data = cfg.DATA
    transform = build_eval_transform(cfg, num_crops=num_crops, crop_size_px=data.TEST_CROP_SIZE)
    return ClipReader(
        planner,
        transform,
        clips_per_chunk=max(views_per_chunk // num_crops, 1),
        open_reader=partial(
            open_video,
            manifest=None if listed is None else build_manifest(cfg, listed),
            backend=data.DECODING_BACKEND,
            max_short_side_px=data.MAX_SHORT_SIDE,
            cache=build_file_cache(cfg),
        ),
    )
