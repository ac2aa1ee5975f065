"""The rows of many videos, which come chunk by chunk, on their way to the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from fvcore.common.config import CfgNode

from hiera_video.embeddings.store import ShardWriter, VideoInfo, read_ids
from hiera_video.engine.extraction.averaging import Averager
from hiera_video.engine.extraction.batching import ChunkFeatures
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.features import get_feature_shape
from hiera_video.streams.chunk import Failure, OpenVideos
from hiera_video.streams.collect import Collection
from hiera_video.utils.distributed import get_rank


@dataclass
class _OpenVideo:
    averager: Averager
    num_rows: int = 0


class VideoRows:
    """Hands the rows of each video to a writer, and says when a video is complete.

    Args:
        writer: takes the rows.
        videos: those of the list, by position.
        make_averager: makes what turns the features of one video into rows.

    Attributes:
        failures: path -> reason.
        num_done: videos that are complete.
        num_rows: their rows.
    """

    def __init__(
        self, writer: ShardWriter, videos: Sequence[VideoInfo], *, make_averager: Callable[[], Averager]
    ) -> None:
        self._writer, self._videos, self._make_averager = writer, videos, make_averager
        self._open = OpenVideos(self._begin)
        self.failures: dict[str, str] = {}
        self.num_done = self.num_rows = 0

    @property
    def num_ended(self) -> int:
        """Videos that are complete or have failed."""
        return self.num_done + len(self.failures)

    def add(self, item: ChunkFeatures | Failure) -> None:
        """Takes a chunk, or the failure of a video. The chunks of a video come in order."""
        video = self._open.find(item.index, item.attempt)
        if video is None:
            return
        if isinstance(item, Failure):
            self._fail(item)
            return
        info = self._videos[item.index]
        rows, spans_sec = video.averager.add(item.features, item.spans_sec, is_last=item.is_last)
        if len(rows):
            self._writer.add(info, first_view=video.num_rows, spans_sec=spans_sec, embeddings=rows.numpy())
            video.num_rows += len(rows)
        if item.is_last:
            self._open.close(item.index)
            self._writer.complete(info.path)
            self.num_done += 1
            self.num_rows += video.num_rows

    def finish(self) -> None:
        """Writes the videos that are complete."""
        self._writer.flush()

    def _begin(self, index: int) -> _OpenVideo:
        """A video begins, or starts over: what was made of it before is void."""
        self._writer.discard(self._videos[index].path)
        return _OpenVideo(self._make_averager())

    def _fail(self, failure: Failure) -> None:
        path = self._videos[failure.index].path
        self._open.close(failure.index)
        self._writer.discard(path)
        self.failures[path] = failure.reason


def build_rows(cfg: CfgNode, model: HieraEncoder, collection: Collection) -> VideoRows:
    """What writes the rows of these videos to OUTPUT_DIR."""
    labels, splits, ids = collection.labels.tolist(), collection.splits, collection.make_ids(read_ids(cfg.OUTPUT_DIR))
    videos = [
        VideoInfo(str(path), name, None if labels[i] < 0 else labels[i], None if splits is None else str(splits[i]))
        for i, (path, name) in enumerate(zip(collection.paths, ids, strict=True))
    ]
    shape = get_feature_shape(model, cfg.EXTRACT.LAYER)
    writer = ShardWriter(cfg.OUTPUT_DIR, dim=int(np.prod(shape)), dtype=cfg.EXTRACT.DTYPE, rank=get_rank())
    make_averager = partial(
        Averager,
        cfg.EXTRACT.AVERAGE,
        num_crops=cfg.EXTRACT.NUM_CROPS,
        l2_normalize=cfg.EXTRACT.L2_NORMALIZE,
    )
    return VideoRows(writer, videos, make_averager=make_averager)
