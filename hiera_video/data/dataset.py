"""One dataset over a list of (path, label): decodes each video once and cuts every clip and view from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import default_collate

from hiera_video.data.lists import VideoList
from hiera_video.data.samples import SampleDataset, collate_rest
from hiera_video.data.transforms import ClipTransform
from hiera_video.utils.rng import seed_cpu
from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video.file_cache import FileCache
from hiera_video.video.manifest import Manifest, open_video


class FrameIndexSampler(Protocol):
    """What a clip sampler offers to the dataset; see clip_sampling.py."""

    def get_frame_indices(self, num_video_frames: int, fps: float) -> np.ndarray:
        """Frame indices (clips, T)."""


class VideoDataset(SampleDataset):
    """Samples of a list of videos; see `SampleDataset`.

    A sample is a dict:

    - ``video``: uint8 (V, C, T, H, W); V = ``num_samples`` x the sampler's clips x the transform's crops
    - ``label``: int, or float32 (K,) of zeros and ones in a list whose videos may have several classes
    - ``index``: int, position in the list
    - ``mask``: bool (V, U), only with ``make_mask``: which mask units of each view stay visible
    - ``bad``: list of `BadVideo`

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
        cache: see `VideoReader`.

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
        cache: FileCache | None = None,
    ) -> None:
        super().__init__(videos, num_samples=num_samples, replaces_bad=bad_view_shape is None, seed=seed)
        self.videos: VideoList = videos
        self.clip_sampler = clip_sampler
        self.transform = transform
        self.make_mask = make_mask
        self.bad_view_shape = bad_view_shape
        self._reader_options: dict[str, Any] = {
            "backend": decoding_backend,
            "max_short_side_px": max_short_side_px,
            "cache": cache,
        }
        self.manifest = manifest

    def load(self, epoch: int, index: int) -> dict[str, Any]:
        """The views of a video, its label, and with ``make_mask`` the masks of its views."""
        sample = {"video": self._read_views(epoch, index), "label": self._get_label(index)}
        if self.make_mask is not None:
            sample["mask"] = self._draw_masks(self.make_mask, epoch, index)
        return sample

    def make_bad(self, index: int) -> dict[str, Any]:
        """A black video with its label."""
        video = torch.zeros(self.bad_view_shape or (), dtype=torch.uint8)
        return {"video": video, "label": self._get_label(index)}

    def _get_label(self, index: int) -> int | torch.Tensor:
        sets = self.videos.label_sets
        return int(self.videos.labels[index]) if sets is None else sets.make_target(index)

    def _draw_masks(self, make_mask: Callable[[], torch.Tensor], epoch: int, index: int) -> torch.Tensor:
        masks = []
        for view in range(self.num_samples):
            seed_cpu(self.seed, epoch, index, view, 2)
            masks.append(make_mask())
        return torch.stack(masks)  # (V, U)

    def _read_views(self, epoch: int, index: int) -> torch.Tensor:
        with open_video(str(self.videos.paths[index]), self.manifest, **self._reader_options) as reader:
            frames, places = self._load_frames(reader, epoch, index)
        prepared = self.transform.prepare(frames).unbind()  # N times (h, w, C)
        num_clips, num_frames = places.shape
        shape = (num_clips, self.transform.num_crops, 3, num_frames, self.transform.size_px, self.transform.size_px)
        views = torch.empty(shape, dtype=torch.uint8)
        for number, clip in enumerate(places.tolist()):
            seed_cpu(self.seed, epoch, index, number, 1)
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
            seed_cpu(self.seed, epoch, index, view, 0)
            clips.append(self.clip_sampler.get_frame_indices(len(reader), reader.fps))
        positions = np.concatenate(clips)  # (clips, T)
        wanted, places = np.unique(positions, return_inverse=True)
        return wanted.tolist(), torch.from_numpy(places.reshape(positions.shape))

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: ``video`` uint8 (B, V, C, T, H, W), ``label`` and ``index`` int64 (B,), ``bad`` one list.

        Where samples have a mask, ``mask`` is bool (B, V, U); where they may have several classes, ``label`` is
        float32 (B, K).
        """
        batch = {
            # In a worker this stacks in shared memory, so that the batch is not copied again on its way.
            "video": default_collate([sample["video"] for sample in samples]),
            "label": default_collate([sample["label"] for sample in samples]),
            **collate_rest(samples),
        }
        if "mask" in samples[0]:
            batch["mask"] = torch.stack([sample["mask"] for sample in samples])
        return batch
