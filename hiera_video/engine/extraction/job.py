"""The job that embeds videos: any number of them, of any length, on any number of processes, interrupted or not."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.distributed import TCPStore
from tqdm import tqdm

from hiera_video.config import compute_digest, dump_config
from hiera_video.data.loader import build_manifest, count_workers
from hiera_video.data.transforms import build_eval_transform
from hiera_video.embeddings.per_video import write_npy_files, write_safetensors_files
from hiera_video.embeddings.store import (
    ShardWriter,
    VideoInfo,
    check_settings,
    load_side_car,
    prepare_folder,
    read_ids,
    write_failures,
    write_side_car,
)
from hiera_video.engine.batch import autocast, to_model_input
from hiera_video.engine.extraction.rows import EmbeddingRun
from hiera_video.engine.meters import format_duration
from hiera_video.engine.trained import compute_file_sha256, find_weights, load_model
from hiera_video.models.features import POOLED, compute_features, get_feature_shape
from hiera_video.streams.clip_loader import ClipLoader, open_queue, order_by_size
from hiera_video.streams.clip_stream import ClipStream
from hiera_video.streams.collect import Collection, build_collection
from hiera_video.streams.windows import build_clip_planner
from hiera_video.utils.distributed import barrier, get_device, get_rank, get_world_size, is_main_process
from hiera_video.utils.logging import get_logger, log_json_stats
from hiera_video.utils.pathmgr import get_path_here
from hiera_video.utils.versions import get_versions
from hiera_video.video import describe_backend
from hiera_video.video.manifest import get_size_bytes, open_video

logger = get_logger(__name__)

# What embeddings depend on, beside the weights and the videos. Batches and processes are not among them: they change
# the last bits at most.
_CONTENT_KEYS = (
    *("MODEL.MODEL_NAME", "HIERA.EMBED_DIM", "HIERA.NUM_HEADS", "HIERA.STAGES"),
    *("DATA.NUM_FRAMES", "DATA.SAMPLING_RATE", "DATA.TARGET_FPS", "DATA.SAMPLING", "DATA.USE_OFFSET_SAMPLING"),
    *("DATA.DECODING_BACKEND", "DATA.TEST_CROP_SIZE", "DATA.MAX_SHORT_SIDE", "DATA.INTERPOLATION"),
    *("DATA.TRAIN_JITTER_SCALES", "DATA.MEAN", "DATA.STD"),
    *("EXTRACT.CLIPS", "EXTRACT.WINDOW", "EXTRACT.STRIDE", "EXTRACT.UNIT", "EXTRACT.NUM_CLIPS", "EXTRACT.NUM_CROPS"),
    *("EXTRACT.LAYER", "EXTRACT.AVERAGE", "EXTRACT.L2_NORMALIZE", "EXTRACT.DTYPE", "EXTRACT.PRECISION"),
)
_VIEWS_PER_CHUNK = 8
# On a CPU more do not run faster; they leave the caches, and get fresh memory from the system with each layer.
_PIXELS_AT_ONCE = 16 * 224 * 224
_REPORT_SEC = 30.0
_FAILURES_LOGGED = 20
_FOREVER = timedelta(days=365)  # a process may be at a video of many hours while the others have finished


def extract(cfg: CfgNode) -> None:
    """Embeds the videos that EXTRACT names into OUTPUT_DIR; what is there already is not done again.

    Raises:
        FileNotFoundError: no weights, or no videos.
        ValueError: the weights do not fill the model, or OUTPUT_DIR has embeddings with other settings.
    """
    checkpoint = find_weights(cfg, cfg.EXTRACT.CHECKPOINT_FILE_PATH, key="EXTRACT.CHECKPOINT_FILE_PATH")
    model = load_model(cfg, checkpoint, optional=get_unused_parameters(cfg)).to(get_device())
    run_extraction(cfg, model, build_collection(cfg), checkpoint=checkpoint, sha256=compute_file_sha256(checkpoint))


def get_unused_parameters(cfg: CfgNode) -> tuple[str, ...]:
    """Beginnings of the names of parameters that EXTRACT.LAYER does not need."""
    return ("head.",) if cfg.EXTRACT.LAYER == POOLED else ("head.", "norm.")


def run_extraction(
    cfg: CfgNode, model: nn.Module, collection: Collection, *, checkpoint: str, sha256: str
) -> dict[str, Any]:
    """Embeds videos with a model that is on its device.

    Args:
        cfg: frozen.
        collection: the videos.
        checkpoint: where the weights are from, for the side-car.
        sha256: of the weights.

    Returns:
        in the main process, what came out, as the log has it; in others {}.

    Raises:
        ValueError: OUTPUT_DIR has embeddings with other settings.
    """
    check_output(cfg, sha256)
    barrier()  # until here nothing has been written
    complete = prepare_output(cfg, model, len(collection), checkpoint=checkpoint, sha256=sha256)
    barrier()  # now the folder is ready
    run = build_run(cfg, model.eval(), collection)
    queue, store = open_queue(order_todo(collection, complete) if is_main_process() else np.empty(0, dtype=np.int64))
    progress = _Progress(cfg, run, store, num_todo=len(queue.order), num_complete=len(complete))
    with progress.show():
        run.embed(_build_loader(cfg, collection, queue), progress.update)
    progress.update()
    results = _gather_results(run, store)
    return _finish(cfg, progress, results) if results else {}


def check_output(cfg: CfgNode, sha256: str) -> None:
    """Raises ValueError where OUTPUT_DIR has embeddings with other settings than these."""
    check_settings(cfg.OUTPUT_DIR, _get_settings(cfg, sha256))


def prepare_output(cfg: CfgNode, model: nn.Module, num_videos: int, *, checkpoint: str, sha256: str) -> set[str]:
    """Writes the side-car and makes OUTPUT_DIR ready: the paths that are complete; other processes get none."""
    if not is_main_process():
        return set()
    folder = Path(cfg.OUTPUT_DIR)
    shape = get_feature_shape(model, cfg.EXTRACT.LAYER)
    settings, previous = _get_settings(cfg, sha256), load_side_car(folder)
    write_side_car(folder, _describe_run(cfg, settings, previous, checkpoint, shape, num_videos))
    return prepare_folder(folder)


def _get_settings(cfg: CfgNode, sha256: str) -> dict[str, Any]:
    return {"weights_sha256": sha256, **{key: _get_key(cfg, key) for key in _CONTENT_KEYS}}


def _get_key(cfg: CfgNode, key: str) -> Any:
    section, leaf = key.split(".")
    return cfg[section][leaf]


def _describe_run(
    cfg: CfgNode,
    settings: dict[str, Any],
    previous: dict[str, Any] | None,
    checkpoint: str,
    shape: tuple[int, ...],
    num_videos: int,
) -> dict[str, Any]:
    """The side-car: of the first run that wrote to the folder, with a line for each run."""
    versions = get_versions()
    this_run = {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "num_videos": num_videos,
        "num_processes": get_world_size(),
        "config_digest": compute_digest(cfg),
        "versions": versions,
    }
    if previous is not None:
        old = previous["runs"][0]["versions"]
        changed = [
            f"{name} {old.get(name)} -> {versions[name]}" for name in versions if old.get(name) != versions[name]
        ]
        if changed:
            logger.warning("earlier embeddings here were made with other versions: %s", ", ".join(changed))
        return {**previous, "runs": [*previous["runs"], this_run]}
    return {
        "settings": settings,
        "checkpoint": checkpoint,
        "shape": shape,
        "clips": build_clip_planner(cfg).describe(),
        "decoder": describe_backend(cfg.DATA.DECODING_BACKEND),
        "config_digest": compute_digest(cfg),
        "config": dump_config(cfg),
        "runs": [this_run],
    }


def order_todo(collection: Collection, complete: set[str]) -> np.ndarray:
    """Positions of the videos that are to be done, the largest files first."""
    todo = np.array([i for i, path in enumerate(collection.paths) if str(path) not in complete], dtype=np.int64)
    here = [get_path_here(str(collection.paths[i])) for i in todo]
    return todo[order_by_size([None if path is None else get_size_bytes(path) for path in here])]


def build_run(cfg: CfgNode, model: nn.Module, collection: Collection) -> EmbeddingRun:
    """What turns chunks of these videos into rows in OUTPUT_DIR."""
    labels, splits, ids = collection.labels.tolist(), collection.splits, collection.make_ids(read_ids(cfg.OUTPUT_DIR))
    videos = [
        VideoInfo(str(path), name, None if labels[i] < 0 else labels[i], None if splits is None else str(splits[i]))
        for i, (path, name) in enumerate(zip(collection.paths, ids, strict=True))
    ]
    shape = get_feature_shape(model, cfg.EXTRACT.LAYER)
    writer = ShardWriter(cfg.OUTPUT_DIR, dim=int(np.prod(shape)), dtype=cfg.EXTRACT.DTYPE, rank=get_rank())
    return EmbeddingRun(
        build_compute(cfg, model),
        writer,
        videos,
        batch_size=cfg.EXTRACT.BATCH_SIZE,
        num_crops=cfg.EXTRACT.NUM_CROPS,
        average=cfg.EXTRACT.AVERAGE,
        l2_normalize=cfg.EXTRACT.L2_NORMALIZE,
    )


def build_compute(cfg: CfgNode, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from views, uint8 (n, C, T, H, W) on the CPU, to features of EXTRACT.LAYER on the model's device."""
    device = next(model.parameters()).device
    compute = torch.compile(compute_features) if cfg.MODEL.COMPILE else compute_features

    def compute_part(views: torch.Tensor) -> torch.Tensor:
        clips = to_model_input(views[None], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (n, C, T, H, W)
        with autocast(device, cfg.EXTRACT.PRECISION):
            return compute(model, clips, cfg.EXTRACT.LAYER).float()

    @torch.inference_mode()
    def compute_views(views: torch.Tensor) -> torch.Tensor:
        if device.type != "cpu":
            return compute_part(views)
        clips_at_once = max(_PIXELS_AT_ONCE // views[0, 0].numel(), 1)
        return torch.cat([compute_part(part) for part in views.split(clips_at_once)])

    return compute_views


def build_make_stream(cfg: CfgNode, paths: np.ndarray, **options: Any) -> Callable[..., ClipStream]:
    """`ClipStream` with the arguments that EXTRACT and DATA say; the caller gives the queue."""
    num_crops = cfg.EXTRACT.NUM_CROPS
    return partial(
        ClipStream,
        paths,
        planner=build_clip_planner(cfg),
        transform=build_eval_transform(cfg, num_crops=num_crops, crop_size_px=cfg.DATA.TEST_CROP_SIZE),
        clips_per_chunk=max(_VIEWS_PER_CHUNK // num_crops, 1),
        open_reader=partial(
            open_video,
            manifest=build_manifest(cfg, paths),
            backend=cfg.DATA.DECODING_BACKEND,
            max_short_side_px=cfg.DATA.MAX_SHORT_SIDE,
        ),
        **options,
    )


def _build_loader(cfg: CfgNode, collection: Collection, queue: Any) -> ClipLoader:
    return ClipLoader(
        build_make_stream(cfg, collection.paths),
        num_videos=len(collection),
        queue=queue,
        num_workers=min(count_workers(cfg.DATA_LOADER.NUM_WORKERS), max(len(queue.order), 1)),
        chunks_ahead=cfg.DATA_LOADER.PREFETCH_FACTOR,
        timeout_sec=cfg.EXTRACT.TIMEOUT_SEC,
    )


class _Progress:
    """Tells how far all processes are: a bar on a terminal, lines in the log."""

    def __init__(self, cfg: CfgNode, run: EmbeddingRun, store: TCPStore, *, num_todo: int, num_complete: int) -> None:
        self._cfg, self._run, self._store, self.num_todo = cfg, run, store, num_todo
        self.began = self._last_report = time.monotonic()
        self._num_reported = self._num_failures_logged = 0
        logger.info("%d videos to embed, %d are done already", num_todo, num_complete)

    def show(self) -> tqdm:
        self._bar = tqdm(total=self.num_todo, desc="videos", leave=False, disable=None if is_main_process() else True)
        return self._bar

    def update(self) -> None:
        """Called often."""
        self._log_failures()
        ended = self._run.num_done + len(self._run.failures)
        if ended == self._num_reported and time.monotonic() - self._last_report < _REPORT_SEC:
            return
        total = self._store.add("ended", ended - self._num_reported)
        self._num_reported = ended
        self._bar.update(total - self._bar.n)
        if is_main_process() and time.monotonic() - self._last_report > _REPORT_SEC:
            self._last_report = time.monotonic()
            log_json_stats({"_type": "extract", **self.compute_stats(total)}, output_dir=self._cfg.OUTPUT_DIR)

    def compute_stats(self, num_ended: int) -> dict[str, Any]:
        """Speed of all processes together, and how busy this one is."""
        seconds = time.monotonic() - self.began
        per_sec = num_ended / seconds
        run = self._run
        return {
            "videos": f"{num_ended}/{self.num_todo}",
            "videos_per_sec": round(per_sec, 3),
            "views_per_sec_per_process": round(run.num_views / seconds, 2),
            "decoder_busy_percent": round(100 * run.decoding.compute_sec() / seconds, 1),
            "model_busy_percent": round(100 * run.computing.compute_sec() / seconds, 1),
            "both_idle_percent": round(100 * max(1 - run.any_work.compute_sec() / seconds, 0), 1),
            "seconds": round(seconds, 1),
            "eta": format_duration((self.num_todo - num_ended) / per_sec) if per_sec else "unknown",
        }

    def _log_failures(self) -> None:
        if len(self._run.failures) == self._num_failures_logged:
            return
        new = list(self._run.failures.values())[self._num_failures_logged :]
        for reason in new[: max(_FAILURES_LOGGED - self._num_failures_logged, 0)]:
            logger.warning("no embeddings: %s", reason)
        self._num_failures_logged += len(new)


def _gather_results(run: EmbeddingRun, store: TCPStore) -> list[tuple[dict[str, str], int, int]]:
    """Failures, videos done and rows of each process, for the main one; others do not wait, and get []."""
    store.set(f"result/{get_rank()}", simplejson.dumps([run.failures, run.num_done, run.num_rows]))
    if not is_main_process():
        return []
    keys = [f"result/{rank}" for rank in range(get_world_size())]
    store.wait(keys, _FOREVER)
    return [simplejson.loads(store.get(key)) for key in keys]


def _finish(cfg: CfgNode, progress: _Progress, results: list[tuple[dict[str, str], int, int]]) -> dict[str, Any]:
    failures = {path: reason for failed, _, _ in results for path, reason in failed.items()}
    num_done, num_rows = (sum(result[i] for result in results) for i in (1, 2))
    write_rest(cfg, failures)
    counts = {"num_done": num_done, "num_rows": num_rows, "num_failed": len(failures)}
    stats = {**progress.compute_stats(num_done + len(failures)), **counts}
    log_json_stats({"_type": "extract_done", **stats}, output_dir=cfg.OUTPUT_DIR)
    logger.info(
        "embedded %d videos, %d rows, in %.0f s; %d videos without embeddings%s; see %s",
        num_done,
        num_rows,
        stats["seconds"],
        len(failures),
        " (failures.parquet)" if failures else "",
        cfg.OUTPUT_DIR,
    )
    return stats


def write_rest(cfg: CfgNode, failures: dict[str, str]) -> None:
    """Writes what follows the shards: the failures, and the files for each video that EXTRACT asks for."""
    write_failures(cfg.OUTPUT_DIR, failures)
    if cfg.EXTRACT.WRITE_NPY:
        write_npy_files(cfg.OUTPUT_DIR)
    if cfg.EXTRACT.WRITE_SAFETENSORS:
        write_safetensors_files(cfg.OUTPUT_DIR)
