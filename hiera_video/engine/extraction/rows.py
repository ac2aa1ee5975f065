"""From chunks of clips to rows of embeddings: batches that reach over videos, averages, and who was busy when."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hiera_video.embeddings.store import ShardWriter, VideoInfo

Compute = Callable[[torch.Tensor], torch.Tensor]  # views uint8 (n, C, T, H, W) on the CPU -> features (n, ...)


@dataclass
class _Video:
    """What has come of one video so far."""

    attempt: int
    num_rows: int = 0
    feature_sum: torch.Tensor | None = None  # float64 (D,), for one mean of all views
    num_views: int = 0
    start_sec: float = float("nan")


class EmbeddingRun:
    """Embeds chunks as they come, and hands the rows of each video to a writer.

    Args:
        compute: the model's part.
        writer: takes the rows.
        videos: of the list, by position.
        batch_size: views per call of `compute`; they may be of several videos.
        num_crops: views of a clip.
        average: "none", "crops" or "video", see EXTRACT.AVERAGE.
        l2_normalize: scale each row to length 1.

    Attributes:
        failures: path -> reason.
        num_done: videos that are complete; num_rows: their embeddings.
        num_views: views that went through the model.
        decoding: how long any decoding process was busy; computing: the model; any_work: either.
    """

    def __init__(
        self,
        compute: Compute,
        writer: ShardWriter,
        videos: Sequence[VideoInfo],
        *,
        batch_size: int,
        num_crops: int,
        average: str,
        l2_normalize: bool,
    ) -> None:
        self._compute, self._writer, self._videos = compute, writer, videos
        self._batch_size, self._num_crops = batch_size, num_crops
        self._average, self._l2_normalize = average, l2_normalize
        self._views: deque[torch.Tensor] = deque()  # waiting for the model
        self._running: deque[tuple[torch.Tensor, float]] = deque()  # features on the device, and since when
        self._features: deque[torch.Tensor] = deque()  # done, in the order of the views
        self._chunks: deque[dict[str, Any]] = deque()  # whose features are not all done
        self._open: dict[int, _Video] = {}
        self.failures: dict[str, str] = {}
        self.num_done = self.num_rows = self.num_views = 0
        self.decoding, self.computing, self.any_work = BusyTime(), BusyTime(), BusyTime()

    def embed(self, chunks: Iterable[dict[str, Any]], on_chunk: Callable[[], None] = lambda: None) -> None:
        """Embeds all chunks; see `ClipStream` for what they are. Calls ``on_chunk`` after each."""
        try:
            for chunk in chunks:
                self._take_chunk(chunk)
                while sum(map(len, self._views)) >= self._batch_size:
                    self._start_batch(self._batch_size)
                self._deliver()
                on_chunk()
            if rest := sum(map(len, self._views)):
                self._start_batch(rest)
            while self._running:
                self._finish_batch()
            self._deliver()
        finally:
            self.finish()  # what is complete is kept, whatever ends this

    def finish(self) -> None:
        """Writes what is complete."""
        self._writer.flush()

    def _take_chunk(self, chunk: dict[str, Any]) -> None:
        if "busy_sec" in chunk:
            self._note_busy(self.decoding, *chunk["busy_sec"])
        self._views.append(chunk.pop("views", torch.empty(0)))
        self._chunks.append({**chunk, "num_views": len(self._views[-1])})

    def _start_batch(self, size: int) -> None:
        """Starts the model on the next views. On a GPU it runs while the next batch is collected."""
        began = time.monotonic()
        self._running.append((self._compute(torch.cat(_take_rows(self._views, size))), began))
        self.num_views += size
        if len(self._running) > 1 or not self._running[-1][0].is_cuda:
            self._finish_batch()

    def _finish_batch(self) -> None:
        features, began = self._running.popleft()
        self._features.append(features.to("cpu", torch.float32))  # waits for the device
        self._note_busy(self.computing, began, time.monotonic())

    def _note_busy(self, what: BusyTime, began: float, ended: float) -> None:
        what.add(began, ended)
        self.any_work.add(began, ended)

    def _deliver(self) -> None:
        """Hands on the chunks whose features are done."""
        while self._chunks and self._chunks[0]["num_views"] <= sum(map(len, self._features)):
            chunk = self._chunks.popleft()
            features = _take_rows(self._features, chunk["num_views"])
            self.add_features(chunk, torch.cat(features) if features else None)

    def add_features(self, chunk: dict[str, Any], features: torch.Tensor | None) -> None:
        """Takes the features (n * crops, ...) of a chunk, whose videos' chunks come in order; None for a failure."""
        info = self._videos[chunk["index"]]
        video = self._open.setdefault(chunk["index"], _Video(chunk["attempt"]))
        if chunk["attempt"] < video.attempt:
            return
        if chunk["attempt"] > video.attempt:
            self._writer.discard(info.path)
            video = self._open[chunk["index"]] = _Video(chunk["attempt"])
        if chunk["failure"] is None:
            self._add_rows(chunk, info, video, features)
        if not chunk["is_last"]:
            return
        del self._open[chunk["index"]]
        if chunk["failure"] is None:
            self._writer.complete(info.path)
            self.num_done += 1
            self.num_rows += video.num_rows
        else:
            self._writer.discard(info.path)
            self.failures[info.path] = chunk["failure"]

    def _add_rows(self, chunk: dict[str, Any], info: VideoInfo, video: _Video, features: torch.Tensor) -> None:
        spans_sec = chunk["spans_sec"]  # (n, 2)
        if self._average == "video":
            if video.feature_sum is None:
                video.feature_sum, video.start_sec = (
                    torch.zeros(features.shape[1:], dtype=torch.float64),
                    spans_sec[0, 0],
                )
            video.feature_sum += features.sum(dim=0, dtype=torch.float64)
            video.num_views += len(features)
            if not chunk["is_last"]:
                return
            rows = (video.feature_sum / video.num_views)[None]
            spans_sec = np.array([[video.start_sec, spans_sec[:, 1].max()]])
        elif self._average == "crops":
            rows = features.unflatten(0, (-1, self._num_crops)).mean(dim=1)
        else:
            rows, spans_sec = features, spans_sec.repeat(self._num_crops, axis=0)
        rows = rows.flatten(1).float()  # (rows, D), a map's values in a row
        if self._l2_normalize:
            rows = torch.nn.functional.normalize(rows)
        self._writer.add(info, first_view=video.num_rows, spans_sec=spans_sec, embeddings=rows.numpy())
        video.num_rows += len(rows)


