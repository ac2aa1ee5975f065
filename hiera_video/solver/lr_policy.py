"""The learning rate as a function of the epoch, fractions of an epoch included."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler

LrPolicy = Callable[[float], float]


def cosine_policy(*, base_lr: float, end_lr: float, max_epoch: int, warmup_epochs: float = 0.0) -> LrPolicy:
    """Half a cosine from ``base_lr`` at the end of the warm-up to ``end_lr`` at ``max_epoch``.

    Follows: MAE, and SlowFast with COSINE_AFTER_WARMUP.
    """
    scheduler = CosineParamScheduler(base_lr, end_lr)
    span = max(max_epoch - warmup_epochs, 1e-12)
    return lambda epoch: scheduler(min(max(epoch - warmup_epochs, 0.0) / span, 1.0))


def step_policy(*, base_lr: float, steps: Sequence[float], factors: Sequence[float], max_epoch: int) -> LrPolicy:
    """``base_lr * factors[i]`` from epoch ``steps[i]`` on; ``steps[0]`` is 0."""
    values = [base_lr * factor for factor in factors]
    scheduler = MultiStepParamScheduler(values, milestones=list(steps[1:]), num_updates=max_epoch)
    return lambda epoch: scheduler(min(epoch / max_epoch, 1.0))


def with_warmup(policy: LrPolicy, *, warmup_epochs: float, start_lr: float) -> LrPolicy:
    """``policy``, but linear from ``start_lr`` at epoch 0 to the policy's own value at ``warmup_epochs``."""
    if warmup_epochs == 0:
        return policy
    target = policy(warmup_epochs)
    return lambda epoch: (
        start_lr + (target - start_lr) * epoch / warmup_epochs if epoch < warmup_epochs else policy(epoch)
    )


def compute_lr_factor(*, batch_size: int, reference_batch_size: int) -> float:
    """Linear scaling rule (Goyal et al., arXiv 1706.02677); a reference of 0 turns it off."""
    return batch_size / reference_batch_size if reference_batch_size else 1.0


def build_lr_policy(cfg: CfgNode) -> LrPolicy:
    """The schedule that SOLVER describes: epoch in [0, MAX_EPOCH] -> learning rate."""
    solver = cfg.SOLVER
    factor = compute_lr_factor(batch_size=cfg.TRAIN.BATCH_SIZE, reference_batch_size=solver.BASE_LR_SCALE_BATCH)
    if solver.LR_POLICY == "cosine":
        policy = cosine_policy(
            base_lr=solver.BASE_LR * factor,
            end_lr=solver.COSINE_END_LR * factor,
            max_epoch=solver.MAX_EPOCH,
            warmup_epochs=solver.WARMUP_EPOCHS,
        )
    else:
        policy = step_policy(
            base_lr=solver.BASE_LR * factor, steps=solver.STEPS, factors=solver.LRS, max_epoch=solver.MAX_EPOCH
        )
    return with_warmup(policy, warmup_epochs=solver.WARMUP_EPOCHS, start_lr=solver.WARMUP_START_LR * factor)
