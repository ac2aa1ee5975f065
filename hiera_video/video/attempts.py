"""Several attempts at a video whose damage shows only when it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from hiera_video.video.index import VideoDecodeError
from hiera_video.video.reader import FramesChangedError

Item = TypeVar("Item")
_MAX_ATTEMPTS = 3


def start_over(path: str, read: Callable[[], Iterator[Item]]) -> Iterator[tuple[int, Item]]:
    """Reads a video, and again from its start when damage shows that its frames are others than they seemed.

    Args:
        path: of the video, for the message.
        read: begins to read.

    Yields:
        number of the attempt, from 0, and what ``read`` gives.

    Raises:
        VideoDecodeError: the frames change each time.
    """
    for attempt in range(_MAX_ATTEMPTS):
        try:
            for item in read():
                yield attempt, item
            return
        except FramesChangedError:
            continue
    raise VideoDecodeError(f"{path}: its frames change each time that it is decoded")
