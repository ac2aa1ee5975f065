"""The job that embeds videos, on a Ray cluster: the same config keys, the same files.

Ray Data runs the pipeline: actors on CPUs decode, actors on GPUs (or CPUs) embed, this process writes Parquet. Nodes
must see the videos and the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.config import dump_config
from hiera_video.config.load import config_from_text
from hiera_video.engine.extraction.batching import ChunkFeatures, build_compute
from hiera_video.engine.extraction.job import build_extraction_reader, prepare_output, write_rest
from hiera_video.engine.extraction.rows import VideoRows, build_rows
from hiera_video.engine.extraction.settings import check_output, get_unused_parameters
from hiera_video.engine.trained import compute_file_sha256, find_weights, load_model
from hiera_video.streams.chunk import Chunk, Failure, OpenVideos
from hiera_video.streams.clip_stream import ClipStream
from hiera_video.streams.collect import build_collection
from hiera_video.utils.distributed import get_device
from hiera_video.utils.logging import get_logger, setup_logging

logger = get_logger(__name__)
_VIDEOS_PER_TASK = 4  # a task that dies takes these along; they are done at the next start
Rows = dict[str, np.ndarray]  # a batch of Ray's: columns of equal length


def extract_on_ray(
    cfg: CfgNode, *, address: str | None, num_decoders: int, num_models: int, gpus_per_model: float
) -> None:
    """Embeds the videos that EXTRACT names into OUTPUT_DIR; what is there already is not done again.

    Args:
        cfg: frozen.
        address: of the cluster; None: what Ray finds, or a local one.
        num_decoders: actors that decode, one CPU core each.
        num_models: actors that run the model.
        gpus_per_model: GPUs of each of these; 0: one CPU core.

    Raises:
        ImportError: Ray is not installed.
        FileNotFoundError: no weights, or no videos.
        ValueError: the weights do not fill the model, or OUTPUT_DIR has embeddings with other settings.
    """
    checkpoint = find_weights(cfg, cfg.EXTRACT.CHECKPOINT_FILE_PATH, key="EXTRACT.CHECKPOINT_FILE_PATH")
    sha256 = compute_file_sha256(checkpoint)
    model = load_model(cfg, checkpoint, optional=get_unused_parameters(cfg))
    collection = build_collection(cfg)
    check_output(cfg, sha256)
    setup_logging(cfg.OUTPUT_DIR)
    todo = prepare_output(cfg, model, collection, checkpoint=checkpoint, sha256=sha256)
    rows = build_rows(cfg, model, collection)
    assembler = Assembler(rows, num_crops=cfg.EXTRACT.NUM_CROPS)
    try:
        if len(todo):
            _connect(address)
            batches = _run_pipeline(
                cfg,
                todo,
                collection.paths,
                checkpoint,
                num_decoders=num_decoders,
                num_models=num_models,
                gpus_per_model=gpus_per_model,
            )
            for batch in batches:
                assembler.add(batch)
    finally:
        rows.finish()
    lost = [str(collection.paths[index]) for index in todo.tolist() if index not in assembler.ended]
    failures = rows.failures | dict.fromkeys(lost, "the task that it was part of did not end; see Ray's log")
    write_rest(cfg, failures)
    logger.info("embedded %d videos, %d rows; %d without embeddings", rows.num_done, rows.num_rows, len(failures))


class Decoder:
    """An actor: positions of videos -> a row for each view, and one for each video that fails."""

    def __init__(self, cfg_text: str, paths: np.ndarray) -> None:
        cfg = config_from_text(cfg_text)
        self._paths, self._reader = paths, build_extraction_reader(cfg, listed=paths)
        size, num_frames = cfg.DATA.TEST_CROP_SIZE, cfg.DATA.NUM_FRAMES
        self._no_view = np.zeros((1, 3, num_frames, size, size), dtype=np.uint8)

    def __call__(self, batch: Rows) -> Iterator[Rows]:
        for item in ClipStream(self._paths, queue=batch["index"].tolist(), reader=self._reader):
            yield self._describe_failure(item) if isinstance(item, Failure) else self._describe_views(item)

    def _describe_views(self, chunk: Chunk) -> Rows:
        count = len(chunk.views)
        crops = count // len(chunk.spans_sec)
        first = chunk.first_clip * crops
        spans_sec = chunk.spans_sec.repeat(crops, axis=0)  # (n * crops, 2)
        same = {"index": chunk.index, "attempt": chunk.attempt, "num_views": chunk.num_clips * crops, "failure": ""}
        return {
            **{name: np.array([value] * count) for name, value in same.items()},
            "view": np.arange(first, first + count),
            "start_sec": spans_sec[:, 0],
            "end_sec": spans_sec[:, 1],
            "pixels": chunk.views.numpy(),
        }

    def _describe_failure(self, failure: Failure) -> Rows:
        """One row; it has a black view, so that it has the same columns as the others."""
        row = {"index": failure.index, "attempt": failure.attempt, "num_views": 0, "failure": failure.reason}
        unknown = {"view": 0, "start_sec": np.nan, "end_sec": np.nan}
        return {**{name: np.array([value]) for name, value in {**row, **unknown}.items()}, "pixels": self._no_view}


class Embedder:
    """An actor: rows with pixels -> rows with features."""

    def __init__(self, cfg_text: str, checkpoint: str) -> None:
        cfg = config_from_text(cfg_text)
        model = load_model(cfg, checkpoint, optional=get_unused_parameters(cfg)).to(get_device()).eval()
        self._compute = build_compute(cfg, model)

    def __call__(self, batch: Rows) -> Rows:
        pixels = torch.from_numpy(np.array(batch.pop("pixels")))  # a copy: Ray's memory is read-only
        return {**batch, "features": self._compute(pixels).cpu().numpy()}


class Assembler:
    """Collects rows, which come in any order, until those of a video are complete.

    Args:
        rows: gets the features of whole videos.
        num_crops: views of a clip.

    Attributes:
        ended: positions of the videos that are complete or have failed.
    """

    def __init__(self, rows: VideoRows, *, num_crops: int) -> None:
        self._rows, self._num_crops = rows, num_crops
        # video -> view -> features and span
        self._open: OpenVideos[dict[int, tuple[np.ndarray, float, float]]] = OpenVideos(lambda _: {})
        self.ended: set[int] = set()

    def add(self, batch: Rows) -> None:
        """Takes rows of the model's actors."""
        for i, index in enumerate(batch["index"].tolist()):
            if index in self.ended:
                continue  # the video has failed since, or Ray did its task again
            attempt = int(batch["attempt"][i])
            if batch["failure"][i]:
                self._end(Failure(index, attempt, str(batch["failure"][i])))
                continue
            views = self._open.find(index, attempt)
            if views is None:
                continue  # void
            views[int(batch["view"][i])] = batch["features"][i], batch["start_sec"][i], batch["end_sec"][i]
            if len(views) == batch["num_views"][i]:
                self._end(self._join(index, attempt, views))

    def _join(self, index: int, attempt: int, views: dict[int, tuple[np.ndarray, float, float]]) -> ChunkFeatures:
        """All views of a video, as one chunk."""
        in_order = [views[number] for number in sorted(views)]
        features = torch.from_numpy(np.stack([view[0] for view in in_order]))
        spans_sec = np.array([view[1:] for view in in_order])[:: self._num_crops]  # (clips, 2)
        return ChunkFeatures(index, attempt, spans_sec, is_last=True, features=features)

    def _end(self, item: ChunkFeatures | Failure) -> None:
        self.ended.add(item.index)
        self._open.close(item.index)
        self._rows.add(item)


