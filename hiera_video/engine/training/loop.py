"""The loop that every training job runs: epochs of optimizer steps, validation, checkpoints, log lines.

A job hands in what is its own: a model, a loader, how a batch becomes a loss, and what validation means.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from hiera_video.config import dump_config
from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.loader import get_epoch_sampler
from hiera_video.engine.batch import autocast
from hiera_video.engine.checkpoint import (
    SHARDED_SUFFIX,
    WHOLE_SUFFIX,
    CheckpointWriter,
    get_best_path,
    get_checkpoint_path,
)
from hiera_video.engine.meters import Goodput, Stopwatch, TrainMeters, format_duration
from hiera_video.engine.sharded_checkpoint import save_together
from hiera_video.engine.training.bad_step import ComputeLoss, clip_gradients, compute_grad_norm, leave_out_step
from hiera_video.engine.training.early_stop import has_ended_early, is_out_of_patience
from hiera_video.engine.training.health import Heartbeat, check_loss, explain_out_of_memory
from hiera_video.engine.training.profile import StepProfiler
from hiera_video.engine.training.resume import record_validation, start_or_resume
from hiera_video.engine.training.state import (
    TrainState,
    check_weights_finite,
    is_divided,
    make_content,
    make_content_to_use,
)
from hiera_video.models.build import build_compiled
from hiera_video.models.encoder import HieraEncoder
from hiera_video.solver.lr_policy import LrPolicy, build_lr_policy
from hiera_video.solver.optimizer import set_lr
from hiera_video.utils.distributed import (
    all_gather_objects,
    barrier,
    get_device,
    get_rank,
    is_initialized,
    is_main_process,
)
from hiera_video.utils.interrupt import Interrupted, get_stop_reason
from hiera_video.utils.logging import get_logger, log_json_stats
from hiera_video.utils.ranges import named_range
from hiera_video.utils.rng import seed_everything

logger = get_logger(__name__)

# Endings of names of percentages that a validation names in the log.
_ACCURACIES = ("top1", "top5", "map", "_ap", "ap50")
# state after an epoch -> numbers to log
Validate = Callable[[TrainState], dict[str, Any]]


@dataclass
class Run:
    """What a training job has beside its state: the parts that one epoch uses as the next one does.

    Attributes:
        forward: ``state.model`` as it is called: compiled and wrapped for data parallelism as the config says.
        compute_lr: epoch -> learning rate.
        events: of TensorBoard; None on ranks above 0 and where it is off.
        since_saved: time since the last checkpoint.
        profiler: records some steps, or none.
        goodput: since the last log line.
    """

    cfg: CfgNode
    state: TrainState
    forward: nn.Module
    loader: BatchLoader
    compute_loss: ComputeLoss
    compute_lr: LrPolicy
    writer: CheckpointWriter
    heartbeat: Heartbeat
    events: SummaryWriter | None = None
    since_saved: Stopwatch = field(default_factory=Stopwatch)
    profiler: StepProfiler = field(default_factory=StepProfiler)
    goodput: Goodput = field(default_factory=Goodput)


def run_training(
    cfg: CfgNode,
    model: HieraEncoder,
    loader: BatchLoader,
    *,
    compute_loss: ComputeLoss,
    validate: Validate | None = None,
    validation_period_epochs: int = 0,
    best_by: str = "top1",
) -> None:
    """Trains as TRAIN and SOLVER say and writes checkpoints, logs and metrics to OUTPUT_DIR.

    A run that was stopped at any step and is started again gives the same weights and metrics as one that was not.

    Args:
        model: on its device; answers `no_weight_decay`, `num_layers` and `get_layer_id`.
        loader: its sampler is an `EpochSampler`; gives TRAIN.GRAD_ACCUM_STEPS batches a step.
        compute_loss: a batch's forward pass.
        validate: called every ``validation_period_epochs`` (0: never) and after the last epoch.
        best_by: which of its numbers, if it is among them, decides which checkpoint is best; higher is better. After
            TRAIN.EARLY_STOP_VALIDATIONS validations in a row that were not better, training ends.

    Raises:
        FloatingPointError: the loss, the gradient or a weight is not finite.
        RuntimeError: more bad videos than DATA.MAX_BAD_VIDEOS.
        OSError: the last checkpoint cannot be written, or any with TRAIN.STOP_WHEN_DISK_FULL.
        Interrupted: a process was asked to stop; the checkpoint of the step is written.
    """
    state = start_or_resume(cfg, model, num_videos=len(loader.dataset))
    keep_last, stop_on_failure = cfg.TRAIN.CHECKPOINT_KEEP_LAST, cfg.TRAIN.STOP_WHEN_DISK_FULL
    with (
        CheckpointWriter(cfg.OUTPUT_DIR, keep_last=keep_last, stop_on_failure=stop_on_failure) as writer,
        StepProfiler(Path(cfg.OUTPUT_DIR) / "profile", num_steps=cfg.TRAIN.PROFILE_STEPS) as profiler,
    ):
        run = Run(
            cfg=cfg,
            state=state,
            forward=_wrap(cfg, model),
            loader=loader,
            compute_loss=compute_loss,
            compute_lr=build_lr_policy(cfg),
            writer=writer,
            heartbeat=Heartbeat(cfg.OUTPUT_DIR),
            events=_open_output(cfg),
            profiler=profiler,
        )

        def validate_if_due() -> None:
            if validate and is_due(cfg, validation_period_epochs, state.epoch):
                _run_validation(run, validate, best_by)

        if not state.is_validated:
            validate_if_due()
        while state.epoch < cfg.SOLVER.MAX_EPOCH and not has_ended_early(cfg, state):
            train_epoch(run)
            state.epoch, state.step = state.epoch + 1, 0
            state.log_rows.clear()
            # The checkpoint comes first: whatever validation meets, the epoch is not lost.
            may_end = is_due(cfg, validation_period_epochs, state.epoch) and is_out_of_patience(cfg, state, after=1)
            if is_due(cfg, cfg.TRAIN.CHECKPOINT_PERIOD, state.epoch) or may_end:
                save(run, must_succeed=may_end or state.epoch == cfg.SOLVER.MAX_EPOCH)
            validate_if_due()
        if run.events:
            run.events.close()
    writer.wait()
    barrier()


def save(run: Run, *, must_succeed: bool = False) -> None:
    """Writes the checkpoint of the state, all processes together; it goes on in the background.

    Raises:
        FloatingPointError: a weight is not finite; nothing is written.
    """
    check_weights_finite(run.state)
    run.state.bad_videos.share()
    run.since_saved.lap()
    run.state.saved_at_ns = time.time_ns()
    if is_divided(run.cfg):
        save_together(run.writer, _get_path(run), _make_content(run), must_succeed=must_succeed)
    elif is_main_process():
        run.writer.save(_get_path(run), _make_content(run), must_succeed=must_succeed)


def _get_path(run: Run) -> Path:
    suffix = SHARDED_SUFFIX if is_divided(run.cfg) else WHOLE_SUFFIX
    return get_checkpoint_path(run.cfg.OUTPUT_DIR, run.state.epoch, run.state.step, suffix=suffix)


def _save_if_best(run: Run, is_best: bool, found: dict[str, Any]) -> None:
    """Keeps the weights to use, and of an undivided model all that a checkpoint has; the main process decides.

    Args:
        found: what validation has found and the checkpoint shall hold.
    """
    path = get_best_path(run.cfg.OUTPUT_DIR)
    if is_divided(run.cfg) and all_gather_objects(is_best)[0]:
        weights = run.state.copy_weights(to_use=True)
        if is_main_process():
            run.writer.save(path, {**make_content_to_use(_make_content(run), weights), **found})
    elif is_main_process() and is_best:
        run.writer.save(path, {**_make_content(run), **found})


def _make_content(run: Run) -> dict[str, Any]:
    dataset = run.loader.dataset
    return make_content(run.cfg, run.state, num_videos=len(dataset), class_names=dataset.videos.class_names)


def train_epoch(run: Run) -> None:
    """The optimizer steps of an epoch that are still to be taken; changes the state in place."""
    cfg, state = run.cfg, run.state
    sampler = get_epoch_sampler(run.loader)
    num_steps = sampler.steps_per_epoch
    if state.step == num_steps:
        return  # a run that was stopped after its last step
    sampler.set_epoch(state.epoch, state.step)
    run.forward.train()
    meters = TrainMeters(cfg.TRAIN.BATCH_SIZE, device=get_device(), rows=state.log_rows)
    batches = iter(run.loader)
    bar = tqdm(
        total=num_steps,
        initial=state.step,
        desc=f"epoch {state.epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        leave=False,
        disable=None if is_main_process() else True,
    )
    with bar, explain_out_of_memory(cfg):
        while state.step < num_steps:
            step, lr = state.step, run.compute_lr(state.epoch + state.step / num_steps)
            with run.profiler.step():
                values = take_step(run, batches, meters, lr)
                bar.update()
                if _is_logged(cfg, state.epoch, step, num_steps):
                    stats = meters.compute()
                    bar.set_postfix_str(f"loss {stats['loss']:.4f}, {stats['clips_per_sec']:.1f} clips/s")
                    _log_step(run, stats, lr=lr, num_steps=num_steps)
                run.heartbeat.beat("training", state)
            if values["wants_stop"]:
                _stop(run)
            if values["wants_checkpoint"] and step + 1 < num_steps:
                save(run)


def take_step(run: Run, batches: Iterator[dict[str, Any]], meters: TrainMeters, lr: float) -> dict[str, float]:
    """One optimizer step on the next batches; gives the means over the processes of what a step reports."""
    with named_range("data"):
        parts = [meters.time_data(batches) for _ in range(run.cfg.TRAIN.GRAD_ACCUM_STEPS)]
    with run.goodput.working():
        return _learn(run, parts, meters, lr)


def _learn(run: Run, batches: list[dict[str, Any]], meters: TrainMeters, lr: float) -> dict[str, float]:
    cfg, state, device = run.cfg, run.state, get_device()
    # Dropout, drop path and mixup draw from here on: the same in a run that is resumed at this step.
    seed_everything(cfg.RNG_SEED, state.epoch, state.step, get_rank())
    set_lr(state.optimizer, lr)
    for number, batch in enumerate(batches, 1):
        state.bad_videos.update(batch)
        is_last = number == len(batches)
        with _no_sync(run.forward, not is_last), autocast(device, cfg.TRAIN.PRECISION), named_range("forward"):
            loss, report = run.compute_loss(run.forward, batch)
        with named_range("backward"):
            state.scaler.scale(loss / len(batches)).backward()
        meters.update({"loss": loss, **report})
    with named_range("optimizer"):
        state.scaler.unscale_(state.optimizer)
        grad_norm = compute_grad_norm(state.model)
    with named_range("wait"):
        values = meters.finish_step(
            grad_norm=grad_norm, wants_stop=bool(get_stop_reason()), wants_checkpoint=_is_checkpoint_wanted(run)
        )
    # With fp16 an infinite gradient is the loss scaler's business: it leaves the step out and lowers the scale.
    if not math.isfinite(values["loss"]) or not (math.isfinite(values["grad_norm"]) or state.scaler.is_enabled()):
        paths = [str(run.loader.dataset.videos.paths[i]) for batch in batches for i in batch["index"].tolist()]
        leave_out_step(cfg, state, batches, paths, loss=values["loss"], grad_norm=values["grad_norm"], lr=lr)
    else:
        state.log_rows.append({name: value for name, value in values.items() if not name.startswith("wants_")})
        with named_range("optimizer"):
            _update_weights(cfg, state, grad_norm)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return values


def _update_weights(cfg: CfgNode, state: TrainState, grad_norm: torch.Tensor) -> None:
    if cfg.SOLVER.CLIP_GRAD_L2NORM:
        clip_gradients(state.model, cfg.SOLVER.CLIP_GRAD_L2NORM, grad_norm)
    state.scaler.step(state.optimizer)
    if state.ema:
        state.ema.update_parameters(state.model)


def _is_checkpoint_wanted(run: Run) -> bool:
    minutes = run.cfg.TRAIN.CHECKPOINT_PERIOD_MINUTES
    return bool(minutes) and is_main_process() and run.since_saved.peek() > minutes * 60


def _stop(run: Run) -> NoReturn:
    """Keeps the state and ends the job; all processes call it after the same step, or in the same validation."""
    save(run, must_succeed=True)
    barrier()
    reason = next(filter(None, all_gather_objects(get_stop_reason())))
    raise Interrupted(
        f"stopped by {reason} after {run.state.name_progress()}; {_get_path(run)} is written. "
        "Start the same command again to go on"
    )


def _run_validation(run: Run, validate: Validate, best_by: str) -> None:
    """Validates, logs, and keeps the weights if they are the best so far."""
    cfg, state = run.cfg, run.state
    run.heartbeat.beat("validating", state)
    try:
        results = validate(state)
    except Interrupted:
        _stop(run)  # also after an epoch whose checkpoint was not due
    thresholds = results.pop("thresholds", ())  # a number for each class: for the checkpoint, not for the log
    stats = {"_type": "val_epoch", "epoch": f"{state.epoch}/{cfg.SOLVER.MAX_EPOCH}", **results}
    is_best = stats.get(best_by, -1.0) > state.best_score
    if is_best:
        state.best_score = stats[best_by]
    state.num_worse = 0 if is_best else state.num_worse + 1
    state.is_validated = True
    best = {f"best_{best_by}": state.best_score} if best_by in stats else {}
    if results:  # pre-training draws pictures after epochs without a probe
        _log_validation(run, {**stats, **best})
    _save_if_best(run, is_best, {"thresholds": list(thresholds)})
    if is_main_process():
        record_validation(cfg, state, thresholds)


def _log_validation(run: Run, stats: dict[str, Any]) -> None:
    _log(run.cfg, stats, run.events, step=run.state.epoch)
    accuracies = ", ".join(f"{name} {value:.2f} %" for name, value in stats.items() if name.endswith(_ACCURACIES))
    logger.info("epoch %s validated: %s", stats["epoch"], accuracies)


def _log_step(run: Run, stats: dict[str, Any], *, lr: float, num_steps: int) -> None:
    cfg, state = run.cfg, run.state
    state.bad_videos.share()
    steps_done = state.epoch * num_steps + state.step
    eta_sec = stats["step_time_sec"] * (cfg.SOLVER.MAX_EPOCH * num_steps - steps_done)
    stats = {
        "_type": "train_iter",
        "epoch": f"{state.epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        "iter": f"{state.step}/{num_steps}",
        "lr": lr,
        **stats,
        "goodput": min(all_gather_objects(run.goodput.lap())),
        "bad_videos": state.bad_videos.num_bad,
        "unreachable_videos": state.bad_videos.num_passing,
        "bad_steps": state.num_bad_steps,
        "eta": format_duration(eta_sec),
    }
    _log(cfg, stats, run.events, step=steps_done)
    check_loss(cfg, state, stats["loss"], f"epoch {stats['epoch']}, step {stats['iter']}")


def _log(cfg: CfgNode, stats: dict[str, Any], writer: SummaryWriter | None, *, step: int) -> None:
    if not is_main_process():
        return
    log_json_stats(stats, output_dir=cfg.OUTPUT_DIR)
    if writer:
        group = stats["_type"].split("_")[0]
        for name, value in stats.items():
            if isinstance(value, int | float):
                writer.add_scalar(f"{group}/{name}", value, step)


def _wrap(cfg: CfgNode, model: nn.Module) -> nn.Module:
    model = build_compiled(cfg, model)
    if is_initialized() and not is_divided(cfg):
        device = get_device()
        ids = [device.index] if device.type == "cuda" else None
        model = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    return model


def _no_sync(forward: nn.Module, skip: bool) -> contextlib.AbstractContextManager:
    # Gradients of all but the last accumulation step need not travel between ranks.
    if skip and isinstance(forward, DistributedDataParallel):
        return forward.no_sync()
    return contextlib.nullcontext()


def _open_output(cfg: CfgNode) -> SummaryWriter | None:
    if not is_main_process():
        return None
    (Path(cfg.OUTPUT_DIR) / "config.yaml").write_text(dump_config(cfg))
    return SummaryWriter(Path(cfg.OUTPUT_DIR) / "tensorboard") if cfg.TENSORBOARD.ENABLE else None


def _is_logged(cfg: CfgNode, epoch: int, step: int, num_steps: int) -> bool:
    """Whether a step gets a log line; not the end of each epoch shorter than LOG_PERIOD, but always the last's."""
    is_end = (epoch + 1) % math.ceil(cfg.LOG_PERIOD / num_steps) == 0 or epoch + 1 == cfg.SOLVER.MAX_EPOCH
    return (step + 1) % cfg.LOG_PERIOD == 0 or (step + 1 == num_steps and is_end)


def is_due(cfg: CfgNode, period_epochs: int, epoch: int) -> bool:
    """Whether something that is done every so many epochs (0: never), and after the last one, is done after this."""
    return bool(period_epochs) and (epoch % period_epochs == 0 or epoch == cfg.SOLVER.MAX_EPOCH)
