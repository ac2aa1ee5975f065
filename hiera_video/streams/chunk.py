"""What a decoding process hands over: a chunk of clips of one video, or the news that the video failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch

State = TypeVar("State")


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some clips of a video, in order.

    Attributes:
        index: position of the video in its list.
        attempt: how often decoding of the video had been started over; see `OpenVideos`.
        num_clips: clips of the whole video.
        first_clip: number of the first clip of this chunk.
        views: uint8 (n * crops, C, T, H, W); the crops of a clip lie together.
        spans_sec: float64 (n, 2), [start, end) of each clip; NaN where no time is known.
        is_last: whether the video ends with this chunk.
        busy_sec: when decoding of this chunk began and ended, by `time.monotonic`.
    """

    index: int
    attempt: int
    num_clips: int
    first_clip: int
    views: torch.Tensor
    spans_sec: np.ndarray
    is_last: bool
    busy_sec: tuple[float, float]

    def pin_memory(self) -> Chunk:
        """The same chunk in memory that a GPU can read by itself; torch's data loader calls this."""
        return replace(self, views=self.views.pin_memory())


@dataclass(frozen=True)
class Failure:
    """A video that cannot be decoded. Nothing follows it, and the chunks before it are void.

    Attributes:
        index: position of the video in its list.
        attempt: as in `Chunk`.
        reason: why it cannot be decoded; names the path.
        busy_sec: when the last piece of work on it began and ended; None where its process died.
    """

    index: int
    attempt: int
    reason: str
    busy_sec: tuple[float, float] | None = None
    is_last = True


class OpenVideos(Generic[State]):
    """What a consumer of chunks has made so far of each video that has begun and not ended.

    Here is the rule of attempts: a chunk of a higher attempt makes all earlier chunks of its video void, so what was
    made of them is given up and the video starts over. Chunks of a lower attempt are void as well.

    Args:
        make: position of a video -> what to begin it with; called for its first chunk and when it starts over.
    """

    def __init__(self, make: Callable[[int], State]) -> None:
        self._make = make
        self._states: dict[int, tuple[int, State]] = {}  # position -> attempt, and what was made of it

    def find(self, index: int, attempt: int) -> State | None:
        """What a chunk of this attempt belongs to; None where the chunk is void."""
        known = self._states.get(index)
        if known is not None and attempt < known[0]:
            return None
        if known is None or attempt > known[0]:
            known = self._states[index] = attempt, self._make(index)
        return known[1]

    def follow(self, chunks: Iterable[Chunk]) -> Iterator[tuple[State, Chunk]]:
        """The chunks that are not void, each with what it belongs to."""
        for chunk in chunks:
            state = self.find(chunk.index, chunk.attempt)
            if state is not None:
                yield state, chunk

    def close(self, index: int) -> None:
        """Forgets a video that has ended."""
        self._states.pop(index, None)
