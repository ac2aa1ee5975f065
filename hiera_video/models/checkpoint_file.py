"""The one reader of checkpoint files: it opens a file once, maps it into memory, and never runs code from it.

A file may be a checkpoint of a training job, a released `.pth`, a state dict at the top or under a key, a
`.safetensors` file, or a folder: of Hugging Face, or a checkpoint that many processes have written. Each form has one
function in `_FORMS`; `foreign_weights` renames the weights of other packages.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import simplejson
import torch
from torch import Tensor

from hiera_video.models.foreign_weights import to_our_names
from hiera_video.models.sharded_file import CONTENT_NAME, is_sharded_content, read_sharded_content
from hiera_video.utils.pathmgr import fetch_file, get_path_here

# Of DistributedDataParallel, of torch.compile, and of models that hold this one as a part.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
_WEIGHTS = "model_state"
_NESTING_KEYS = ("model", "state_dict")
_HF_CONFIG = "config.json"
_HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FOLDERS = (*_HF_WEIGHTS, CONTENT_NAME)


@dataclass(frozen=True, eq=False)
class CheckpointFile:
    """What a checkpoint file holds. Its tensors are views of the file, whose bytes are read when they are needed.

    Attributes:
        source: the path or URL by which the file was asked for.
        kind: "training" (a training job wrote it), "released" (weights under the key `model_state`) or
            "weights" (a bare state dict; a `.safetensors` file).
        weights: under our names, without prefixes of wrappers. Of a training job with EMA, the average.
        format: whose names the file itself has, see `foreign_weights.recognize_format`.
        config: text of the config that the model was trained with; empty where the file has none.
        class_names: empty where the file has none.
        epoch: finished epochs; None where the file does not say.
        tokens_grid: tokens per side, (T', H', W') or (H', W'); None where the file does not say.
        decoder_num_heads: of an autoencoder's decoder; None where the file does not say.
        training: what only resuming needs: the states of the optimizer and the loss scaler, and so on. Empty where
            kind is not "training". Of a sharded checkpoint the tensors in it are on the meta device, unless it was read
            with ``part="all"``.
        local_path: where the file, or the copy of it, lies on this machine.
    """

    source: str
    kind: str
    weights: dict[str, Tensor]
    format: str = "hiera"
    config: str = ""
    class_names: tuple[str, ...] = ()
    epoch: int | None = None
    tokens_grid: tuple[int, ...] | None = None
    decoder_num_heads: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    local_path: str = ""


def read_checkpoint_file(path: str | os.PathLike[str], *, part: str = "weights") -> CheckpointFile:
    """Reads a checkpoint file of any form, on the CPU.

    The file must not change while its tensors are in use; `save_checkpoint` replaces files and never changes one.

    Args:
        path: local file, folder of Hugging Face or of a sharded checkpoint, or URL.
        part: which tensors of a sharded checkpoint to read, since they cannot be mapped: the "weights" to use, "all",
            or "none", which leaves them all on the meta device.

    Raises:
        FileNotFoundError: there is no such file, or the URL cannot be fetched.
        ValueError: the file is no checkpoint, only unsafe unpickling could read it, or Hiera cannot compute what it is.
    """
    source = os.fspath(path)
    local_path = find_weights_file(source)
    try:
        content = _load(local_path, part)
    except Exception as error:  # a damaged file can make an unpickler raise anything
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{source} is no checkpoint, or none that can be read safely: {reason}") from error
    found = None
    if isinstance(content, dict):
        found = next((file for take in _FORMS if (file := take(source, content))), None)
    if found is None or not _is_state_dict(found.weights):
        keys = "', '".join((_WEIGHTS, *_NESTING_KEYS))
        raise ValueError(f"{source} holds no state dict, neither at the top nor under one of the keys '{keys}'")
    try:
        kind, weights = to_our_names({_strip_prefixes(name): value for name, value in found.weights.items()})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    said = _read_hf_config(local_path) if kind == "hf" else {}
    return replace(found, weights=weights, format=kind, local_path=local_path, **said)


def find_weights_file(path: str) -> str:
    """The local path of a checkpoint file; of a folder, that of the file in it that holds or names the weights.

    Raises:
        FileNotFoundError: there is no such file, or the folder holds none of the names that weights have.
    """
    folder = get_path_here(path)
    if not folder or not os.path.isdir(folder):
        return fetch_file(path)
    found = next((name for name in _FOLDERS if os.path.isfile(os.path.join(folder, name))), None)
    if found is None:
        shards = " (weights in several files are not read: save them with a larger max_shard_size)"
        is_sharded = any(name.endswith(".index.json") for name in os.listdir(folder))
        raise FileNotFoundError(
            f"{path}: is a folder, and holds neither {' nor '.join(_FOLDERS)}{shards if is_sharded else ''}"
        )
    return os.path.join(folder, found)


def _read_hf_config(weights_path: str) -> dict[str, Any]:
    """What the config beside Hugging Face's weights says of them; empty without one."""
    path = os.path.join(os.path.dirname(weights_path), _HF_CONFIG)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path) as file:
            config = simplejson.load(file)
        names = {int(i): name for i, name in config.get("id2label", {}).items()}
        is_named = any(name != f"LABEL_{i}" for i, name in names.items())
        grid = [size // stride for size, stride in zip(config["image_size"], config["patch_stride"], strict=True)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no config of a Hiera: {type(error).__name__}: {error}") from error
    return {
        "class_names": tuple(names[i] for i in sorted(names)) if is_named else (),
        "tokens_grid": tuple(grid),
        "decoder_num_heads": config.get("decoder_num_heads"),
    }


def _load(path: str, part: str) -> Any:
    if path.endswith(".safetensors"):
        return safetensors.torch.load_file(path)
    # Files that torch wrote before version 1.6 are no zip archives, and cannot be mapped.
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not is_sharded_content(content):
        return content
    begins = {"weights": _WEIGHTS + ".", "all": "", "none": None}[part]
    folder = os.path.dirname(path)
    return read_sharded_content(content, folder, is_wanted=lambda name: begins is not None and name.startswith(begins))


def _take_checkpoint(source: str, content: dict[str, Any]) -> CheckpointFile | None:
    """Weights beside other things: checkpoints of training jobs, and the released files."""
    if _WEIGHTS not in content:
        return None
    rest = {key: value for key, value in content.items() if key != _WEIGHTS}
    config, names, epoch, grid = (rest.pop(key, None) for key in ("cfg", "class_names", "epoch", "tokens_grid"))
    heads = rest.pop("decoder_num_heads", None)
    is_training = isinstance(config, str) and isinstance(epoch, int) and "optimizer_state" in rest
    return CheckpointFile(
        source=source,
        kind="training" if is_training else "released",
        weights=content[_WEIGHTS],
        config=config if isinstance(config, str) else "",
        class_names=tuple(names or ()),
        epoch=epoch if isinstance(epoch, int) else None,
        tokens_grid=tuple(grid) if grid else None,
        decoder_num_heads=heads,
        training=rest if is_training else {},
    )


def _take_nested(source: str, content: dict[str, Any]) -> CheckpointFile | None:
    """Weights under a key, as timm, SAM2, Lightning and many training scripts write them."""
    key = next((key for key in _NESTING_KEYS if isinstance(content.get(key), dict)), None)
    return CheckpointFile(source=source, kind="weights", weights=content[key]) if key else None


def _take_state_dict(source: str, content: dict[str, Any]) -> CheckpointFile | None:
    return CheckpointFile(source=source, kind="weights", weights=content)


# Tried in this order on what a file holds; a function gives None where the file is of another form.
_FORMS: tuple[Callable[[str, dict[str, Any]], CheckpointFile | None], ...] = (
    _take_checkpoint,
    _take_nested,
    _take_state_dict,
)


def _is_state_dict(weights: Any) -> bool:
    return isinstance(weights, dict) and bool(weights) and all(isinstance(v, Tensor) for v in weights.values())


def _strip_prefixes(name: str) -> str:
    while name.startswith(_WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name
