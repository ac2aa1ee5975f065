"""Our reader in PyTorchVideo's datasets.

dataset = LabeledVideoDataset(paths, clip_sampler, decode_audio=False)
dataset.video_path_handler = PytorchVideoPathHandler(backend="pyav")
"""

from __future__ import annotations

import os
from bisect import bisect_left

import torch
from pytorchvideo.data.video import Video, VideoPathHandler

from hiera_video.video.reader import VideoReader

_ROUNDING_SEC = 1e-6  # a clip's bounds are sums of floats: a frame this close to a bound is meant to be on it


class PytorchVideoReader(Video):
    """A VideoReader behind PyTorchVideo's ``Video`` interface; it reads no audio.

    Differs: from EncodedVideo in that it decodes only the frames of the clip, and gives exactly those.
    """

    def __init__(self, reader: VideoReader) -> None:
        self.name = os.path.basename(reader.path)
        self._reader = reader
        self._times_sec = reader.times_sec

    @property
    def duration(self) -> float:
        """In seconds."""
        return self._reader.duration_sec

    def get_clip(self, start_sec: float, end_sec: float) -> dict[str, torch.Tensor | None]:
        """The frames that start in [start_sec, end_sec), in seconds since the first frame.

        Returns:
            ``video``: float32 (C, T, H, W) in [0, 255], or None when no frame is in the interval; ``audio``: None.
        """
        start, end = (bisect_left(self._times_sec, bound - _ROUNDING_SEC) for bound in (start_sec, end_sec))
        if start >= end:
            return {"video": None, "audio": None}
        frames = self._reader.get_frames(range(start, end))
        return {"video": frames.permute(3, 0, 1, 2).to(torch.float32), "audio": None}  # (T, H, W, C) -> (C, T, H, W)

    def close(self) -> None:
        self._reader.close()


class PytorchVideoPathHandler(VideoPathHandler):
    """Opens the files of a PyTorchVideo dataset with our reader, and folders of frames as PyTorchVideo does."""

    def __init__(self, backend: str = "pyav", num_threads: int = 1) -> None:
        super().__init__()
        self._backend, self._num_threads = backend, num_threads

    def video_from_path(self, filepath: str, decode_audio: bool = False, decoder: str = "pyav", fps: int = 30) -> Video:
        """Opens ``filepath`` without audio, with the handler's backend; ``decoder`` is not used."""
        if os.path.isdir(filepath):
            return super().video_from_path(filepath, decode_audio, decoder, fps)
        return PytorchVideoReader(VideoReader(filepath, self._backend, self._num_threads))
