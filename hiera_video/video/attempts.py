"""Makes several attempts at a video whose damage shows only when it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from hiera_video.video.index import VideoDecodeError
from hiera_video.video.reader import FramesChangedError

Item = TypeVar("Item")
_MAX_ATTEMPTS = 3


def start_over(path: str, read: Callable[[], Iterator[Item]]) -> Iterator[tuple[int, Item]]:
    """Reads a video, and starts over if decoding shows damage that changes which frames it has.

    Args:
        path: of the video, for the message.
        read: starts an attempt, and yields what it reads.

    Yields:
        the number of the attempt, counted from 0, and each item that ``read`` yields.

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
