"""Views of many videos through the model, in batches that do not care where a video ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.engine.extraction.timing import WorkTimes
from hiera_video.engine.views import compute_on_views
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.features import compute_features
from hiera_video.streams.chunk import Chunk, Failure

Compute = Callable[[torch.Tensor], torch.Tensor]  # views uint8 (n, C, T, H, W) on the CPU -> features (n, ...)


@dataclass(frozen=True, eq=False)
class ChunkFeatures:
    """What the model made of a chunk.

    Attributes:
        index: position of the video in its list.
        attempt: as in `Chunk`.
        spans_sec: float64 (n, 2), as in `Chunk`.
        is_last: whether the video ends with this chunk.
        features: float32 (n * crops, ...) on the CPU.
    """

    index: int
    attempt: int
    spans_sec: np.ndarray
    is_last: bool
    features: torch.Tensor


class ModelBatches:
    """Turns chunks into features. The model sees full batches; chunks leave in the order in which they came.

    Args:
        compute: the model. On a GPU it works on a batch while the next one is being collected.
        batch_size: views per call of ``compute``.
        times: gets the times of decoding and of the model.
    """

    def __init__(self, compute: Compute, *, batch_size: int, times: WorkTimes) -> None:
        self._compute, self._batch_size, self._times = compute, batch_size, times
        self._views: deque[torch.Tensor] = deque()  # not given to the model yet
        self._running: deque[tuple[torch.Tensor, float]] = deque()  # features on the device, and when they were begun
        self._features: deque[torch.Tensor] = deque()  # ready, in the order of the views
        self._waiting: deque[tuple[int, Callable[[torch.Tensor], ChunkFeatures] | Failure]] = deque()  # with its views

    def add(self, item: Chunk | Failure) -> Iterator[ChunkFeatures | Failure]:
        """Takes the next chunk; gives those that are ready. A failure keeps its place among the chunks."""
        if item.busy_sec is not None:
            self._times.add_decoding(*item.busy_sec)
        if isinstance(item, Failure):
            self._waiting.append((0, item))
        else:
            self._views.append(item.views)
            make = partial(ChunkFeatures, item.index, item.attempt, item.spans_sec, item.is_last)
            self._waiting.append((len(item.views), make))
        while _count_rows(self._views) >= self._batch_size:
            self._start_batch(self._batch_size)
        yield from self._deliver()

    def finish(self) -> Iterator[ChunkFeatures | Failure]:
        """Runs the model on the rest; gives the chunks that are left."""
        if rest := _count_rows(self._views):
            self._start_batch(rest)
        while self._running:
            self._finish_batch()
        yield from self._deliver()

    def _start_batch(self, size: int) -> None:
        began = time.monotonic()
        self._running.append((self._compute(torch.cat(_take_rows(self._views, size))), began))
        if len(self._running) > 1 or not self._running[-1][0].is_cuda:
            self._finish_batch()

    def _finish_batch(self) -> None:
        features, began = self._running.popleft()
        self._features.append(features.to("cpu", torch.float32))  # waits for the device
        self._times.add_batch(len(features), began, time.monotonic())

    def _deliver(self) -> Iterator[ChunkFeatures | Failure]:
        while self._waiting and self._waiting[0][0] <= _count_rows(self._features):
            num_views, item = self._waiting.popleft()
            yield item if isinstance(item, Failure) else item(torch.cat(_take_rows(self._features, num_views)))


def build_compute(cfg: CfgNode, model: HieraEncoder) -> Compute:
    """A function from views, uint8 (n, C, T, H, W) on the CPU, to features of EXTRACT.LAYER on the model's device."""
    device = next(model.parameters()).device
    run: Callable[..., torch.Tensor] = compute_features
    if cfg.MODEL.COMPILE:
        run = torch.compile(compute_features, fullgraph=True)

    def compute(clips: torch.Tensor) -> torch.Tensor:
        return run(model, clips, cfg.EXTRACT.LAYER)

    return partial(compute_on_views, cfg, compute, device=device, precision=cfg.EXTRACT.PRECISION)


def _count_rows(queue: deque[torch.Tensor]) -> int:
    return sum(map(len, queue))


def _take_rows(queue: deque[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Takes the first ``count`` rows from a queue of tensors; what is left of a tensor stays in front."""
    parts = []
    while count:
        part = queue.popleft()
        if len(part) > count:
            queue.appendleft(part[count:])
            part = part[:count]
        count -= len(part)
        parts.append(part)
    return parts
