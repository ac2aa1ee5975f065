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
from hiera_video.engine.extraction.job import (
    build_compute,
    build_make_stream,
    build_run,
    check_output,
    get_unused_parameters,
    order_todo,
    prepare_output,
    write_rest,
)
from hiera_video.engine.extraction.rows import EmbeddingRun
from hiera_video.engine.trained import compute_file_sha256, find_weights, load_model
from hiera_video.streams.clip_stream import NOTHING
from hiera_video.streams.collect import Collection, build_collection
from hiera_video.utils.distributed import get_device
from hiera_video.utils.logging import get_logger, setup_logging

logger = get_logger("hiera_video.extract_ray")
_VIDEOS_PER_TASK = 4  # a task that dies takes these along; they are done at the next start


class Decoder:
    """An actor: positions of videos -> a row for each view, and one for each video that fails."""

    def __init__(self, cfg_text: str, paths: np.ndarray) -> None:
        cfg = config_from_text(cfg_text)
        self._make_stream = build_make_stream(cfg, paths)
        size, num_frames = cfg.DATA.TEST_CROP_SIZE, cfg.DATA.NUM_FRAMES
        self._no_view = np.zeros((1, 3, num_frames, size, size), dtype=np.uint8)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for chunk in self._make_stream(queue=batch["index"].tolist()):
            failed = chunk["failure"] is not None
            views = self._no_view if failed else chunk["views"].numpy()  # (n, C, T, H, W)
            crops = 1 if failed else len(views) // len(chunk["spans_sec"])
            spans_sec = np.full((1, 2), np.nan) if failed else chunk["spans_sec"].repeat(crops, axis=0)
            first = chunk.get("first_clip", 0) * crops
            same = {
                "index": chunk["index"],
                "attempt": chunk.get("attempt", NOTHING),
                "number_of_views": chunk.get("number_of_clips", 0) * crops,
                "failure": chunk["failure"] or "",
            }
            yield {
                **{name: np.array([value] * len(views)) for name, value in same.items()},
                "view": np.arange(first, first + len(views)),
                "start_sec": spans_sec[:, 0],
                "end_sec": spans_sec[:, 1],
                "pixels": views,
            }


class Embedder:
    """An actor: rows with pixels -> rows with features."""

    def __init__(self, cfg_text: str, checkpoint: str) -> None:
        cfg = config_from_text(cfg_text)
        model = load_model(cfg, checkpoint, optional=get_unused_parameters(cfg)).to(get_device()).eval()
        self._compute = build_compute(cfg, model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = torch.from_numpy(np.array(batch.pop("pixels")))  # a copy: Ray's memory is read-only
        return {**batch, "features": self._compute(pixels).cpu().numpy()}


class Assembler:
    """Collects rows, which come in any order, until those of a video are complete.

    Args:
        run: gets the features of whole videos.
        num_crops: views of a clip.

    Attributes:
        ended: positions of the videos that are complete or have failed.
    """

    def __init__(self, run: EmbeddingRun, *, num_crops: int) -> None:
        self._run, self._num_crops = run, num_crops
        self._rows: dict[int, dict[int, tuple[np.ndarray, float, float]]] = {}  # video -> view -> features and span
        self._attempts: dict[int, int] = {}
        self.ended: set[int] = set()

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """Takes rows of the model's actors."""
        for i, index in enumerate(batch["index"].tolist()):
            if index in self.ended:
                continue  # rows in front of a failure, or from a task that Ray did again
            if batch["failure"][i]:
                self._end(index, failure=str(batch["failure"][i]))
                continue
            attempt = int(batch["attempt"][i])
            if attempt < self._attempts.setdefault(index, attempt):
                continue  # the video was started over since
            if attempt > self._attempts[index]:
                self._attempts[index] = attempt
                self._rows.pop(index)
            rows = self._rows.setdefault(index, {})
            rows[int(batch["view"][i])] = batch["features"][i], batch["start_sec"][i], batch["end_sec"][i]
            if len(rows) == batch["number_of_views"][i]:
                self._end(index)

    def _end(self, index: int, *, failure: str | None = None) -> None:
        self.ended.add(index)
        rows = self._rows.pop(index, {})
        features = torch.from_numpy(np.stack([rows[view][0] for view in sorted(rows)])) if rows else None
        spans_sec = np.array([rows[view][1:] for view in sorted(rows)])[:: self._num_crops]  # (clips, 2)
        chunk = {"index": index, "attempt": 0, "failure": failure, "spans_sec": spans_sec, "is_last": True}
        self._run.add_features(chunk, None if failure else features)


def run_pipeline(
    cfg: CfgNode,
    todo: np.ndarray,
    paths: np.ndarray,
    checkpoint: str,
    *,
    address: str | None,
    num_decoders: int,
    num_models: int,
    gpus_per_model: float,
) -> Iterator[Any]:
    """Batches of rows with features, as they get done."""
    import ray

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1  # a task that dies costs its videos, not the run
    context.enable_progress_bars = sys.stderr.isatty()
    cfg_text = dump_config(cfg)
    tasks = -(-len(todo) // _VIDEOS_PER_TASK)
    rows = ray.data.from_items([{"index": int(index)} for index in todo], override_num_blocks=tasks)
    rows = rows.map_batches(
        Decoder,
        fn_constructor_args=(cfg_text, paths),
        batch_size=_VIDEOS_PER_TASK,
        concurrency=num_decoders,
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=1,  # without a limit, a video that brings its actor down would be tried for ever
    )
    rows = rows.map_batches(
        Embedder,
        fn_constructor_args=(cfg_text, checkpoint),
        batch_size=cfg.EXTRACT.BATCH_SIZE,
        concurrency=num_models,
        num_cpus=0 if gpus_per_model else 1,
        num_gpus=gpus_per_model,
    )
    yield from rows.iter_batches(batch_size=None, batch_format="numpy")


def extract_on_ray(
    cfg: CfgNode, *, address: str | None, num_decoders: int, num_models: int, gpus_per_model: float
) -> None:
    """Does what is not done yet."""
    actors = {"num_decoders": num_decoders, "num_models": num_models, "gpus_per_model": gpus_per_model}
    checkpoint = find_weights(cfg, cfg.EXTRACT.CHECKPOINT_FILE_PATH, key="EXTRACT.CHECKPOINT_FILE_PATH")
    sha256 = compute_file_sha256(checkpoint)
    model = load_model(cfg, checkpoint, optional=get_unused_parameters(cfg))
    collection: Collection = build_collection(cfg)
    check_output(cfg, sha256)
    setup_logging(cfg.OUTPUT_DIR)
    complete = prepare_output(cfg, model, len(collection), checkpoint=checkpoint, sha256=sha256)
    todo = order_todo(collection, complete)
    logger.info("%d videos to embed, %d are done already", len(todo), len(complete))
    run = build_run(cfg, model, collection)
    assembler = Assembler(run, num_crops=cfg.EXTRACT.NUM_CROPS)
    try:
        for batch in (
            run_pipeline(cfg, todo, collection.paths, checkpoint, address=address, **actors) if len(todo) else ()
        ):
            assembler.add(batch)
    finally:
        run.finish()
    lost = [str(collection.paths[index]) for index in todo.tolist() if index not in assembler.ended]
    failures = run.failures | dict.fromkeys(lost, "the task that it was part of did not end; see Ray's log")
    write_rest(cfg, failures)
    logger.info("embedded %d videos, %d rows; %d without embeddings", run.num_done, run.num_rows, len(failures))
