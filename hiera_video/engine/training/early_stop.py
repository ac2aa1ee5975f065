"""When training ends before its last epoch, because validations do not get better."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from hiera_video.engine.checkpoint import get_best_path
from hiera_video.engine.training.state import TrainState
from hiera_video.utils.distributed import all_gather_objects
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)


def is_out_of_patience(cfg: CfgNode, state: TrainState, *, after: int = 0) -> bool:
    """Whether there are TRAIN.EARLY_STOP_VALIDATIONS validations since the best one; rank 0 decides for all.

    Args:
        after: so many more, none of them better.
    """
    patience = cfg.TRAIN.EARLY_STOP_VALIDATIONS
    return bool(patience) and all_gather_objects(state.num_worse)[0] + after >= patience


def has_ended_early(cfg: CfgNode, state: TrainState) -> bool:
    """Whether training ends here, or has done so in an earlier start; the log says why."""
    if not is_out_of_patience(cfg, state):
        return False
    logger.info(
        "training ends after %s of %d: TRAIN.EARLY_STOP_VALIDATIONS = %d validations in a row were not better than the "
        "best one, with %.2f %%; %s holds its weights",
        state.name_progress(),
        cfg.SOLVER.MAX_EPOCH,
        cfg.TRAIN.EARLY_STOP_VALIDATIONS,
        state.best_score,
        get_best_path(cfg.OUTPUT_DIR),
    )
    return True
