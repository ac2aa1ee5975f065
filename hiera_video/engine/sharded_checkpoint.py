"""Checkpoints of divided models: all processes write one folder together, and read what is theirs from it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hiera_video.engine.checkpoint import (
    SHARDED_SUFFIX,
    CheckpointWriter,
    compute_digest,
    remove_checkpoint,
    save_checkpoint,
)
from hiera_video.engine.meters import Stopwatch
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.models.sharded_file import CONTENT_KEY, CONTENT_NAME, FILES_KEY, read_metadata
from hiera_video.utils.distributed import all_gather_objects, get_rank, is_main_process
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import compute_sha256
from hiera_video.utils.trees import map_named_tensors

logger = get_logger(__name__)
_Result = TypeVar("_Result")


def save_sharded_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint as a folder; all processes call it, and each writes its own pieces.

    A crash at any moment leaves no folder of this name, or a whole one: until everything is written and has reached the
    disk the folder has ``.partial`` behind its name.

    Args:
        path: where, on a disk that all processes share; ends in `.dcp`.
        content: as for `save_checkpoint`; the main process's counts, but for tensors that are divided.

    Raises:
        OSError: in all processes: one of them cannot write, or sees another disk than the main process.
    """
    pieces: dict[str, Tensor] = {}

    def take_out(name: str, tensor: Tensor) -> Tensor:
        if not hasattr(tensor, "to_local"):
            return tensor.detach()
        pieces[name] = tensor.detach()
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    rest = map_named_tensors(content, take_out)
    partial = path.with_name(path.name + ".partial")
    try:
        _do_together(lambda: _make_folder(partial) if is_main_process() else None)
        _do_together(lambda: _check_shared(partial))
        written = _do_together(lambda: _write_pieces(partial, pieces))
        files = {name: sha256 for part in written for name, sha256 in part.items()}
        _do_together(lambda: _finish(partial, path, rest, files) if is_main_process() else None)
    except OSError:
        if is_main_process():
            shutil.rmtree(partial, ignore_errors=True)  # it may fill the disk
        raise


def check_shared_folder(output_dir: str | Path) -> None:
    """Raises OSError in all processes where they do not share the disk that checkpoints will be written to."""
    folder = Path(output_dir) / "checkpoints"
    names = all_gather_objects(f".shared_{time.time_ns()}{SHARDED_SUFFIX}.partial")
    _do_together(lambda: _make_folder(folder / names[0]) if is_main_process() else None)
    try:
        _do_together(lambda: _check_shared(folder / names[0]))
    finally:
        if is_main_process():
            shutil.rmtree(folder / names[0], ignore_errors=True)


def save_together(writer: CheckpointWriter, path: Path, content: dict[str, Any], *, must_succeed: bool = False) -> None:
    """What `CheckpointWriter.save` is for whole models, by `save_sharded_checkpoint`: training waits for the files.

    Args:
        writer: of this process; says which checkpoints stay, and whether a failure ends the job.
        path: see `save_sharded_checkpoint`.
        content: see there.
        must_succeed: raise if it fails: nobody would try again later.

    Raises:
        OSError: in all processes: it could not be written, and training shall not go on without it.
    """
    _do_together(writer.wait)  # of the one file that the main process writes beside these
    watch = Stopwatch()
    try:
        save_sharded_checkpoint(path, content)
        _do_together(writer.remove_old if is_main_process() else lambda: None)
    except OSError as error:
        writer.log_failure(path, error)
        if must_succeed or writer.stop_on_failure:
            raise
        return
    logger.debug("checkpoint %s: training waited %.2f s for it", path.name, watch.lap())


def _make_folder(partial: Path) -> None:
    for left in partial.parent.glob(f"*{SHARDED_SUFFIX}.partial"):
        shutil.rmtree(left)  # of a job that was killed while it wrote
    partial.mkdir(parents=True)


def _check_shared(partial: Path) -> None:
    if not partial.is_dir():
        raise OSError(
            f"{partial}, which the main process has made, is not there for rank {get_rank()}: with TRAIN.SHARDING "
            "OUTPUT_DIR must lie on a disk that all processes share"
        )


