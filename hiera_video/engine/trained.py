"""Trained models for use: which weights, with which config, and nothing of them left random."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import simplejson
import torch
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.config import load_config
from hiera_video.data.lists import load_class_names
from hiera_video.engine.checkpoint import find_last_checkpoint, get_best_path, get_validation_record_path
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.checkpoint_file import CheckpointFile, find_weights_file, read_checkpoint_file
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.released import WEIGHTS, get_class_names, resolve_weights
from hiera_video.models.sharded_file import CONTENT_NAME
from hiera_video.models.weights import load_weights
from hiera_video.utils.distributed import get_device
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import compute_sha256

logger = get_logger(__name__)
# Of a config that only describes a model: nothing is trained, tested or extracted by it.
NO_JOBS = tuple(word for section in ("TRAIN", "TEST", "EXTRACT") for word in (f"{section}.ENABLE", "False"))


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and what belongs to it.

    Attributes:
        cfg: the config that it was trained with, with the caller's changes.
        model: a classifier (`Hiera`) or a `HieraMAE`, in eval mode, on this process's device.
        class_names: empty where unknown.
        checkpoint: path or URL of the weights.
        sha256: of that file.
        thresholds: from which probability on a video has each class, where it may have several; empty where unknown.
    """

    cfg: CfgNode
    model: HieraEncoder
    class_names: tuple[str, ...]
    checkpoint: str
    sha256: str
    thresholds: tuple[float, ...] = ()

    def get_class_name(self, label: int) -> str:
        """The name of a class; its number where it has none."""
        return self.class_names[label] if label < len(self.class_names) else str(label)


def load_trained(
    checkpoint: str,
    *,
    cfg_files: Sequence[str] = (),
    opts: Sequence[str] = (),
    optional: Sequence[str] | Callable[[CfgNode], Sequence[str]] = (),
) -> Trained:
    """Loads a checkpoint with the config that is stored in it; a released file needs a config file or options.

    Args:
        checkpoint: path, URL, or the name of released weights.
        cfg_files: yaml files on top of the stored config.
        opts: keys and values on top of them.
        optional: see `load_model`; or a function that gives it from the config.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no checkpoint, does not fill the model, or a key is wrong.
    """
    file = read_weights(checkpoint, cfg_files=cfg_files, opts=opts)
    cfg = load_config(cfg_files, [*NO_JOBS, *opts], stored=file.config)
    class_names = file.class_names or get_class_names(file.source)
    if not class_names and cfg.DATA.CLASS_NAMES_PATH:
        class_names = tuple(load_class_names(cfg.DATA.CLASS_NAMES_PATH))
    names = optional(cfg) if callable(optional) else optional
    model = load_model(cfg, file, optional=names).to(get_device())
    sha256, thresholds = compute_file_sha256(file.local_path), tuple(load_thresholds(file))
    return Trained(cfg, model.eval(), class_names, file.source, sha256, thresholds)


def read_weights(checkpoint: str, *, cfg_files: Sequence[str] = (), opts: Sequence[str] = ()) -> CheckpointFile:
    """Reads a checkpoint file by path or URL, or released weights by name.

    Args:
        checkpoint: path, URL, or a name in `released.WEIGHTS`.
        cfg_files: yaml files; with a name, they or ``opts`` say the model's, MODEL.MODEL_NAME.
        opts: keys and values on top of them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no checkpoint, or there are no such weights of the model's size.
    """
    if checkpoint in WEIGHTS:
        checkpoint = resolve_weights(load_config(cfg_files, [*NO_JOBS, *opts]).MODEL.MODEL_NAME, checkpoint)
    return read_checkpoint_file(checkpoint)


def load_model(cfg: CfgNode, checkpoint: str | CheckpointFile, *, optional: Sequence[str] = ()) -> HieraEncoder:
    """The model of MODEL.MODEL_NAME, for clips of DATA.TEST_CROP_SIZE, with the weights of a file.

    Args:
        checkpoint: path or URL, or a file that `read_checkpoint_file` has already read.
        optional: beginnings of names; parameters with such a name stay random, as nobody uses them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no checkpoint, or other parameters are missing in it.
    """
    model = build_model_from_cfg(cfg, crop_size=cfg.DATA.TEST_CROP_SIZE)
    report = load_weights(model, checkpoint, pos_embed_resize=cfg.MODEL.POS_EMBED_RESIZE, ignore=optional)
    logger.info("%s", report)
    if report.missing:
        is_mae = bool(report.dropped_decoder)
        hint = f"; these are weights of pre-training, for MODEL.MODEL_NAME mae_{cfg.MODEL.MODEL_NAME}" if is_mae else ""
        raise ValueError(
            f"{report.source} does not hold the whole of {cfg.MODEL.MODEL_NAME} with {cfg.MODEL.NUM_CLASSES} classes: "
            f"missing {', '.join(report.missing)}{hint}"
        )
    return model


def load_thresholds(file: CheckpointFile) -> list[float]:
    """From which probability on a video has each class, as validation chose it in training; [] where it did not.

    The best checkpoint holds them; of the others, only the one that was validated last has them, in a file beside it.
    """
    held = file.training.get("thresholds")
    if held:
        return list(held)
    path = Path(file.local_path)
    checkpoint = path.parent if path.name == CONTENT_NAME else path  # a folder that many processes have written
    try:
        record = simplejson.loads(get_validation_record_path(checkpoint).read_text())
    except (OSError, ValueError):
        return []
    is_same = record.get("saved_at_ns") == file.training.get("saved_at_ns")
    return list(record.get("thresholds", ())) if is_same else []


def find_weights(cfg: CfgNode, given: str, *, key: str) -> str:
    """``given``, else the newest checkpoint of OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH; a name as an address.

    Args:
        given: a path, a URL, the name of released weights, or "best": the checkpoint of OUTPUT_DIR's best validation.
        key: the config key that says so.

    Raises:
        FileNotFoundError: there is none of them; names ``key``.
    """
    if given == "best":
        best = get_best_path(cfg.OUTPUT_DIR)
        if not best.exists():
            raise FileNotFoundError(f"{key} = best, but there is no {best}: no validation has written it")
        return str(best)
    last = find_last_checkpoint(cfg.OUTPUT_DIR)
    path = given or (str(last) if last else cfg.TRAIN.CHECKPOINT_FILE_PATH)
    if not path:
        raise FileNotFoundError(
            f"no weights: {key} is empty and OUTPUT_DIR = {cfg.OUTPUT_DIR} holds no checkpoints/checkpoint_epoch_*.pyth"
        )
    return resolve_weights(cfg.MODEL.MODEL_NAME, path)


def compute_file_sha256(path: str) -> str:
    """SHA-256 of the weights in a file or folder (path or URL), as 64 hexadecimal digits."""
    return compute_sha256(find_weights_file(path))


def compute_model_sha256(model: nn.Module) -> str:
    """SHA-256 of all names and values of a model's state, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
