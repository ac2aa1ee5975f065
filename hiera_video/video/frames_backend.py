"""Reads videos that lie on disk as pictures: a folder of them, or a numbered series.

A series is written as FFmpeg writes it: ``clips/7/7_%06d.jpg#1-117`` means 7_000001.jpg to 7_000117.jpg, inclusive.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from PIL import Image

from hiera_video.utils.pathmgr import pathmgr
from hiera_video.video.image_backend import read_image_bytes
from hiera_video.video.index import FrameIndex, VideoDecodeError
from hiera_video.video.shards import split_member

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SERIES = re.compile(r"(?P<before>.*)%0(?P<digits>\d+)d(?P<after>[^/]*)(?<!\.tar)#(?P<first>\d+)-(?P<last>\d+)")


def is_series(path: str) -> bool:
    """Whether a path names a series of pictures."""
    return _SERIES.fullmatch(path) is not None


def is_frames_path(path: str) -> bool:
    """Whether a path names pictures and not a video file: a local folder or a series."""
    return is_series(path) or os.path.isdir(path)


class FramesBackend:
    """The pictures of one video, in the order of the numbers in their names.

    ``index.fps`` and ``index.duration_sec`` are 0, as nothing says how fast the pictures were taken.
    """

    codec = "pictures"

    def __init__(self, path: str) -> None:
        """Lists the pictures without opening them.

        Raises:
            VideoDecodeError: there is no picture in the folder.
        """
        self._paths = _list_series(path) or _list_folder(path)
        if not self._paths:
            raise VideoDecodeError(f"the folder has no picture ({', '.join(_SUFFIXES)})")
        self.index = FrameIndex(len(self._paths), None, Fraction(1), duration_sec=0.0, fps=0.0)

    def decode(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position, uint8 RGB (H, W, 3)).

        Raises:
            VideoDecodeError: a picture is missing, does not decode, or differs from the first one in size.
        """
        shape = None
        for position in positions:
            rgb = _load_picture(self._paths[position])
            shape = shape or rgb.shape
            if rgb.shape != shape:
                raise VideoDecodeError(f"{self._paths[position]} has the size {rgb.shape[:2]}, others {shape[:2]}")
            yield position, rgb

    def close(self) -> None:
        """Does nothing: no file stays open."""


def _list_series(path: str) -> list[str]:
    match = _SERIES.fullmatch(path)
    if match is None:
        return []
    numbers = range(int(match["first"]), int(match["last"]) + 1)
    return [f"{match['before']}{number:0{match['digits']}d}{match['after']}" for number in numbers]


def _list_folder(path: str) -> list[str]:
    names = [name for name in os.listdir(path) if name.lower().endswith(_SUFFIXES)]
    return [os.path.join(path, name) for name in sorted(names, key=_split_numbers)]


def _split_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts 9.jpg before 10.jpg."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _load_picture(path: str) -> np.ndarray:
    try:
        file = pathmgr.get_local_path(path) if split_member(path) is None else io.BytesIO(read_image_bytes(path))
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))  # (H, W, 3)
    except OSError as error:
        raise VideoDecodeError(f"picture {path} does not decode: {error}") from error
