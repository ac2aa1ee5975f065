"""Checkpoints that many processes write together, each its own pieces: folders of torch.distributed.checkpoint.

Beside the files of that format lies `content.pth`: everything that is not divided, the shapes of what is, as tensors on
the meta device, and the SHA-256 of each other file. So it names the whole, and it is written last.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiera_video.utils.pathmgr import compute_sha256
from hiera_video.utils.trees import map_named_tensors

CONTENT_NAME = "content.pth"
CONTENT_KEY, FILES_KEY = "sharded_content", "sha256_of_files"
_METADATA_NAME = ".metadata"
# All that the metadata of torch.distributed.checkpoint are made of, for tensors.
_LEGAL = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float32", "float64", "float16", "bfloat16", "int64"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePosixPath"},
}


class _MetadataUnpickler(pickle.Unpickler):
    """Makes what metadata consist of, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _LEGAL.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is nothing that belongs into {_METADATA_NAME}")
        return super().find_class(module, name)


def is_sharded_content(content: Any) -> bool:
    """Whether this is what a `content.pth` holds."""
    return isinstance(content, dict) and CONTENT_KEY in content and FILES_KEY in content


def read_metadata(folder: str | os.PathLike[str]) -> Any:
    """The `Metadata` of a folder: which piece of which tensor lies where.

    Raises:
        FileNotFoundError: there is none.
        pickle.UnpicklingError: it holds other things than metadata.
    """
    return _MetadataUnpickler(io.BytesIO((Path(folder) / _METADATA_NAME).read_bytes())).load()


def check_files(content_path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a checkpoint one of whose files is not as it was written."""
    path = Path(content_path)
    written = torch.load(path, map_location="cpu", weights_only=True)[FILES_KEY]
    for name, sha256 in written.items():
        file = path.with_name(name)
        if not file.is_file():
            raise ValueError(f"{path.parent} is not whole: {name} is not there")
        if compute_sha256(str(file)) != sha256:
            raise ValueError(f"{path.parent} has changed since it was written: {name} does not fit its SHA-256")


def read_sharded_content(
    content: dict[str, Any], folder: str | os.PathLike[str], *, is_wanted: Callable[[str], bool]
) -> dict[str, Any]:
    """The content of a checkpoint with whole tensors, read in this process alone.

    Args:
        content: what `content.pth` holds.
        folder: where it lies.
        is_wanted: whether to read a tensor, by its name: the keys that lead to it, with dots between. Others stay on
            the meta device.

    Raises:
        ValueError: a piece is missing.
        OSError: a file cannot be read.
    """
    metadata = read_metadata(folder)

    def fill(name: str, tensor: Tensor) -> Tensor:
        return _read_tensor(metadata, Path(folder), name) if tensor.is_meta and is_wanted(name) else tensor

    filled: dict[str, Any] = map_named_tensors(content[CONTENT_KEY], fill)
    return filled


def _read_tensor(metadata: Any, folder: Path, name: str) -> Tensor:
    entry = metadata.state_dict_metadata.get(name)
    if entry is None:
        raise ValueError(f"{folder} has no pieces of {name}")
    whole = torch.empty(entry.size, dtype=entry.properties.dtype)
    places = {tuple(index.offset): info for index, info in metadata.storage_data.items() if index.fqn == name}
    num_read = 0
    for chunk in entry.chunks:
        place = places[tuple(chunk.offsets)]
        with open(folder / place.relative_path, "rb") as file:
            file.seek(place.offset)
            piece = torch.load(io.BytesIO(file.read(place.length)), map_location="cpu", weights_only=True)
        region = tuple(slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))
        whole[region] = piece
        num_read += piece.numel()
    if num_read != whole.numel():
        raise ValueError(f"{folder} has {num_read} of the {whole.numel()} values of {name}")
    return whole
