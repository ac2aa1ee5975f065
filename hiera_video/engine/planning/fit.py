"""How a batch can be cut into passes that fit the memory of a GPU, and which settings make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from fvcore.common.config import CfgNode

from hiera_video.engine.planning.step import StepMemory, measure_step
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.sharding import SHARDINGS, ShardedBytes, compute_sharded_bytes

_MANY_UNITS = 16  # of clips of a pass: the second look


@dataclass(frozen=True)
class Setting:
    """A way to train a batch.

    Attributes:
        sharding: TRAIN.SHARDING.
        checkpointing: MODEL.ACT_CHECKPOINT.
        passes: TRAIN.GRAD_ACCUM_STEPS.
        clips: of one pass on one GPU.
        peak_bytes: of one GPU.
    """

    sharding: str
    checkpointing: bool
    passes: int
    clips: int
    peak_bytes: int


@dataclass
class MemoryModel:
    """Memory of a GPU for any batch and sharding, from two looks at a step for each kind of checkpointing.

    What is kept grows in proportion to the clips of a pass, and the peak never more slowly with more clips than with
    few: between the sizes looked at, a straight line is at or a little above the peak. A pass that was looked at itself
    counts as it is.

    Args:
        cfg: its TRAIN.BATCH_SIZE, TRAIN.GRAD_ACCUM_STEPS and MODEL.ACT_CHECKPOINT do not matter.
        unit_clips: a pass has a multiple of so many clips.
    """

    cfg: CfgNode
    unit_clips: int
    _steps: dict[tuple[bool, int], StepMemory] = field(default_factory=dict)
    _held: dict[tuple[str, int], ShardedBytes] = field(default_factory=dict)

    def measure(self, num_clips: int, *, checkpointing: bool) -> StepMemory:
        """The step itself, see `measure_step`."""
        key = checkpointing, num_clips
        if key not in self._steps:
            cfg = self.cfg.clone()
            cfg.defrost()
            cfg.MODEL.ACT_CHECKPOINT = checkpointing
            self._steps[key] = measure_step(cfg, num_clips=num_clips)
        return self._steps[key]

    def compute_held(self, sharding: str, num_gpus: int) -> ShardedBytes:
        """What a GPU holds of the model, gradients and optimizer."""
        key = sharding, num_gpus
        if key not in self._held:
            cfg = self.cfg
            with torch.device("meta"):
                model = build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE)
            self._held[key] = compute_sharded_bytes(
                model,
                sharding=sharding,
                num_processes=num_gpus,
                precision=cfg.TRAIN.PRECISION,
                num_moments=2 if cfg.SOLVER.OPTIMIZING_METHOD == "adamw" else int(cfg.SOLVER.MOMENTUM > 0),
                has_average=bool(cfg.SOLVER.EMA_DECAY),
            )
        return self._held[key]

    def compute_peak(self, num_clips: int, *, sharding: str, num_gpus: int, checkpointing: bool) -> int:
        """Peak memory of a GPU in bytes."""
        one, many = (self.measure(n * self.unit_clips, checkpointing=checkpointing) for n in (1, _MANY_UNITS))
        slope = (many.of_clips - one.of_clips) / ((_MANY_UNITS - 1) * self.unit_clips)
        of_clips = round(one.of_clips + slope * (num_clips - self.unit_clips))
        if (checkpointing, num_clips) in self._steps:
            of_clips = self._steps[checkpointing, num_clips].of_clips
        if sharding == "none" or num_gpus == 1:
            return one.states + of_clips
        # A step keeps 16-bit copies of the weights beside activations; divided models count theirs as gathered.
        copies = 0 if checkpointing else self.compute_held("none", 1).gathered
        return self.compute_held(sharding, num_gpus).total + max(of_clips - copies, 0)

    def find_largest_pass(self, budget_bytes: float, *, sharding: str, num_gpus: int, checkpointing: bool) -> int:
        """The most clips of a pass that fit, 0 where not even `unit_clips` do."""
        options: dict[str, Any] = {"sharding": sharding, "num_gpus": num_gpus, "checkpointing": checkpointing}
        at_one = self.compute_peak(self.unit_clips, **options)
        per_unit = (self.compute_peak(_MANY_UNITS * self.unit_clips, **options) - at_one) / (_MANY_UNITS - 1)
        if at_one > budget_bytes:
            return 0
        return (1 + int((budget_bytes - at_one) // per_unit)) * self.unit_clips


def list_passes(batch_clips: int, *, num_gpus: int, unit_clips: int) -> list[int]:
    """Into how many equal passes a GPU can cut its share of a batch, fewest first; [] where it has no whole share."""
    if batch_clips % (num_gpus * unit_clips):
        return []
    share = batch_clips // num_gpus // unit_clips
    return [passes for passes in range(1, share + 1) if share % passes == 0]


def list_settings(memory: MemoryModel, *, batch_clips: int, num_gpus: int, budget_bytes: float) -> Iterator[Setting]:
    """For each sharding, without and with checkpointing, the setting with the fewest passes that fits.

    Neither fp16 nor MODEL.COMPILE goes with sharding.

    Args:
        memory: of the config.
        batch_clips: TRAIN.BATCH_SIZE.
        num_gpus: over all machines.
        budget_bytes: what a GPU may use.
    """
    divides = num_gpus > 1 and memory.cfg.TRAIN.PRECISION != "fp16" and not memory.cfg.MODEL.COMPILE
    options = list_passes(batch_clips, num_gpus=num_gpus, unit_clips=memory.unit_clips)
    for sharding in SHARDINGS if divides else SHARDINGS[:1]:
        for checkpointing in (False, True):
            for passes in options:
                clips = batch_clips // num_gpus // passes
                peak = memory.compute_peak(clips, sharding=sharding, num_gpus=num_gpus, checkpointing=checkpointing)
                if peak <= budget_bytes:
                    yield Setting(sharding, checkpointing, passes, clips, peak)
                    break
