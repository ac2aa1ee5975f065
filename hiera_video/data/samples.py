"""What all data sets of samples do alike: keys, randomness, and what happens when a sample cannot be decoded."""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from hiera_video.utils.board import Board
from hiera_video.utils.rng import kept_generators, seed_cpu
from hiera_video.video import VideoDecodeError
from hiera_video.video.remote import is_unreachable

_MAX_REPLACEMENTS = 10


class SampleList(Protocol):
    """What a data set knows of its samples."""

    @property
    def paths(self) -> np.ndarray:
        """The file that each sample comes from, str (n,)."""

    @property
    def labels(self) -> np.ndarray:
        """The class of each sample where it has one, -1 where it has not or has several; int64 (n,)."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of each label, where they are known."""

    def __len__(self) -> int:
        """How many samples there are."""


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


class SampleDataset(Dataset):
    """Samples of a list, each a dict with ``index``, ``bad`` and what a kind of data set has.

    ``dataset[i]``, or ``dataset[epoch, i]`` in training. ``index`` is the position in the list, ``bad`` a list of
    `BadVideo`, one for each video that could not be decoded for this sample.

    All randomness comes from (seed, epoch, index, view), so a sample does not depend on workers, ranks or order.

    Args:
        videos: the list.
        num_samples: views that a sample of training has; repeated augmentation.
        replaces_bad: whether another sample, drawn from the sample's own randomness, stands in for one that cannot be
            decoded, as in training; in validation and testing the sample counts as wrong.
        seed: first part of each sample's random key.

    Raises:
        VideoDecodeError: in training, when several drawn videos in a row cannot be decoded.
    """

    def __init__(self, videos: SampleList, *, num_samples: int, replaces_bad: bool, seed: int) -> None:
        self.videos = videos
        self.num_samples = num_samples
        self.replaces_bad = replaces_bad
        self.seed = seed
        self.given_up: dict[int, str] = {}  # position -> reason, of videos that brought a process down or to a halt
        self.board: Board | None = None  # where a loader sees what its processes are at

    @abstractmethod
    def load(self, epoch: int, index: int) -> dict[str, Any]:
        """What the sample has beside ``index`` and ``bad``. Raises VideoDecodeError or OSError where that fails.

        It may seed and use the global generators, by `seed_cpu` from a key of its own: they are put back afterwards.
        """

    @abstractmethod
    def make_bad(self, index: int) -> dict[str, Any]:
        """The same of a sample that cannot be decoded: of the same shapes, with any values."""

    @staticmethod
    @abstractmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Samples as a batch: ``index`` int64 (B,), ``bad`` one list, and the rest in a way of its own."""

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        with kept_generators():
            return self._make_sample(epoch, index)

    def _make_sample(self, epoch: int, index: int) -> dict[str, Any]:
        bad: list[BadVideo] = []
        for attempt in range(_MAX_REPLACEMENTS + 1):
            position = index if attempt == 0 else self._draw_replacement(epoch, index, attempt)
            try:
                return {**self._load_watched(epoch, position), "index": position, "bad": bad}
            except (VideoDecodeError, OSError) as error:
                bad.append(BadVideo(position, str(self.videos.paths[position]), str(error), is_unreachable(error)))
            if not self.replaces_bad:
                return {**self.make_bad(position), "index": position, "bad": bad}
        reasons = "\n  ".join(entry.reason for entry in bad)
        raise VideoDecodeError(f"{len(bad)} videos in a row could not be decoded:\n  {reasons}")

    def _draw_replacement(self, epoch: int, index: int, attempt: int) -> int:
        seed_cpu(self.seed, epoch, index, self.num_samples, attempt)  # no view has the number num_samples
        return random.randrange(len(self.videos))

    def _load_watched(self, epoch: int, index: int) -> dict[str, Any]:
        if index in self.given_up:
            raise VideoDecodeError(f"{self.videos.paths[index]}: {self.given_up[index]}")
        if self.board is None:
            return self.load(epoch, index)
        self.board.enter(index)
        try:
            return self.load(epoch, index)
        finally:
            self.board.leave()


def collate_rest(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What every batch has: ``index`` int64 (B,) and ``bad``, one list."""
    return {
        "index": torch.tensor([sample["index"] for sample in samples]),
        "bad": [entry for sample in samples for entry in sample["bad"]],
    }
