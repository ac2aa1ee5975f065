"""Checkpoints of a training job: their names, the writer, and which of them stay. `read_checkpoint_file` reads."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import torch

from hiera_video.engine.meters import Stopwatch
from hiera_video.utils.files import open_whole
from hiera_video.utils.logging import get_logger
from hiera_video.utils.trees import compute_tree_digest, copy_to_cpu

logger = get_logger(__name__)

# A file, or of a divided model a folder, see `sharded_checkpoint`.
WHOLE_SUFFIX, SHARDED_SUFFIX = ".pyth", ".dcp"
_PATTERN = re.compile(r"checkpoint_epoch_(\d{5})(?:_step_(\d{7}))?\.(?:pyth|dcp)")
# What a run goes on from: the digest of a checkpoint is over these.
_CONTINUED = ("model_state", "trained_model_state", "optimizer_state", "scaler_state", "ema_num_averaged")
_REMOVED = ".removed"
_KEPT_WITHIN_EPOCH = 2  # the newest, and the one before for the case that the newest is damaged


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoints of ``output_dir``, at the ends of epochs and within them, the newest last."""
    folder = Path(output_dir) / "checkpoints"
    return sorted((path for path in folder.glob("*") if _PATTERN.fullmatch(path.name)), key=_read_progress)


def find_last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint, or None."""
    checkpoints = list_checkpoints(output_dir)
    return checkpoints[-1] if checkpoints else None


def get_checkpoint_path(output_dir: str | Path, epoch: int, step: int = 0, *, suffix: str = WHOLE_SUFFIX) -> Path:
    """Where the checkpoint after ``epoch`` finished epochs and ``step`` optimizer steps of the next one lies."""
    within = f"_step_{step:07d}" if step else ""
    return Path(output_dir) / "checkpoints" / f"checkpoint_epoch_{epoch:05d}{within}{suffix}"


def get_best_path(output_dir: str | Path) -> Path:
    """Where the checkpoint of the best validation lies."""
    return Path(output_dir) / "checkpoints" / "checkpoint_best.pyth"


def get_validation_record_path(checkpoint: str | Path) -> Path:
    """Where it is written down what the last validation found, beside the checkpoints of a run."""
    return Path(checkpoint).parent / "last_validation.json"


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint's file or folder. A folder that is only half removed is no checkpoint any more."""
    if path.is_dir():
        path = path.rename(path.with_name(path.name + _REMOVED))
        shutil.rmtree(path)
    else:
        path.unlink()


def _read_progress(path: Path) -> tuple[int, int]:
    """(finished epochs, steps of the next one) of a checkpoint, from its name."""
    epoch, step = _PATTERN.findall(path.name)[0]
    return int(epoch), int(step or 0)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint. A crash at any moment leaves the old file or the new one, never a part of one.

    Args:
        path: where; missing folders are made.
        content: tensors, numbers, texts and containers of them, so that it loads with ``weights_only=True``.

    Raises:
        OSError: it cannot be written, for instance because the disk is full; what was there before is as it was.
    """
    try:
        with open_whole(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch says so of its zip archive when writing fails under it
        raise OSError(f"cannot write {path}: {error}") from error


def compute_digest(content: dict[str, Any]) -> str:
    """SHA-256 of the part of a checkpoint that training goes on from: weights, moments, progress."""
    part = {key: content[key] for key in (*_CONTINUED, "epoch", "step", "best_score") if key in content}
    return compute_tree_digest(part)


def remove_old_checkpoints(output_dir: str | Path, *, keep_last: int) -> None:
    """Removes what newer checkpoints make needless; the best one stays.

    Of the ends of epochs the newest ``keep_last`` stay (0: all). Those within an epoch go when it has ended, and of an
    epoch that runs the newest two stay.
    """
    progress = {path: _read_progress(path) for path in list_checkpoints(output_dir)}
    ends = [path for path, (_, step) in progress.items() if step == 0]
    last_end = progress[ends[-1]] if ends else (0, 0)
    within = [path for path, place in progress.items() if place[1] and place > last_end]
    stays = {*(ends[-keep_last:] if keep_last else ends), *within[-_KEPT_WITHIN_EPOCH:]}
    for path in progress:
        if path not in stays:
            remove_checkpoint(path)
    for left in (Path(output_dir) / "checkpoints").glob(f"*{_REMOVED}"):
        shutil.rmtree(left)  # of a job that was killed while it removed
    for partial in (Path(output_dir) / "checkpoints").glob("*.pyth.partial"):
        partial.unlink()  # of a job that was killed while it wrote


class CheckpointWriter:
    """Writes checkpoints in a thread, from copies, so that training goes on meanwhile. One is under way at a time.

    As a context manager it waits for the last one at the end.

    Args:
        output_dir: of the job.
        keep_last: see `remove_old_checkpoints`.
        stop_on_failure: whether a checkpoint that cannot be written ends the job at the next call, or is only logged.
    """

    def __init__(self, output_dir: str | Path, *, keep_last: int, stop_on_failure: bool) -> None:
        self.output_dir, self.keep_last, self.stop_on_failure = output_dir, keep_last, stop_on_failure
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._thread.join()

    def save(self, path: Path, content: dict[str, Any], *, must_succeed: bool = False) -> None:
        """Copies ``content`` and writes it in the background, after what is still under way.

        Args:
            path: from `get_checkpoint_path` or `get_best_path`.
            content: see `save_checkpoint`.
            must_succeed: wait for it, and raise if it fails: nobody would try again later.

        Raises:
            OSError: a checkpoint could not be written, and training shall not go on without it.
        """
        self.wait()
        watch = Stopwatch()
        copy = copy_to_cpu(content)
        copy_sec = watch.lap()
        self._thread = threading.Thread(target=self._write, args=(path, copy, copy_sec), name="checkpoint")
        self._thread.start()
        if must_succeed:
            self.wait(must_succeed=True)

    def wait(self, *, must_succeed: bool = False) -> None:
        """Waits until nothing is under way. Raises OSError as `save` does."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error and (must_succeed or self.stop_on_failure):
            raise error

    def remove_old(self) -> None:
        """Removes what newer checkpoints make needless."""
        remove_old_checkpoints(self.output_dir, keep_last=self.keep_last)

    def log_failure(self, path: Path, error: OSError) -> None:
        """Logs that a checkpoint was not written, and what follows from that."""
        then = "TRAIN.STOP_WHEN_DISK_FULL ends the job" if self.stop_on_failure else "the next one is tried again"
        logger.error("checkpoint %s was not written: %s; older ones are as they were; %s", path.name, error, then)

    def _write(self, path: Path, content: dict[str, Any], copy_sec: float) -> None:
        watch = Stopwatch()
        try:
            save_checkpoint(path, {**content, "digest": compute_digest(content)})
            self.remove_old()
        except OSError as error:
            self._error = error
            self.log_failure(path, error)
            return
        logger.debug(
            "checkpoint %s: training waited %.2f s for a copy, and not for the %.2f s of writing",
            path.name,
            copy_sec,
            watch.lap(),
        )
