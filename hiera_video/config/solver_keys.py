"""Keys of the optimizer and its schedule."""

from __future__ import annotations

from hiera_video.config.legal import ANY_BOOL, ANY_LIST, Key, Legal, at_least, between, numbers, one_of

SOLVER_KEYS: dict[str, Key] = {
    "SOLVER.OPTIMIZING_METHOD": Key("adamw", "The optimizer.", one_of("adamw", "sgd")),
    "SOLVER.FUSED": Key(
        True,
        "The optimizer updates all weights in one kernel. False: in several, whose last bits differ; slower.",
        ANY_BOOL,
    ),
    "SOLVER.BASE_LR": Key(8e-4, "Peak learning rate.", at_least(0)),
    "SOLVER.BASE_LR_SCALE_BATCH": Key(
        0,
        "Batch size in clips that BASE_LR is stated for: all learning rates are multiplied by TRAIN.BATCH_SIZE "
        "over it. 0: take them as they are.",
        at_least(0),
    ),
    "SOLVER.LR_POLICY": Key(
        "cosine",
        "cosine: to COSINE_END_LR; steps_with_relative_lrs: BASE_LR * LRS[i] from epoch STEPS[i] on.",
        one_of("cosine", "steps_with_relative_lrs"),
    ),
    "SOLVER.COSINE_END_LR": Key(0.0, "Learning rate at the end of the cosine.", at_least(0)),
    "SOLVER.STEPS": Key([0], "Epochs at which a step policy changes; the first is 0.", ANY_LIST),
    "SOLVER.LRS": Key([1.0], "Factors of BASE_LR, one for each of STEPS.", ANY_LIST),
    "SOLVER.MAX_EPOCH": Key(
        100,
        "Epochs of training. An epoch is as many clips as there are videos: with AUG.NUM_SAMPLE 2 it decodes half of "
        "the videos (the paper's effective epochs).",
        at_least(1),
    ),
    "SOLVER.WARMUP_EPOCHS": Key(10.0, "Epochs of linear warm-up, part of MAX_EPOCH.", at_least(0)),
    "SOLVER.WARMUP_START_LR": Key(1e-6, "Learning rate at the start of the warm-up.", at_least(0)),
    "SOLVER.BETAS": Key([0.9, 0.999], "AdamW's betas.", numbers(2)),
    "SOLVER.MOMENTUM": Key(0.9, "SGD's momentum.", between(0, 1)),
    "SOLVER.NESTEROV": Key(False, "Nesterov momentum in SGD.", ANY_BOOL),
    "SOLVER.WEIGHT_DECAY": Key(0.05, "Weight decay of weight matrices.", at_least(0)),
    "SOLVER.ZERO_WD_1D_PARAM": Key(
        True, "No weight decay on biases and norms (position embeddings never decay).", ANY_BOOL
    ),
    "SOLVER.LAYER_DECAY": Key(
        1.0,
        "Factor of the learning rate from each block to the one below it.",
        Legal("a number in (0, 1]", lambda value: 0 < value <= 1),
    ),
    "SOLVER.CLIP_GRAD_L2NORM": Key(0.0, "Largest norm of the gradient; 0: not clipped.", at_least(0)),
    "SOLVER.MAX_BAD_STEPS": Key(
        0,
        "How many optimizer steps of a run may be left out because the loss or the gradient is not finite. With one "
        "more the job stops.",
        at_least(0),
    ),
    "SOLVER.MAX_LOSS_RISE": Key(
        0.0,
        "The job stops when the mean loss of a log line is more than this many times that of the first. 0: it only "
        "warns, at 3 times.",
        at_least(0),
    ),
    "SOLVER.EMA_DECAY": Key(
        0.0,
        "Decay of a moving average of the weights, which is then validated and tested; 0: none.",
        Legal("a number in [0, 1)", lambda value: 0 <= value < 1),
    ),
}