def _write_pieces(folder: Path, pieces: dict[str, Tensor]) -> dict[str, str]:
    """Name -> SHA-256 of the files that this process has written."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(pieces, storage_writer=FileSystemWriter(folder, sync_files=True, single_file_per_rank=True))
    except CheckpointException as error:  # no Exception of Python's; the same in all processes
        failed = "; ".join(f"rank {rank}: {failure[0]}" for rank, failure in sorted(error.failures.items()))
        raise OSError(f"cannot write {folder}: {failed}") from error
    own = sorted(folder.glob(f"__{get_rank()}_*"))
    return {file.name: compute_sha256(str(file)) for file in own}


def _finish(partial: Path, path: Path, rest: dict[str, Any], files: dict[str, str]) -> None:
    needed = {info.relative_path for info in read_metadata(partial).storage_data.values()}
    missing = sorted(name for name in needed if not (partial / name).is_file())
    if missing:
        raise OSError(f"{partial} does not hold {missing[0]}, which another process has written there")
    files = {**files, ".metadata": compute_sha256(str(partial / ".metadata"))}
    save_checkpoint(partial / CONTENT_NAME, {CONTENT_KEY: rest, FILES_KEY: files})
    if path.exists():  # of the same step: the job was stopped before it took another one
        remove_checkpoint(path)
    os.replace(partial, path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _do_together(act: Callable[[], _Result]) -> list[_Result]:
    """What ``act`` gives in each process; raises OSError in all when it does in one."""
    result, failed = None, ""
    try:
        result = act()
    except OSError as error:
        failed = str(error)
    outcomes = all_gather_objects((failed, result))
    reasons = [reason for reason, _ in outcomes if reason]
    if reasons:
        raise OSError(reasons[0])
    return [value for _, value in outcomes]


def read_pieces(folder: str | os.PathLike[str], tensors: dict[str, Tensor]) -> None:
    """Fills divided tensors by a sharded checkpoint, however many processes wrote it; all processes call it.

    Args:
        folder: of the checkpoint, on a disk that all processes share.
        tensors: name in the checkpoint -> DTensor, which is written into.

    Raises:
        ValueError: in all processes: the folder is not there for all, or has not these tensors.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    class Reader(FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Any:
            return read_metadata(folder)

    try:
        load(tensors, storage_reader=Reader(folder))
    except CheckpointException as error:
        failed = "; ".join(f"rank {rank}: {failure[0]}" for rank, failure in sorted(error.failures.items()))
        raise ValueError(
            f"{folder} cannot be read by all processes ({failed}); with TRAIN.SHARDING OUTPUT_DIR must lie on a disk "
            "that all processes share"
        ) from error


def join_checkpoint(source: str, path: str | os.PathLike[str]) -> str:
    """Writes a sharded checkpoint as one file, as a job without sharding would have; gives its digest.

    Raises:
        ValueError: it is no checkpoint of a training job, there is such a file already, or what is written is not what
            was read.
    """
    out = Path(path)
    if out.exists():
        raise ValueError(f"{out} exists already; remove it, or name another")
    file = read_checkpoint_file(source, part="all")
    if not file.training.get("optimizer_state"):
        raise ValueError(f"{source} is no checkpoint of a training job: it has no state of an optimizer")
    own = {"cfg": file.config, "class_names": list(file.class_names), "tokens_grid": list(file.tokens_grid or ())}
    content = {
        "model_state": file.weights,
        **file.training,
        **own,
        "epoch": file.epoch,
        "decoder_num_heads": file.decoder_num_heads,
    }
    digest = compute_digest(content)
    save_checkpoint(out, {**content, "digest": digest})
    written = read_checkpoint_file(out)
    if compute_digest({**written.training, "model_state": written.weights, "epoch": written.epoch}) != digest:
        raise ValueError(f"{out} does not hold what {source} does: the disk has lost something")
    return digest
