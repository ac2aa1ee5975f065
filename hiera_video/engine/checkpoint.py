"""Checkpoints of a training job: their names, the one writer, and which of them stay. `read_checkpoint_file` reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from hiera_video.utils.files import open_whole

_PATTERN = re.compile(r"checkpoint_epoch_(\d{5})\.pyth")


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoints of ``output_dir``, the newest epoch last."""
    folder = Path(output_dir) / "checkpoints"
    return sorted(path for path in folder.glob("*.pyth") if _PATTERN.fullmatch(path.name))


def find_last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint, or None."""
    checkpoints = list_checkpoints(output_dir)
    return checkpoints[-1] if checkpoints else None


def get_checkpoint_path(output_dir: str | Path, epoch: int) -> Path:
    """Where the checkpoint after ``epoch`` finished epochs lies."""
    return Path(output_dir) / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth"


def get_best_path(output_dir: str | Path) -> Path:
    """Where the checkpoint of the best validation lies."""
    return Path(output_dir) / "checkpoints" / "checkpoint_best.pyth"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint. A crash at any moment leaves the old file or the new one, never a part of one.

    Args:
        path: where; missing folders are made.
        content: tensors, numbers, texts and containers of them, so that it loads with ``weights_only=True``.
    """
    with open_whole(path) as file:
        torch.save(content, file)


def remove_old_checkpoints(output_dir: str | Path, *, keep_last: int) -> None:
    """Removes all but the newest ``keep_last`` checkpoints (0: removes none); the best one stays."""
    for old in list_checkpoints(output_dir)[:-keep_last] if keep_last else []:
        old.unlink()
