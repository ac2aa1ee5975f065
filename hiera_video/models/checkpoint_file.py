"""The one reader of checkpoint files: it opens a file once, maps it into memory, and never runs code from it.

A file may be a checkpoint of a training job, a released `.pth`, a bare state dict, or a `.safetensors` file. Each form
has one function in `_FORMS`; a form of another project is one more function there, which renames the weights.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hiera_video.utils.pathmgr import fetch_file

_WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_WEIGHTS = "model_state"


@dataclass(frozen=True, eq=False)
class CheckpointFile:
    """What a checkpoint file holds. Its tensors are views of the file, whose bytes are read when they are needed.

    Attributes:
        source: the path or URL by which the file was asked for.
        kind: "training" (a training job can resume from it), "released" (weights under the key `model_state`) or
            "weights" (a bare state dict; a `.safetensors` file).
        weights: by name, without the prefixes of DDP and torch.compile. Of a training job with EMA, the average.
        config: text of the config that the model was trained with; empty where the file has none.
        class_names: empty where the file has none.
        epoch: finished epochs; None where the file does not say.
        tokens_grid: tokens per side, (T', H', W') or (H', W'); None where the file does not say.
        training: what only resuming needs: the states of the optimizer and the loss scaler, and so on. Empty where
            kind is not "training".
        local_path: where the file, or the copy of it, lies on this machine.
    """

    source: str
    kind: str
    weights: dict[str, Tensor]
    config: str = ""
    class_names: tuple[str, ...] = ()
    epoch: int | None = None
    tokens_grid: tuple[int, ...] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    local_path: str = ""


def read_checkpoint_file(path: str | os.PathLike[str]) -> CheckpointFile:
    """Reads a checkpoint file of any form, on the CPU.

    The file must not change while its tensors are in use; `save_checkpoint` replaces files and never changes one.

    Args:
        path: local file or URL.

    Raises:
        FileNotFoundError: there is no such file, or the URL cannot be fetched.
        ValueError: the file is no checkpoint, or only unsafe unpickling could read it.
    """
    source = os.fspath(path)
    local_path = fetch_file(source)
    try:
        content = _load(local_path)
    except Exception as error:  # a damaged file can make an unpickler raise anything
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{source} is no checkpoint, or none that can be read safely: {reason}") from error
    found = None
    if isinstance(content, dict):
        found = next((file for take in _FORMS if (file := take(source, content))), None)
    if found is None or not _is_state_dict(found.weights):
        raise ValueError(f"{source} holds no state dict, neither at the top nor under the key '{_WEIGHTS}'")
    weights = {_strip_prefixes(name): value for name, value in found.weights.items()}
    return replace(found, weights=weights, local_path=local_path)


def _load(path: str) -> Any:
    if path.endswith(".safetensors"):
        return safetensors.torch.load_file(path)
    # Files that torch wrote before version 1.6 are no zip archives, and cannot be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _take_checkpoint(source: str, content: dict[str, Any]) -> CheckpointFile | None:
    """Weights beside other things: checkpoints of training jobs, and the released files."""
    if _WEIGHTS not in content:
        return None
    rest = {key: value for key, value in content.items() if key != _WEIGHTS}
    config, names, epoch, grid = (rest.pop(key, None) for key in ("cfg", "class_names", "epoch", "tokens_grid"))
    is_training = isinstance(config, str) and isinstance(epoch, int) and "optimizer_state" in rest
    return CheckpointFile(
        source=source,
        kind="training" if is_training else "released",
        weights=content[_WEIGHTS],
        config=config if isinstance(config, str) else "",
        class_names=tuple(names or ()),
        epoch=epoch if isinstance(epoch, int) else None,
        tokens_grid=tuple(grid) if grid else None,
        training=rest if is_training else {},
    )


def _take_state_dict(source: str, content: dict[str, Any]) -> CheckpointFile | None:
    return CheckpointFile(source=source, kind="weights", weights=content)


# Tried in this order on what a file holds; a function gives None where the file is of another form.
_FORMS: tuple[Callable[[str, dict[str, Any]], CheckpointFile | None], ...] = (_take_checkpoint, _take_state_dict)


def _is_state_dict(weights: Any) -> bool:
    return isinstance(weights, dict) and bool(weights) and all(isinstance(v, Tensor) for v in weights.values())


def _strip_prefixes(name: str) -> str:
    while name.startswith(_WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name