def _take_rows(queue: deque[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Takes the first ``count`` rows from a queue of tensors; what is left of a tensor stays in front."""
    parts = []
    while count:
        part = queue.popleft()
        if len(part) > count:
            queue.appendleft(part[count:])
            part = part[:count]
        count -= len(part)
        if len(part):
            parts.append(part)
    return parts


class BusyTime:
    """How long something was at work: a union of spans of time, which may overlap and come a little out of order."""

    _MAX_SPANS, _RECENT_SPANS = 4096, 256

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._before_sec = 0.0  # of spans that nothing will overlap any more

    def add(self, began: float, ended: float) -> None:
        """Takes a span, in seconds of one clock."""
        self._spans.append((began, ended))
        if len(self._spans) > self._MAX_SPANS:
            merged = self._merge()
            self._spans = merged[-self._RECENT_SPANS :]
            self._before_sec += sum(ended - began for began, ended in merged[: -self._RECENT_SPANS])

    def compute_sec(self) -> float:
        """Seconds of the union."""
        return self._before_sec + sum(ended - began for began, ended in self._merge())

    def _merge(self) -> list[tuple[float, float]]:
        merged: list[tuple[float, float]] = []
        for began, ended in sorted(self._spans):
            if merged and began <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], ended))
            else:
                merged.append((began, ended))
        return merged
