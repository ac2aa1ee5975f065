"""The job that embeds videos: any number of them, of any length, on any number of processes, interrupted or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from hiera_video.data.loader import count_workers
from hiera_video.embeddings.per_video import write_npy_files, write_safetensors_files
from hiera_video.embeddings.store import prepare_folder, write_failures
from hiera_video.engine.extraction.batching import ModelBatches, build_compute
from hiera_video.engine.extraction.progress import Progress
from hiera_video.engine.extraction.rows import build_rows
from hiera_video.engine.extraction.settings import check_output, describe_extraction, get_unused_parameters
from hiera_video.engine.extraction.timing import WorkTimes
from hiera_video.engine.trained import compute_file_sha256, find_weights, load_model
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.features import get_feature_shape
from hiera_video.streams.clip_loader import ClipLoader
from hiera_video.streams.clip_reader import ClipReader, build_clip_reader
from hiera_video.streams.collect import Collection, build_collection
from hiera_video.streams.windows import ClipPlanner, build_clip_planner
from hiera_video.streams.work_queue import WorkQueue, order_by_size
from hiera_video.utils.distributed import barrier, get_device, is_main_process
from hiera_video.utils.interrupt import raise_if_stopped
from hiera_video.utils.logging import get_logger, log_json_stats
from hiera_video.utils.pathmgr import get_path_here
from hiera_video.video.manifest import get_size_bytes

logger = get_logger(__name__)


def extract(cfg: CfgNode) -> None:
    """Embeds the videos that EXTRACT names into OUTPUT_DIR; what is there already is not done again.

    Raises:
        FileNotFoundError: no weights, or no videos.
        ValueError: the weights do not fill the model, or OUTPUT_DIR has embeddings with other settings.
    """
    checkpoint = find_weights(cfg, cfg.EXTRACT.CHECKPOINT_FILE_PATH, key="EXTRACT.CHECKPOINT_FILE_PATH")
    model = load_model(cfg, checkpoint, optional=get_unused_parameters(cfg)).to(get_device())
    run_extraction(cfg, model, build_collection(cfg), checkpoint=checkpoint, sha256=compute_file_sha256(checkpoint))


def run_extraction(
    cfg: CfgNode, model: HieraEncoder, collection: Collection, *, checkpoint: str, sha256: str
) -> dict[str, Any]:
    """Embeds videos with a model that is on its device.

    Args:
        cfg: frozen.
        model: is put into eval mode.
        collection: the videos.
        checkpoint: where the weights are from, for the side-car.
        sha256: of the weights.

    Returns:
        in the main process the figures that the log ends with; in others {}.

    Raises:
        ValueError: OUTPUT_DIR has embeddings with other settings.
    """
    check_output(cfg, sha256)
    barrier()  # until here nothing has been written
    todo = prepare_output(cfg, model, collection, checkpoint=checkpoint, sha256=sha256)
    barrier()  # now the folder is ready
    queue = WorkQueue.open(todo)
    rows, times = build_rows(cfg, model, collection), WorkTimes()
    batches = ModelBatches(build_compute(cfg, model.eval()), batch_size=cfg.EXTRACT.BATCH_SIZE, times=times)
    progress = Progress(cfg.OUTPUT_DIR, rows, times, queue)
    with progress:
        try:
            for chunk in _build_loader(cfg, collection, queue):
                for item in batches.add(chunk):
                    rows.add(item)
                progress.update()
                raise_if_stopped(f"{rows.num_done} videos of this job are whole in {cfg.OUTPUT_DIR}")
            for item in batches.finish():
                rows.add(item)
        finally:
            rows.finish()  # what is complete is kept, whatever ends this
        progress.update()
    results = queue.gather_results([rows.failures, rows.num_done, rows.num_rows])
    return _finish(cfg, progress, results) if results else {}


def prepare_output(
    cfg: CfgNode, model: HieraEncoder, collection: Collection, *, checkpoint: str, sha256: str
) -> np.ndarray:
    """Writes the side-car and makes OUTPUT_DIR ready. Only the main process does this; others get nothing to do.

    Returns:
        int64 (n,), positions of the videos that are not complete there, the largest files first.
    """
    if not is_main_process():
        return np.empty(0, dtype=np.int64)
    shape = get_feature_shape(model, cfg.EXTRACT.LAYER)
    describe_extraction(cfg, checkpoint=checkpoint, sha256=sha256, shape=shape, num_videos=len(collection))
    complete = prepare_folder(cfg.OUTPUT_DIR)
    todo = np.array([i for i, path in enumerate(collection.paths) if str(path) not in complete], dtype=np.int64)
    here = [get_path_here(str(collection.paths[i])) for i in todo]
    logger.info("%d videos to embed, %d are done already", len(todo), len(complete))
    return todo[order_by_size([None if path is None else get_size_bytes(path) for path in here])]


def build_extraction_reader(
    cfg: CfgNode, *, planner: ClipPlanner | None = None, listed: np.ndarray | None = None
) -> ClipReader:
    """Opens videos as EXTRACT and DATA say.

    Args:
        cfg: the config.
        planner: chooses the clips; None: as EXTRACT says.
        listed: see `build_clip_reader`.
    """
    return build_clip_reader(cfg, planner or build_clip_planner(cfg), num_crops=cfg.EXTRACT.NUM_CROPS, listed=listed)


def _build_loader(cfg: CfgNode, collection: Collection, queue: WorkQueue) -> ClipLoader:
    return ClipLoader(
        collection.paths,
        reader=build_extraction_reader(cfg, listed=collection.paths),
        queue=queue,
        num_workers=min(count_workers(cfg.DATA_LOADER.NUM_WORKERS), max(len(queue.order), 1)),
        chunks_ahead=cfg.DATA_LOADER.PREFETCH_FACTOR,
        timeout_sec=cfg.EXTRACT.TIMEOUT_SEC,
    )


def _finish(cfg: CfgNode, progress: Progress, results: list[tuple[dict[str, str], int, int]]) -> dict[str, Any]:
    """Writes and logs what all processes did; ``results`` are failures, videos done and rows of each."""
    failures = {path: reason for failed, _, _ in results for path, reason in failed.items()}
    num_done, num_rows = sum(done for _, done, _ in results), sum(rows for _, _, rows in results)
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
