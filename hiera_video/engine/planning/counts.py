"""Arithmetic of a run: steps, clips, hours, cores, files. Plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass

_HOUR_SEC = 3600.0
_WITHIN_EPOCH = 2  # checkpoints of an epoch that runs, see `remove_old_checkpoints`


@dataclass(frozen=True)
class RunCounts:
    """How much a run does.

    Attributes:
        steps_per_epoch: optimizer steps of an effective epoch.
        steps: of the run.
        clips: that the model sees.
        decoded_videos: from which they come.
        passes_over_videos: how often each video is decoded.
    """

    steps_per_epoch: int
    steps: int
    clips: int
    decoded_videos: int
    passes_over_videos: float


def compute_counts(*, num_videos: int, num_epochs: int, batch_clips: int, clips_per_video: int) -> RunCounts:
    """Counts as the loader does: epochs are effective, and the incomplete last batch of each is left out.

    Args:
        num_videos: of the training list.
        num_epochs: SOLVER.MAX_EPOCH.
        batch_clips: TRAIN.BATCH_SIZE, a multiple of clips_per_video.
        clips_per_video: AUG.NUM_SAMPLE.

    Raises:
        ValueError: an epoch holds no whole batch.
    """
    batch_videos = batch_clips // clips_per_video
    steps_per_epoch = num_videos // clips_per_video // batch_videos
    if steps_per_epoch == 0:
        raise ValueError(
            f"{num_videos:,} videos make an epoch of {num_videos // clips_per_video:,} decoded ones (AUG.NUM_SAMPLE "
            f"{clips_per_video}), less than the {batch_videos:,} of one step; lower TRAIN.BATCH_SIZE = {batch_clips:,}"
        )
    steps = steps_per_epoch * num_epochs
    decoded = steps * batch_videos
    return RunCounts(steps_per_epoch, steps, steps * batch_clips, decoded, decoded / num_videos)


def compute_hours(clips: int, *, num_gpus: int, gpu_clips_per_sec: float) -> float:
    """Hours of training steps, if each of the GPUs takes that many clips per second all the time."""
    return clips / (num_gpus * gpu_clips_per_sec) / _HOUR_SEC


def count_cores_needed(clips_per_sec: float, *, clips_per_sec_per_core: float) -> int:
    """Cores that make as many clips as are taken."""
    return math.ceil(clips_per_sec / clips_per_sec_per_core)


def count_checkpoints(
    *, num_epochs: int, period_epochs: int, keep_last: int, has_best: bool, saves_within_epoch: bool
) -> int:
    """Checkpoint files that lie on the disk at most, one that is being written included.

    Args:
        num_epochs: SOLVER.MAX_EPOCH.
        period_epochs: TRAIN.CHECKPOINT_PERIOD.
        keep_last: TRAIN.CHECKPOINT_KEEP_LAST.
        has_best: whether the job keeps the best one beside them.
        saves_within_epoch: whether TRAIN.CHECKPOINT_PERIOD_MINUTES is set.
    """
    written = math.ceil(num_epochs / period_epochs)
    ends = min(keep_last, written) if keep_last else written
    being_written = 1 if keep_last and (saves_within_epoch or written > keep_last) else 0
    return ends + has_best + _WITHIN_EPOCH * saves_within_epoch + being_written