def _connect(address: str | None) -> None:
    import ray

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1  # a task that dies costs its videos, not the run
    context.enable_progress_bars = sys.stderr.isatty()


def _run_pipeline(
    cfg: CfgNode,
    todo: np.ndarray,
    paths: np.ndarray,
    checkpoint: str,
    *,
    num_decoders: int,
    num_models: int,
    gpus_per_model: float,
) -> Iterator[Any]:
    """Batches of rows with features, in the order in which they are ready."""
    import ray

    cfg_text = dump_config(cfg)
    tasks = -(-len(todo) // _VIDEOS_PER_TASK)
    indices = ray.data.from_items([{"index": int(index)} for index in todo], override_num_blocks=tasks)
    views = indices.map_batches(
        Decoder,
        fn_constructor_args=(cfg_text, paths),
        batch_size=_VIDEOS_PER_TASK,
        concurrency=num_decoders,
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=1,  # without a limit, Ray would try a video for ever that brings its actor down
    )
    features = views.map_batches(
        Embedder,
        fn_constructor_args=(cfg_text, checkpoint),
        batch_size=cfg.EXTRACT.BATCH_SIZE,
        concurrency=num_models,
        num_cpus=0 if gpus_per_model else 1,
        num_gpus=gpus_per_model,
    )
    yield from features.iter_batches(batch_size=None, batch_format="numpy")
