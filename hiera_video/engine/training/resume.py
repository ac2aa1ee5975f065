"""How training starts: from which weights, from which checkpoint, and whether all processes agree on it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import simplejson
from fvcore.common.config import CfgNode

from hiera_video.config import config_from_text
from hiera_video.engine.checkpoint import (
    SHARDED_SUFFIX,
    compute_digest,
    get_best_path,
    get_validation_record_path,
    list_checkpoints,
)
from hiera_video.engine.sharded_checkpoint import check_shared_folder
from hiera_video.engine.training.divide import divide_file, share_outline
from hiera_video.engine.training.state import TrainState, build_state, is_divided, restore_state
from hiera_video.models.checkpoint_file import CheckpointFile, read_checkpoint_file
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.released import resolve_weights
from hiera_video.models.sharded_file import check_files
from hiera_video.models.weights import load_weights
from hiera_video.utils.distributed import all_gather_objects, broadcast_tree, get_world_size, is_main_process
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)

# A run with another value of these is another run.
_FIXED = (
    *(
        "TASK",
        "MODEL.MODEL_NAME",
        "MODEL.NUM_CLASSES",
        "MODEL.LOSS_FUNC",
        "MODEL.HEAD",
        "MODEL.FREEZE_STAGES",
        "HIERA.EMBED_DIM",
        "HIERA.NUM_HEADS",
        "HIERA.STAGES",
    ),
    *("HIERA.ATTN_WINDOW_UNITS", "HIERA.GLOBAL_BLOCKS", "HIERA.POS_EMBED_WINDOW", "MAE.MULTI_SCALE", "MAE.TARGET"),
    *("MAE.DECODER_EMBED_DIM", "MAE.DECODER_DEPTH", "MAE.DECODER_NUM_HEADS"),
    *("DETECTOR.ANCHOR_SIZES", "DETECTOR.CHANNELS", "DETECTOR.HIDDEN_DIM"),
    *("DATA.NUM_FRAMES", "DATA.TRAIN_CROP_SIZE", "SOLVER.OPTIMIZING_METHOD"),
)
# Within an epoch these say which videos have been seen.
_FIXED_WITHIN_EPOCH = ("TRAIN.BATCH_SIZE", "AUG.NUM_SAMPLE", "RNG_SEED", "TRAIN.CLASS_SAMPLING")


def start_or_resume(cfg: CfgNode, model: HieraEncoder, *, num_videos: int) -> TrainState:
    """The state to train from: the newest checkpoint of OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH, else fresh.

    The main process reads files, and the others get from it what it has read; then all compare what they have.

    Args:
        model: on its device; its weights are overwritten when there is something to load.
        num_videos: length of the training list.

    Raises:
        ValueError: no checkpoint of OUTPUT_DIR can be read, or the config cannot go on from it.
        RuntimeError: the processes are not in the same state.
        OSError: with TRAIN.SHARDING: the processes do not share OUTPUT_DIR.
    """
    if is_divided(cfg):
        check_shared_folder(cfg.OUTPUT_DIR)
    found = _find_readable(cfg) if cfg.TRAIN.AUTO_RESUME and is_main_process() else None
    file = share_outline(found) if is_divided(cfg) else _broadcast_file(found)
    if file is None:
        _load_first_weights(cfg, model)
    state = build_state(cfg, model)
    if file is not None:
        _check_can_resume(cfg, file, num_videos)
        restore_state(state, divide_file(file, state) if is_divided(cfg) else file)
        state.is_validated = _take_validation(cfg, state)
        logger.info("resumed from %s after %s of %d", file.source, state.name_progress(), cfg.SOLVER.MAX_EPOCH)
    _check_agreement(state)
    if is_main_process():
        supersede_metrics(cfg.OUTPUT_DIR, state)
    return state


def record_validation(cfg: CfgNode, state: TrainState, thresholds: Sequence[float] = ()) -> None:
    """Writes down that the end of ``state.epoch`` is validated, so that a resume from its checkpoint need not do it.

    Args:
        thresholds: of each class, chosen by the validation; see `hiera_video.engine.trained.load_thresholds`.
    """
    record: dict[str, Any] = {"epoch": state.epoch, "saved_at_ns": state.saved_at_ns, "best_score": state.best_score}
    record["num_worse"] = state.num_worse
    record |= {"thresholds": list(thresholds)} if thresholds else {}
    path = get_validation_record_path(get_best_path(cfg.OUTPUT_DIR))
    try:
        write_whole(path, (simplejson.dumps(record) + "\n").encode())
    except OSError as error:
        logger.error("%s was not written: %s; a resume validates epoch %d again", path, error, state.epoch)


def _take_validation(cfg: CfgNode, state: TrainState) -> bool:
    """Whether nothing is left to validate; takes what a validation after the checkpoint has found."""
    if state.step or not state.epoch:
        return True
    record: dict[str, Any] = {}
    if is_main_process():
        with contextlib.suppress(OSError, ValueError):  # without a record it is validated once more
            record = simplejson.loads(get_validation_record_path(get_best_path(cfg.OUTPUT_DIR)).read_text())
    record = broadcast_tree(record)
    if (record.get("epoch"), record.get("saved_at_ns")) != (state.epoch, state.saved_at_ns):
        return False
    state.best_score, state.num_worse = record["best_score"], record.get("num_worse", 0)
    return True


def _find_readable(cfg: CfgNode) -> CheckpointFile | None:
    """The newest checkpoint that is whole; None where there is none at all."""
    paths = list_checkpoints(cfg.OUTPUT_DIR)
    for path in reversed(paths):
        try:
            # Where the model is divided, each process will read its own pieces of a folder.
            file = read_checkpoint_file(path, part="none" if is_divided(cfg) else "all")
            if path.suffix == SHARDED_SUFFIX:
                check_files(file.local_path)
            _check_complete(file)
            return file
        except ValueError as error:
            if path == paths[0]:
                raise
            logger.error("a checkpoint is damaged, and the one before it is taken: %s", error)
    return None


def _check_complete(file: CheckpointFile) -> None:
    """Raises ValueError for a file that training cannot go on from."""
    training = file.training
    missing = [key for key in ("optimizer_state", "scaler_state", "best_score") if key not in training]
    if missing or file.epoch is None:
        raise ValueError(
            f"{file.source} is not a checkpoint of a training job, so that training cannot resume from it: it has no "
            + ", ".join(missing)
        )
    content = {**training, "model_state": file.weights, "epoch": file.epoch}
    if "digest" in training and compute_digest(content) != training["digest"]:
        raise ValueError(f"{file.source} has changed since it was written: its content does not fit its digest")


def _broadcast_file(file: CheckpointFile | None) -> CheckpointFile | None:
    if get_world_size() == 1:
        return file
    fields = broadcast_tree(None if file is None else vars(file))
    return None if fields is None else CheckpointFile(**fields)


def _load_first_weights(cfg: CfgNode, model: HieraEncoder) -> None:
    if cfg.TRAIN.CHECKPOINT_FILE_PATH and is_main_process():
        weights = resolve_weights(cfg.MODEL.MODEL_NAME, cfg.TRAIN.CHECKPOINT_FILE_PATH)
        resize, allow_partial = cfg.MODEL.POS_EMBED_RESIZE, cfg.TRAIN.ALLOW_PARTIAL
        logger.info("%s", load_weights(model, weights, pos_embed_resize=resize, allow_partial=allow_partial))
    model.load_state_dict(broadcast_tree(model.state_dict()))


def _check_agreement(state: TrainState) -> None:
    digests = all_gather_objects(state.compute_digest())
    different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if different:
        raise RuntimeError(
            f"the processes do not start from the same weights, optimizer state and epoch: rank {different[0]} differs "
            f"from rank 0 ({len(different)} of {len(digests)} processes differ)"
        )


def _check_can_resume(cfg: CfgNode, file: CheckpointFile, num_videos: int) -> None:
    """Raises ValueError for a setting that cannot change within a run; logs the others that have changed."""
    try:
        old = config_from_text(file.config)
    except ValueError as error:
        logger.warning("the checkpoint's config is of another version: %s", error)
        return
    changed = find_changes(old, cfg)
    fixed = (*_FIXED, *(_FIXED_WITHIN_EPOCH if file.training.get("step") else ()))
    refused = [line for key, line in changed.items() if key in fixed]
    if file.training.get("step") and file.training["num_videos"] != num_videos:
        refused.append(f"the training list: {file.training['num_videos']} -> {num_videos} videos")
    if refused:
        raise ValueError(
            f"this run cannot go on from {file.source}: {'; '.join(refused)}. Give the old values, or another "
            "OUTPUT_DIR to a new run"
        )
    if changed:
        logger.warning("resuming with other settings, which hold from here on: %s", "; ".join(changed.values()))
    before, now = file.training.get("num_processes", get_world_size()), get_world_size()
    if before != now:
        logger.warning(
            "resuming with %d processes what %d have begun: the batch stays %d clips, and numbers stay the same but "
            "for rounding and for the draws of drop path, dropout and mixup, which each process makes for itself",
            now,
            before,
            cfg.TRAIN.BATCH_SIZE,
        )


def find_changes(old: CfgNode, new: CfgNode) -> dict[str, str]:
    """Key -> "key: old -> new", of the keys that differ."""
    before, now = _flatten(old), _flatten(new)
    return {key: f"{key}: {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]}


def _flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value})
    return flat


def supersede_metrics(output_dir: str | Path, state: TrainState) -> None:
    """Moves the lines of metrics.jsonl that the run will write again to metrics.superseded.jsonl."""
    path = Path(output_dir) / "metrics.jsonl"
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    gone = [line for line in lines if _is_later(line, state)]
    if gone:
        with open(path.with_name("metrics.superseded.jsonl"), "a") as file:
            file.writelines(line.rstrip("\n") + "\n" for line in gone)
        write_whole(path, "".join(line for line in lines if line not in set(gone)).encode())


def _is_later(line: str, state: TrainState) -> bool:
    """Whether a log line was written after ``state``; so is a line that a crash has cut off."""
    try:
        stats = simplejson.loads(line)
        if stats["_type"] == "train_iter":
            return (int(stats["epoch"].split("/")[0]) - 1, int(stats["iter"].split("/")[0])) > (state.epoch, state.step)
        if stats["_type"] == "val_epoch":
            epoch = int(stats["epoch"].split("/")[0])
            return epoch > state.epoch or (epoch == state.epoch and not state.is_validated)
    except (ValueError, KeyError, TypeError):
        return True
    return False
