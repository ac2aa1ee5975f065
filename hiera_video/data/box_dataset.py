"""Samples of key frames: the clip around a moment, and the boxes of that moment in the clip's view."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import default_collate

from hiera_video.data.action_lists import KeyFrames
from hiera_video.data.box_transforms import BoxTransform, clip_boxes
from hiera_video.data.key_frame_clips import KeyFrameSampler
from hiera_video.data.samples import SampleDataset, collate_rest
from hiera_video.utils.fractions import to_fraction
from hiera_video.utils.rng import seeded
from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video.file_cache import FileCache
from hiera_video.video.manifest import Manifest, open_video


class BoxDataset(SampleDataset):
    """Samples of a list of key frames; see `SampleDataset`.

    A sample is a dict:

    - ``video``: uint8 (1, C, T, S, S)
    - ``boxes``: float32 (r, 4), x1, y1, x2, y2 in px of the view, cut off at its borders
    - ``targets``: float32 (r, K), 1 for each of a box's actions
    - ``rows``: int64 (r,), the boxes' rows in the list
    - ``is_outside``: bool (r,), whether nothing of a box lies in the view. In training there are no such boxes; in
      testing they stay where they are, so that all boxes of a key frame are there, in the order of the list.
    - ``index``: int, position in the list; ``bad``: list of `BadVideo`

    Args:
        videos: the key frames.
        sampler: gives the frames of a clip.
        transform: frames and boxes -> a view.
        is_training: boxes outside of the view are dropped, and a sample that cannot be decoded is replaced; otherwise
            its ``video`` and ``boxes`` are zeros, and its boxes must count as not predicted.
        seed: first part of each sample's random key.
        decoding_backend: see `VideoReader`.
        max_short_side_px: see `VideoReader`.
        manifest: what is known of the videos: they are opened without a scan, the broken ones not at all.
        cache: see `VideoReader`.
    """

    def __init__(
        self,
        videos: KeyFrames,
        *,
        sampler: KeyFrameSampler,
        transform: BoxTransform,
        is_training: bool,
        seed: int = 0,
        decoding_backend: str = "pyav",
        max_short_side_px: int = 0,
        manifest: Manifest | None = None,
        cache: FileCache | None = None,
    ) -> None:
        super().__init__(videos, num_samples=1, replaces_bad=is_training, seed=seed)
        self.videos: KeyFrames = videos
        self.sampler, self.transform, self.is_training = sampler, transform, is_training
        self._reader_options: dict[str, Any] = {
            "backend": decoding_backend,
            "max_short_side_px": max_short_side_px,
            "cache": cache,
        }
        self.manifest = manifest

    def load(self, epoch: int, index: int) -> dict[str, Any]:
        """The view of a key frame's clip, and what is known of its boxes."""
        with open_video(str(self.videos.paths[index]), self.manifest, **self._reader_options) as reader:
            frames = self._read_frames(reader, index)
        height, width = frames.shape[1:3]
        rows = self._get_rows(index)
        shares = torch.from_numpy(self.videos.boxes[rows.numpy()])  # (r, 4)
        boxes = shares * torch.tensor([width, height, width, height])
        with seeded(self.seed, epoch, index, 0, 1):
            view, view_map = self.transform(frames, boxes)
        boxes, is_outside = clip_boxes(view_map.to_view(boxes), self.transform.size_px)
        sample = {"video": view[None], **self._describe(rows, boxes, is_outside)}
        if self.is_training:
            sample |= self._describe(rows[~is_outside], boxes[~is_outside], is_outside[~is_outside])
        return sample

    def make_bad(self, index: int) -> dict[str, Any]:
        """A black clip with empty boxes."""
        rows, size_px = self._get_rows(index), self.transform.size_px
        video = torch.zeros((1, 3, len(self.sampler.offsets_sec), size_px, size_px), dtype=torch.uint8)
        return {"video": video, **self._describe(rows, torch.zeros(len(rows), 4), torch.zeros(len(rows)).bool())}

    def _get_rows(self, index: int) -> torch.Tensor:
        first, end = self.videos.box_starts[index : index + 2].tolist()
        return torch.arange(first, end)

    def _describe(self, rows: torch.Tensor, boxes: torch.Tensor, is_outside: torch.Tensor) -> dict[str, torch.Tensor]:
        targets = torch.from_numpy(self.videos.actions[rows.numpy()]).float()  # (r, K)
        return {"boxes": boxes, "targets": targets, "rows": rows, "is_outside": is_outside}

    def _read_frames(self, reader: VideoReader, index: int) -> torch.Tensor:
        """The frames of a clip, uint8 (T, H, W, C)."""
        time_sec = to_fraction(float(self.videos.times_sec[index])) - to_fraction(float(self.videos.start_secs[index]))
        while True:
            length = len(reader)
            try:
                return reader.get_frames(self.sampler.get_frame_indices(reader.index, time_sec).tolist())
            except ValueError as error:
                raise VideoDecodeError(f"{reader.path}: {error}; AVA.START_SEC says when the file begins") from error
            except VideoDecodeError:
                if len(reader) == length:
                    raise  # otherwise the reader has met damage and found the video shorter

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of B samples with R boxes in all.

        ``video`` uint8 (B, 1, C, T, S, S), ``boxes`` float32 (R, 5) with the sample's number in the batch before the
        corners, ``targets`` float32 (R, K), ``rows`` int64 (R,), ``is_outside`` bool (R,), ``index`` int64 (B,), and
        ``bad``, one list.
        """
        counts = torch.tensor([len(sample["rows"]) for sample in samples])
        numbers = torch.arange(len(samples)).repeat_interleave(counts).float()
        boxes = torch.cat([sample["boxes"] for sample in samples])
        return {
            "video": default_collate([sample["video"] for sample in samples]),
            "boxes": torch.cat([numbers[:, None], boxes], dim=1),
            **{name: torch.cat([sample[name] for sample in samples]) for name in ("targets", "rows", "is_outside")},
            **collate_rest(samples),
        }
