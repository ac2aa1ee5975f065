"""Rules that span several keys; each error names the keys, their values and what would be legal."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from hiera_video.config.detection_keys import check_detection


def check_config(cfg: CfgNode) -> None:
    """Raises ValueError for a combination of keys that cannot work."""
    _check_task(cfg)
    _check_data(cfg)
    _check_boxes(cfg)
    if cfg.TRAIN.ENABLE:
        _check_batch(cfg)
        _check_schedule(cfg)
        _check_sharding(cfg)
        _check_validation(cfg)


def _check_task(cfg: CfgNode) -> None:
    is_mae = cfg.MODEL.MODEL_NAME.startswith("mae_")
    if cfg.TRAIN.ENABLE and is_mae != (cfg.TASK == "pretrain"):
        raise ValueError(
            f"TASK = {cfg.TASK} and MODEL.MODEL_NAME = {cfg.MODEL.MODEL_NAME} do not go together: pretrain takes a "
            "mae_hiera_* model, the other tasks a hiera_* model"
        )
    if cfg.TASK == "detect_actions" and is_mae:
        raise ValueError(f"MODEL.MODEL_NAME = {cfg.MODEL.MODEL_NAME}: TASK = detect_actions takes a hiera_* model")
    if (cfg.TASK == "detect") != (cfg.DATA.FORMAT == "coco") and (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE):
        raise ValueError(f"TASK = {cfg.TASK} and DATA.FORMAT = {cfg.DATA.FORMAT} do not go together: detect takes coco")
    if cfg.TASK == "detect":
        check_detection(cfg)
    if cfg.TASK == "pretrain" and cfg.TEST.ENABLE:
        raise ValueError("TEST.ENABLE = True, but TASK = pretrain has no classes to test; fine-tune first")
    if cfg.TASK == "pretrain" and cfg.MIXUP.ENABLE:
        raise ValueError("MIXUP.ENABLE = True mixes labels, which TASK = pretrain does not have")
    if cfg.TASK == "pretrain" and cfg.AUG.RE_PROB:
        raise ValueError(f"AUG.RE_PROB = {cfg.AUG.RE_PROB}: TASK = pretrain hides mask units and erases nothing; set 0")

    _check_multilabel(cfg)
    if cfg.MODEL.HEAD != "mean" and cfg.TASK != "classify":
        raise ValueError(f"MODEL.HEAD = {cfg.MODEL.HEAD} is for TASK classify; TASK = {cfg.TASK} takes mean")
    if cfg.MODEL.FREEZE_STAGES and cfg.TASK in ("pretrain", "detect"):
        raise ValueError(
            f"MODEL.FREEZE_STAGES = {cfg.MODEL.FREEZE_STAGES} is for fine-tuning classifiers of clips and boxes; with "
            f"TASK = {cfg.TASK} set 0"
        )
    for key in ("CLASS_SAMPLING", "CLASS_WEIGHTING"):
        if cfg.TRAIN[key] and cfg.TASK != "classify":
            raise ValueError(f"TRAIN.{key} = {cfg.TRAIN[key]} goes by a video's class, which TASK = {cfg.TASK} lacks")


def _check_multilabel(cfg: CfgNode) -> None:
    has_several = cfg.MODEL.LOSS_FUNC == "bce_logit"
    if cfg.DATA.FORMAT == "charades" and cfg.TASK == "classify" and not has_several:
        raise ValueError(f"MODEL.LOSS_FUNC = {cfg.MODEL.LOSS_FUNC}: videos of Charades have several classes; bce_logit")
    if not has_several:
        return
    if cfg.TASK != "classify":
        raise ValueError(f"MODEL.LOSS_FUNC = bce_logit is for TASK classify; TASK = {cfg.TASK} takes cross_entropy")
    if cfg.DATA.FORMAT not in ("kinetics", "folders", "charades"):
        raise ValueError(
            f"MODEL.LOSS_FUNC = bce_logit: lists of DATA.FORMAT = {cfg.DATA.FORMAT} have one class for each video; "
            "kinetics, folders and charades may have several"
        )
    if cfg.MIXUP.ENABLE:
        raise ValueError("MIXUP.ENABLE = True mixes clips of one class each; with MODEL.LOSS_FUNC bce_logit set False")
    if cfg.TRAIN.CLASS_SAMPLING:
        raise ValueError(
            f"TRAIN.CLASS_SAMPLING = {cfg.TRAIN.CLASS_SAMPLING}: with MODEL.LOSS_FUNC bce_logit no class can be drawn "
            "alone; TRAIN.CLASS_WEIGHTING evens them out"
        )


def _check_data(cfg: CfgNode) -> None:
    needs_lists = cfg.TRAIN.ENABLE or cfg.TEST.ENABLE or (cfg.EXTRACT.ENABLE and not cfg.EXTRACT.VIDEOS)
    if needs_lists and not cfg.DATA.PATH_TO_DATA_DIR:
        raise ValueError(
            "DATA.PATH_TO_DATA_DIR is empty: name the folder that holds the lists, e.g. "
            "`DATA.PATH_TO_DATA_DIR /data/kinetics400`"
            + (", or videos by EXTRACT.VIDEOS" if cfg.EXTRACT.ENABLE else "")
        )
    if cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE and not cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE:
        raise ValueError(
            f"DATA.TRAIN_JITTER_ASPECT_RELATIVE = {cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE} needs "
            "DATA.TRAIN_JITTER_SCALES_RELATIVE, e.g. [0.08, 1.0]; it is []"
        )
    if cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE and cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE[1] > 1:
        raise ValueError(
            f"DATA.TRAIN_JITTER_SCALES_RELATIVE = {cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE}: a share of the frame's "
            "area is at most 1"
        )
    short_side, crop = cfg.DATA.TRAIN_JITTER_SCALES[0], cfg.DATA.TRAIN_CROP_SIZE
    if cfg.TRAIN.ENABLE and short_side < crop and cfg.TASK != "detect":
        raise ValueError(
            f"DATA.TRAIN_JITTER_SCALES = {cfg.DATA.TRAIN_JITTER_SCALES} begins below DATA.TRAIN_CROP_SIZE = {crop}: "
            f"the short side must be at least {crop}"
        )
    jobs_crops = {"TEST.NUM_SPATIAL_CROPS": cfg.TEST.NUM_SPATIAL_CROPS * cfg.TEST.ENABLE * (cfg.TASK != "detect")}
    jobs_crops["EXTRACT.NUM_CROPS"] = cfg.EXTRACT.NUM_CROPS * cfg.EXTRACT.ENABLE
    for key, num_crops in jobs_crops.items():
        if num_crops == 1 and short_side < cfg.DATA.TEST_CROP_SIZE:
            raise ValueError(
                f"DATA.TRAIN_JITTER_SCALES[0] = {short_side} is the short side with {key} = 1 and must be at least "
                f"DATA.TEST_CROP_SIZE = {cfg.DATA.TEST_CROP_SIZE}"
            )
    needed = max(short_side, crop, cfg.DATA.TEST_CROP_SIZE if any(jobs_crops.values()) else 0)
    if 0 < cfg.DATA.MAX_SHORT_SIDE < needed:
        raise ValueError(
            f"DATA.MAX_SHORT_SIDE = {cfg.DATA.MAX_SHORT_SIDE} is less than crops and their margin need: 0 (off), or at "
            f"least {needed}"
        )


def _check_boxes(cfg: CfgNode) -> None:
    """What goes with lists of boxes."""
    has_boxes = cfg.DATA.FORMAT in ("ava", "boxes")
    if has_boxes != (cfg.TASK == "detect_actions"):
        raise ValueError(
            f"DATA.FORMAT = {cfg.DATA.FORMAT} and TASK = {cfg.TASK} do not go together: detect_actions takes ava or "
            "boxes, the other tasks take the other formats"
        )
    if not has_boxes:
        return
    if cfg.AUG.AA_TYPE:
        raise ValueError(f"AUG.AA_TYPE = {cfg.AUG.AA_TYPE}: RandAugment moves pictures and not their boxes; set ''")
    if cfg.AUG.NUM_SAMPLE != 1:
        raise ValueError(f"AUG.NUM_SAMPLE = {cfg.AUG.NUM_SAMPLE}: a key frame gives one clip; set 1")
    if cfg.DATA.SAMPLING != "clip":
        raise ValueError(f"DATA.SAMPLING = {cfg.DATA.SAMPLING}: clips lie around key frames; set clip")
    if cfg.MIXUP.ENABLE:
        raise ValueError("MIXUP.ENABLE = True mixes clips and not their boxes; set False")
    if cfg.TEST.ENABLE and (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) != (1, 1):
        raise ValueError(
            f"TEST.NUM_ENSEMBLE_VIEWS x TEST.NUM_SPATIAL_CROPS = {cfg.TEST.NUM_ENSEMBLE_VIEWS} x "
            f"{cfg.TEST.NUM_SPATIAL_CROPS}: a key frame is tested in its one center view; set both to 1"
        )


def _check_batch(cfg: CfgNode) -> None:
    parts = cfg.TRAIN.GRAD_ACCUM_STEPS * cfg.AUG.NUM_SAMPLE
    if cfg.TRAIN.BATCH_SIZE % parts:
        raise ValueError(
            f"TRAIN.BATCH_SIZE = {cfg.TRAIN.BATCH_SIZE} clips must be a multiple of TRAIN.GRAD_ACCUM_STEPS x "
            f"AUG.NUM_SAMPLE = {cfg.TRAIN.GRAD_ACCUM_STEPS} x {cfg.AUG.NUM_SAMPLE} = {parts}"
        )
    if cfg.MIXUP.ENABLE and cfg.MIXUP.PROB > 0 and cfg.TRAIN.BATCH_SIZE // cfg.TRAIN.GRAD_ACCUM_STEPS < 2:
        raise ValueError(
            f"MIXUP.ENABLE mixes clips of a batch, but TRAIN.BATCH_SIZE = {cfg.TRAIN.BATCH_SIZE} with "
            f"TRAIN.GRAD_ACCUM_STEPS = {cfg.TRAIN.GRAD_ACCUM_STEPS} leaves one clip: at least 2 are needed"
        )


def _check_schedule(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if solver.WARMUP_EPOCHS > solver.MAX_EPOCH:
        raise ValueError(
            f"SOLVER.WARMUP_EPOCHS = {solver.WARMUP_EPOCHS} is more than SOLVER.MAX_EPOCH = {solver.MAX_EPOCH}: the "
            "warm-up is part of the epochs"
        )
    if solver.LR_POLICY == "steps_with_relative_lrs":
        steps, factors = solver.STEPS, solver.LRS
        if len(steps) != len(factors) or steps[:1] != [0] or steps != sorted(set(steps)):
            raise ValueError(
                f"SOLVER.STEPS = {steps} must begin with 0, ascend, and be as many as SOLVER.LRS = {factors}"
            )
    if solver.LR_POLICY == "cosine" and solver.COSINE_END_LR > solver.BASE_LR:
        raise ValueError(f"SOLVER.COSINE_END_LR = {solver.COSINE_END_LR} is above SOLVER.BASE_LR = {solver.BASE_LR}")


def _check_sharding(cfg: CfgNode) -> None:
    sharding = cfg.TRAIN.SHARDING
    if sharding == "none":
        return
    if cfg.TRAIN.PRECISION == "fp16":
        raise ValueError(
            f"TRAIN.SHARDING = {sharding} and TRAIN.PRECISION = fp16: the loss scaler of fp16 does not know divided "
            "gradients; set TRAIN.PRECISION bf16 or fp32, or TRAIN.SHARDING none"
        )
    if cfg.MODEL.COMPILE:
        raise ValueError(
            f"TRAIN.SHARDING = {sharding} and MODEL.COMPILE = True: weights are gathered between blocks, so that the "
            "model is not one graph; set one of them to none or False"
        )


def _check_validation(cfg: CfgNode) -> None:
    """What needs to know the best validation."""
    wants = {"TRAIN.EARLY_STOP_VALIDATIONS": cfg.TRAIN.EARLY_STOP_VALIDATIONS}
    if cfg.TEST.ENABLE and cfg.TEST.CHECKPOINT_FILE_PATH == "best":
        wants["TEST.CHECKPOINT_FILE_PATH"] = cfg.TEST.CHECKPOINT_FILE_PATH
    for key, value in wants.items():
        if value and cfg.TASK == "pretrain":
            raise ValueError(f"{key} = {value} goes by validations, and TASK = pretrain has only a probe; set 0")
        if value and not cfg.TRAIN.EVAL_PERIOD:
            raise ValueError(f"{key} = {value} goes by validations, but TRAIN.EVAL_PERIOD = 0: never; set it to 1, say")
