"""Signs of a run's health: a heartbeat for watchdogs, a loss that grows, memory that does not suffice."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import simplejson
import torch
from fvcore.common.config import CfgNode

from hiera_video.engine.training.state import TrainState
from hiera_video.utils.distributed import is_main_process
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)

_HEARTBEAT_PERIOD_SEC = 5.0
_LOSS_RISE_TO_WARN = 3.0


class OutOfGpuMemory(RuntimeError):
    """A training step does not fit into the GPU's memory."""


class Heartbeat:
    """Writes OUTPUT_DIR/heartbeat.json: when the job last did something, and how far it is.

    Args:
        output_dir: of the job.
        period_sec: it is written at most so often.
    """

    def __init__(self, output_dir: str | Path, *, period_sec: float = _HEARTBEAT_PERIOD_SEC) -> None:
        self.path, self.period_sec = Path(output_dir) / "heartbeat.json", period_sec
        self._last = -period_sec
        self._is_disk_writable = True

    def beat(self, doing: str, state: TrainState) -> None:
        """The main process writes what it is doing, if it is time for that; a full disk loses only the heartbeat."""
        now = time.monotonic()
        if not is_main_process() or now - self._last < self.period_sec:
            return
        self._last = now
        content = {"unix_time": time.time(), "doing": doing, "epoch": state.epoch, "step": state.step}
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            partial.write_text(simplejson.dumps(content) + "\n")
            partial.replace(self.path)
        except OSError as error:
            if self._is_disk_writable:
                logger.error("%s cannot be written: %s", self.path, error)
            self._is_disk_writable = False


def check_loss(cfg: CfgNode, state: TrainState, loss: float, place: str) -> None:
    """Compares the mean loss of a log line with that of the first.

    Raises:
        FloatingPointError: it is more than SOLVER.MAX_LOSS_RISE times as high.
    """
    if math.isnan(loss):
        return  # every step of this period was left out
    if state.first_loss is None:
        state.first_loss = loss
    if state.first_loss <= 0:  # a loss below zero has no ratio
        return
    rise = loss / state.first_loss
    message = f"the loss is {loss:.4g} at {place}, {rise:.1f} times that of the first log line, {state.first_loss:.4g}"
    hint = "lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS or set SOLVER.CLIP_GRAD_L2NORM"
    if 0 < cfg.SOLVER.MAX_LOSS_RISE < rise:
        raise FloatingPointError(f"{message}; SOLVER.MAX_LOSS_RISE = {cfg.SOLVER.MAX_LOSS_RISE} stops the job: {hint}")
    if rise > _LOSS_RISE_TO_WARN:
        logger.warning("%s: training may have gone astray; %s", message, hint)


@contextlib.contextmanager
def explain_out_of_memory(cfg: CfgNode) -> Iterator[None]:
    """In this block, running out of GPU memory raises `OutOfGpuMemory`, which says which keys make it suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        clips = cfg.TRAIN.BATCH_SIZE
        raise OutOfGpuMemory(
            f"a step with TRAIN.BATCH_SIZE = {clips} clips in TRAIN.GRAD_ACCUM_STEPS = {cfg.TRAIN.GRAD_ACCUM_STEPS} "
            f"parts does not fit into the GPU's memory. The same batch in more parts: TRAIN.GRAD_ACCUM_STEPS "
            f"{2 * cfg.TRAIN.GRAD_ACCUM_STEPS}. Less memory a clip: TRAIN.PRECISION bf16 (now "
            f"{cfg.TRAIN.PRECISION}), MODEL.ACT_CHECKPOINT True (now {cfg.MODEL.ACT_CHECKPOINT}). Less "
            f"memory of weights, on several GPUs: TRAIN.SHARDING zero3 (now {cfg.TRAIN.SHARDING}). "
            f"{str(error).splitlines()[0]}"
        ) from error
