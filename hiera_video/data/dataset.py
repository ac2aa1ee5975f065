"""One dataset over a list of (path, label): decodes each video once and cuts every clip and view from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from hiera_video.data.lists import VideoList
from hiera_video.data.transforms import ClipTransform
from hiera_video.utils.board import Board
from hiera_video.utils.rng import seeded
from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video.manifest import Manifest, open_video
from hiera_video.video.source import is_unreachable

_MAX_REPLACEMENTS = 10


class FrameIndexSampler(Protocol):
    """What a clip sampler offers to the dataset; see clip_sampling.py."""

    def get_frame_indices(self, num_video_frames: int, fps: float) -> np.ndarray:
        """Frame indices (clips, T)."""


class BadVideo(NamedTuple):
    """A video that gave no sample.

    Attributes:
        position: in the list.
        reason: names the path.
        is_passing: the file may be whole, and it was the way to it that failed, such as a network that is away.
    """

    position: int
    path: str
    reason: str
    is_passing: bool = False


class VideoDataset(Dataset):
    """Samples of a list of videos.

    ``dataset[i]``, or ``dataset[epoch, i]`` in training, is a dict:

    - ``video``: uint8 (V, C, T, H, W); V = ``num_samples`` x the sampler's clips x the transform's crops
    - ``label``: int; ``index``: int, position in the list
    - ``mask``: bool (V, U), only with ``make_mask``: which mask units of each view stay visible
    - ``bad``: list of (index, path, reason), one for each video that could not be decoded for this sample

    All randomness comes from (seed, epoch, index, view), so a sample does not depend on workers, ranks or order.

    Args:
        videos: paths and labels.
        clip_sampler: gives the frames of each clip.
        transform: frames of a video -> views of its clips.
        make_mask: draws a mask of one view, bool (U,), from torch's global generator.
        num_samples: clips (calls of sampler and transform) per decoded video; repeated augmentation.
        bad_view_shape: None (training): a video that cannot be decoded is replaced by another, drawn from the sample's
            own randomness. (V, C, T, H, W) (validation, testing): its ``video`` is zeros of this shape, and the sample
            must count as wrong.
        seed: first part of each sample's random key.
        decoding_backend: see `VideoReader`.
        max_short_side_px: see `VideoReader`.
        manifest: what is known of the videos: they are opened without a scan, the broken ones not at all.

    Raises:
        VideoDecodeError: in training, when several drawn videos in a row cannot be decoded.
    """

    def __init__(
        self,
        videos: VideoList,
        *,
        clip_sampler: FrameIndexSampler,
        transform: ClipTransform,
        make_mask: Callable[[], torch.Tensor] | None = None,
        num_samples: int = 1,
        bad_view_shape: tuple[int, ...] | None = None,
        seed: int = 0,
        decoding_backend: str = "pyav",
        max_short_side_px: int = 0,
        manifest: Manifest | None = None,
    ) -> None:
        self.videos = videos
        self.clip_sampler = clip_sampler
        self.transform = transform
        self.make_mask = make_mask
        self.num_samples = num_samples
        self.bad_view_shape = bad_view_shape
        self.seed = seed
        self._reader_options: dict[str, Any] = {"backend": decoding_backend, "max_short_side_px": max_short_side_px}
        self.manifest = manifest
        self.given_up: dict[int, str] = {}  # position -> reason, of videos that brought a process down or to a halt
        self.board: Board | None = None  # where a loader sees what its processes are at

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        bad: list[BadVideo] = []
        for attempt in range(_MAX_REPLACEMENTS + 1):
            position = index if attempt == 0 else self._draw_replacement(epoch, index, attempt)
            try:
                sample = self._make_sample(self._load_views(epoch, position), position, bad)
                if self.make_mask is not None:
                    sample["mask"] = self._draw_masks(self.make_mask, epoch, position)
                return sample
            except (VideoDecodeError, OSError) as error:
                bad.append(BadVideo(position, str(self.videos.paths[position]), str(error), is_unreachable(error)))
            if self.bad_view_shape is not None:
                return self._make_sample(torch.zeros(self.bad_view_shape, dtype=torch.uint8), position, bad)
        reasons = "\n  ".join(entry.reason for entry in bad)
        raise VideoDecodeError(f"{len(bad)} videos in a row could not be decoded:\n  {reasons}")

    def _draw_replacement(self, epoch: int, index: int, attempt: int) -> int:
        with seeded(self.seed, epoch, index, self.num_samples, attempt):  # no view has the number num_samples
            return random.randrange(len(self.videos))

    def _make_sample(self, video: torch.Tensor, index: int, bad: list[BadVideo]) -> dict[str, Any]:
        return {"video": video, "label": int(self.videos.labels[index]), "index": index, "bad": bad}

    def _draw_masks(self, make_mask: Callable[[], torch.Tensor], epoch: int, index: int) -> torch.Tensor:
        masks = []
        for view in range(self.num_samples):
            with seeded(self.seed, epoch, index, view, 2):
                masks.append(make_mask())
        return torch.stack(masks)  # (V, U)

    def _load_views(self, epoch: int, index: int) -> torch.Tensor:
        if index in self.given_up:
            raise VideoDecodeError(f"{self.videos.paths[index]}: {self.given_up[index]}")
        if self.board is None:
            return self._read_views(epoch, index)
        self.board.enter(index)
        try:
            return self._read_views(epoch, index)
        finally:
            self.board.leave()

    def _read_views(self, epoch: int, index: int) -> torch.Tensor:
        with open_video(str(self.videos.paths[index]), self.manifest, **self._reader_options) as reader:
            frames, places = self._load_frames(reader, epoch, index)
        prepared = self.transform.prepare(frames).unbind()  # N times (h, w, C)
        num_clips, num_frames = places.shape
        shape = (num_clips, self.transform.num_crops, 3, num_frames, self.transform.size_px, self.transform.size_px)
        views = torch.empty(shape, dtype=torch.uint8)
        for number, clip in enumerate(places.tolist()):
            with seeded(self.seed, epoch, index, number, 1):
                self.transform.write_views([prepared[place] for place in clip], views[number])
        return views.flatten(0, 1)  # (V, C, T, H, W)

    def _load_frames(self, reader: VideoReader, epoch: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames that any clip needs, uint8 (frames, H, W, C), and each clip's places among them, (clips, T)."""
        while True:
            length = len(reader)
            wanted, places = self._choose_frames(reader, epoch, index)
            try:
                return reader.get_frames(wanted), places
            except VideoDecodeError:
                if len(reader) == length:
                    raise  # otherwise the reader has met damage and found the video shorter: sample from what there is

    def _choose_frames(self, reader: VideoReader, epoch: int, index: int) -> tuple[list[int], torch.Tensor]:
        clips = []
        for view in range(self.num_samples):
            with seeded(self.seed, epoch, index, view, 0):
                clips.append(self.clip_sampler.get_frame_indices(len(reader), reader.fps))
        positions = np.concatenate(clips)  # (clips, T)
        wanted, places = np.unique(positions, return_inverse=True)
        return wanted.tolist(), torch.from_numpy(places.reshape(positions.shape))


def collate_samples(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples as a batch: ``video`` uint8 (B, V, C, T, H, W), ``label`` and ``index`` int64 (B,), ``bad`` one list.

    Where samples have a mask, ``mask`` is bool (B, V, U).
    """
    batch = {
        # In a worker this stacks in shared memory, so that the batch is not copied again on its way.
        "video": default_collate([sample["video"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples]),
        "index": torch.tensor([sample["index"] for sample in samples]),
        "bad": [entry for sample in samples for entry in sample["bad"]],
    }
    if "mask" in samples[0]:
        batch["mask"] = torch.stack([sample["mask"] for sample in samples])
    return batch
