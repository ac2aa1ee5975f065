"""Every config key: its default, what it means with its unit, and which values are legal.

SlowFast's words are kept where the meaning is the same; where it differs, the text says so. `hiera-video run --keys`
prints this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class Legal:
    """Which values a key may take: a sentence for people and a predicate."""

    text: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Key:
    """One config key."""

    default: Any
    meaning: str
    legal: Legal


def _at_least(low: float) -> Legal:
    return Legal(f"a number >= {low}", lambda value: value >= low)


def _between(low: float, high: float) -> Legal:
    return Legal(f"a number in [{low}, {high}]", lambda value: low <= value <= high)


def _one_of(*values: str) -> Legal:
    return Legal("one of " + ", ".join(repr(value) for value in values), lambda value: value in values)


def _numbers(count: int, *, or_empty: bool = False) -> Legal:
    def accepts(values: Any) -> bool:
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return numbers and (len(values) == count or (or_empty and not values))

    return Legal(f"a list of {count} numbers" + (" or []" if or_empty else ""), accepts)


_ANY_BOOL = Legal("True or False", lambda value: True)
_ANY_STR = Legal("any text", lambda value: True)
_ANY_LIST = Legal("a list of numbers", lambda values: all(isinstance(value, int | float) for value in values))
_ASCENDING = Legal("a list of two numbers, the smaller first", lambda v: len(v) == 2 and 0 < v[0] <= v[1])
_ASCENDING_OR_EMPTY = Legal("[] or a list of two numbers, the smaller first", lambda v: not v or _ASCENDING.accepts(v))

KEYS: dict[str, Key] = {
    # ---- the run
    "OUTPUT_DIR": Key("./output", "Folder of everything that a job writes.", _ANY_STR),
    "RNG_SEED": Key(0, "Seed of all randomness.", _at_least(0)),
    "NUM_GPUS": Key(
        -1,
        "Processes on this machine, one a GPU. -1: every visible GPU, or one CPU process; 0: one CPU process. "
        "Under torchrun the launcher decides.",
        _at_least(-1),
    ),
    "TASK": Key(
        "classify",
        "What training means: classify (fine-tuning, or from scratch), or pretrain (MAE, without labels).",
        _one_of("classify", "pretrain"),
    ),
    "LOG_PERIOD": Key(10, "Optimizer steps between two log lines.", _at_least(1)),
    "TENSORBOARD.ENABLE": Key(False, "Write TensorBoard events to OUTPUT_DIR/tensorboard.", _ANY_BOOL),
    # ---- training
    "TRAIN.ENABLE": Key(True, "Run the training job.", _ANY_BOOL),
    "TRAIN.BATCH_SIZE": Key(
        64,
        "Clips per optimizer step, over all processes and accumulation steps. With AUG.NUM_SAMPLE clips per video, "
        "BATCH_SIZE / NUM_SAMPLE videos are decoded. (SlowFast counts videos.)",
        _at_least(1),
    ),
    "TRAIN.GRAD_ACCUM_STEPS": Key(1, "Forward and backward passes per optimizer step.", _at_least(1)),
    "TRAIN.PRECISION": Key(
        "fp32",
        "Arithmetic of the model: fp32, or autocast to bf16, or to fp16 with loss scaling (GPU only).",
        _one_of("fp32", "bf16", "fp16"),
    ),
    "TRAIN.EVAL_PERIOD": Key(
        1, "Epochs between two validations; the last epoch is always validated. 0: never.", _at_least(0)
    ),
    "TRAIN.CHECKPOINT_PERIOD": Key(1, "Epochs between two checkpoints; the last epoch is always saved.", _at_least(1)),
    "TRAIN.CHECKPOINT_PERIOD_MINUTES": Key(30.0, "Minutes between checkpoints within an epoch. 0: none.", _at_least(0)),
    "TRAIN.STOP_WHEN_DISK_FULL": Key(
        False,
        "Whether a checkpoint that cannot be written ends the job, or the next one is tried. The last must be written.",
        _ANY_BOOL,
    ),
    "TRAIN.CHECKPOINT_KEEP_LAST": Key(
        2, "How many of the newest checkpoints to keep, beside the best. 0: all.", _at_least(0)
    ),
    "TRAIN.AUTO_RESUME": Key(True, "Go on from the newest checkpoint in OUTPUT_DIR, if there is one.", _ANY_BOOL),
    "TRAIN.CHECKPOINT_FILE_PATH": Key("", "Weights to start from (path or URL); empty: random ones.", _ANY_STR),
    # ---- multi-view test
    "TEST.ENABLE": Key(False, "Run the multi-view test job.", _ANY_BOOL),
    "TEST.SPLIT": Key("test", "Which list to test on.", _one_of("train", "val", "test")),
    "TEST.BATCH_SIZE": Key(16, "Clips (views) per forward pass, over all processes; also in validation.", _at_least(1)),
    "TEST.NUM_ENSEMBLE_VIEWS": Key(5, "Clips per video, uniform in time.", _at_least(1)),
    "TEST.NUM_SPATIAL_CROPS": Key(
        3,
        "Crops per clip: 1 (center) or 3 along the longer side.",
        Legal("1 or 3", lambda value: value in (1, 3)),
    ),
    "TEST.CHECKPOINT_FILE_PATH": Key(
        "",
        "Weights to test (path or URL); empty: the newest checkpoint in OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH.",
        _ANY_STR,
    ),
    # ---- embeddings
    "EXTRACT.ENABLE": Key(False, "Run the job that embeds videos.", _ANY_BOOL),
    "EXTRACT.VIDEOS": Key(
        "",
        "Which videos: a folder, a glob in quotes, a list of paths (.csv, .txt), a manifest (.parquet) or one video. "
        "Empty: the lists of DATA.FORMAT.",
        _ANY_STR,
    ),
    "EXTRACT.SPLIT": Key(
        "all", "Which list of DATA.FORMAT; all: every list that exists.", _one_of("all", "train", "val", "test")
    ),
    "EXTRACT.CHECKPOINT_FILE_PATH": Key(
        "",
        "Weights (path or URL); empty: the newest checkpoint in OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH.",
        _ANY_STR,
    ),
    "EXTRACT.CLIPS": Key(
        "windows",
        "windows: sliding over the whole video; uniform: NUM_CLIPS clips spread over it, as in testing.",
        _one_of("windows", "uniform"),
    ),
    "EXTRACT.WINDOW": Key(
        0.0,
        "Length of a window in EXTRACT.UNIT. 0: that of clips in training, NUM_FRAMES x SAMPLING_RATE.",
        _at_least(0),
    ),
    "EXTRACT.STRIDE": Key(
        0.0, "Time from one window's start to the next, in EXTRACT.UNIT. 0: the length of a window.", _at_least(0)
    ),
    "EXTRACT.UNIT": Key("sec", "Unit of WINDOW and STRIDE: seconds, or frames of the video.", _one_of("sec", "frames")),
    "EXTRACT.NUM_CLIPS": Key(5, "Clips of a video, with EXTRACT.CLIPS uniform.", _at_least(1)),
    "EXTRACT.NUM_CROPS": Key(
        1,
        "Crops per clip: 1 (center) or 3 along the longer side.",
        Legal("1 or 3", lambda value: value in (1, 3)),
    ),
    "EXTRACT.LAYER": Key(
        "pooled",
        "pooled: the features that the head sees; stageN: the mean over the tokens of stage N; mapN: its feature map, "
        "(T', H', W', D) in spatial order.",
        _one_of("pooled", *(f"{kind}{stage}" for kind in ("stage", "map") for stage in (1, 2, 3, 4))),
    ),
    "EXTRACT.AVERAGE": Key(
        "crops",
        "none: an embedding for each view; crops: one for each clip, the mean over its crops; video: one for each "
        "video, the mean over its views.",
        _one_of("none", "crops", "video"),
    ),
    "EXTRACT.L2_NORMALIZE": Key(False, "Scale embeddings to length 1, after averaging.", _ANY_BOOL),
    "EXTRACT.DTYPE": Key("float32", "How embeddings are stored.", _one_of("float32", "float16")),
    "EXTRACT.PRECISION": Key("fp32", "Arithmetic of the model, as TRAIN.PRECISION.", _one_of("fp32", "bf16", "fp16")),
    "EXTRACT.BATCH_SIZE": Key(16, "Clips (views) per forward pass of each process.", _at_least(1)),
    "EXTRACT.WRITE_NPY": Key(False, "Also write npy/<video id>.npy, (windows, D), for each video.", _ANY_BOOL),
    "EXTRACT.WRITE_SAFETENSORS": Key(False, "Also write safetensors/<video id>.safetensors.", _ANY_BOOL),
    "EXTRACT.TIMEOUT_SEC": Key(
        600,
        "The job gives a video up, and names it among the failures, when decoding it brings nothing for so long.",
        _at_least(1),
    ),
    # ---- data: which videos
    "DATA.FORMAT": Key(
        "kinetics",
        "kinetics: train.csv, val.csv, test.csv with 'path label' lines; ssv2: the official "
        "json files; ssv2_frames: these, and pictures instead of videos, which SlowFast's train.csv and val.csv list; "
        "folders: <split>/<class>/*.mp4.",
        _one_of("kinetics", "ssv2", "ssv2_frames", "folders"),
    ),
    "DATA.PATH_TO_DATA_DIR": Key("", "Folder of the lists (or of the class folders).", _ANY_STR),
    "DATA.PATH_PREFIX": Key("", "Folder that relative video paths are under; empty: DATA.PATH_TO_DATA_DIR.", _ANY_STR),
    "DATA.PATH_LABEL_SEPARATOR": Key(
        " ",
        "Separator between path and label in a csv; the last one of a line counts.",
        Legal("at least one character", bool),
    ),
    "DATA.VIDEO_SUFFIX": Key(".webm", "What DATA.FORMAT ssv2 appends to an id to name the file.", _ANY_STR),
    "DATA.CLASS_NAMES_PATH": Key(
        "",
        "File of class names for reports: one a line, or json {name: id}. Empty: from the data where they are known.",
        _ANY_STR,
    ),
    "DATA.TIMEOUT_SEC": Key(
        300,
        "A video that takes longer to give its clips to training or testing is bad. 0 workers: no limit.",
        _at_least(1),
    ),
    "DATA.MAX_BAD_VIDEOS": Key(
        100, "The job stops when more distinct videos than this cannot be decoded.", _at_least(0)
    ),
    "DATA.MANIFEST": Key(
        "",
        "What `hiera-video check` found out about the videos (path or URL of its Parquet file): they are opened "
        "without a scan; training leaves out the broken ones, tests name them. Empty: none.",
        _ANY_STR,
    ),
    "DATA.MAX_SHORT_SIDE": Key(
        0,
        "Larger frames are scaled down to this short side, px, while their colors are converted. That is faster "
        "for videos much larger than the crops, but gives other pixels than a full decode and a resize. 0: never.",
        _at_least(0),
    ),
    # ---- data: which frames
    "DATA.DECODING_BACKEND": Key(
        "pyav", "Video decoder; all give the same frames.", _one_of("pyav", "decord", "torchcodec")
    ),
    "DATA.NUM_FRAMES": Key(16, "Frames per clip.", _at_least(1)),
    "DATA.SAMPLING_RATE": Key(4, "Frames from one sampled frame to the next, at TARGET_FPS.", _at_least(1)),
    "DATA.TARGET_FPS": Key(
        30,
        "Frame rate that SAMPLING_RATE counts in; a video of another rate is sampled at the same speed in seconds.",
        _at_least(1),
    ),
    "DATA.SAMPLING": Key(
        "clip",
        "clip: consecutive frames at SAMPLING_RATE (Kinetics); segment: one frame of each of "
        "NUM_FRAMES equal parts (Something-Something).",
        _one_of("clip", "segment"),
    ),
    "DATA.USE_OFFSET_SAMPLING": Key(
        True,
        "Test clips at whole multiples of floor(delta / (n - 1)), as SlowFast has it; False: k * delta / n.",
        _ANY_BOOL,
    ),
    # ---- data: which pixels
    "DATA.MEAN": Key([0.45, 0.45, 0.45], "Mean of each channel, for pixels in [0, 1].", _numbers(3)),
    "DATA.STD": Key(
        [0.225, 0.225, 0.225],
        "Standard deviation of each channel, for pixels in [0, 1].",
        Legal("a list of 3 positive numbers", lambda v: len(v) == 3 and min(v) > 0),
    ),
    "DATA.TRAIN_CROP_SIZE": Key(224, "Height and width of a clip in training and validation, px.", _at_least(1)),
    "DATA.TEST_CROP_SIZE": Key(224, "Height and width of a view in testing, px.", _at_least(1)),
    "DATA.TRAIN_JITTER_SCALES": Key(
        [256, 320],
        "Short side to resize to before a random crop, drawn from "
        "[min, max] px; the first is the short side of a test with one crop.",
        _ASCENDING,
    ),
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": Key(
        [],
        "Area of a random resized crop as a share of the frame, [min, max]; []: short-side jitter instead.",
        _ASCENDING_OR_EMPTY,
    ),
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": Key(
        [], "Aspect ratio of a random resized crop, [min, max]; []: 1.", _ASCENDING_OR_EMPTY
    ),
    "DATA.RANDOM_FLIP": Key(True, "Flip half of the training clips left to right.", _ANY_BOOL),
    "DATA.INTERPOLATION": Key("bilinear", "How clips are resized.", _one_of("bilinear", "bicubic")),
    # ---- augmentation
    "AUG.NUM_SAMPLE": Key(1, "Clips per decoded video in training (repeated augmentation).", _at_least(1)),
    "AUG.AA_TYPE": Key("", "RandAugment, e.g. 'rand-m7-n2-mstd0.5-inc1'; empty: none.", _ANY_STR),
    "AUG.COLOR_JITTER": Key(0.0, "Strength of brightness, contrast and saturation jitter; 0: none.", _between(0, 1)),
    "AUG.RE_PROB": Key(0.0, "Probability of random erasing.", _between(0, 1)),
    "AUG.RE_MODE": Key(
        "pixel",
        "What erasing fills in. const: zeros, which are the mean; pixel: noise for each pixel.",
        _one_of("const", "pixel"),
    ),
    "AUG.RE_COUNT": Key(1, "Number of boxes that random erasing fills.", _at_least(1)),
    "MIXUP.ENABLE": Key(False, "Mixup, CutMix and label smoothing in training.", _ANY_BOOL),
    "MIXUP.ALPHA": Key(0.8, "Beta parameter of mixup; 0: no mixup.", _at_least(0)),
    "MIXUP.CUTMIX_ALPHA": Key(1.0, "Beta parameter of CutMix; 0: no CutMix.", _at_least(0)),
    "MIXUP.PROB": Key(1.0, "Probability that a batch is mixed.", _between(0, 1)),
    "MIXUP.SWITCH_PROB": Key(0.5, "Probability of CutMix where both are on.", _between(0, 1)),
    "MIXUP.LABEL_SMOOTH_VALUE": Key(
        0.1,
        "Label smoothing, with MIXUP.ENABLE (for smoothing without mixing: PROB 0).",
        Legal("a number in [0, 1)", lambda value: 0 <= value < 1),
    ),
    # ---- model
    "MODEL.MODEL_NAME": Key("hiera_base_16x224", "A video model of hiera_video.model_names().", _ANY_STR),
    "MODEL.NUM_CLASSES": Key(400, "Number of classes of the head.", _at_least(2)),
    "MODEL.DROPOUT_RATE": Key(0.0, "Dropout before the head.", Legal("in [0, 1)", lambda value: 0 <= value < 1)),
    "MODEL.DROP_PATH_RATE": Key(
        0.0,
        "Stochastic depth of the last block; it grows linearly from 0 at the first.",
        Legal("in [0, 1)", lambda value: 0 <= value < 1),
    ),
    "MODEL.ACT_CHECKPOINT": Key(False, "Recompute each block in the backward pass to save memory.", _ANY_BOOL),
    "MODEL.COMPILE": Key(False, "Compile the model with torch.compile.", _ANY_BOOL),
    "HIERA.EMBED_DIM": Key(0, "Width of the first stage; 0: as the model's name says.", _at_least(0)),
    "HIERA.NUM_HEADS": Key(0, "Heads of the first stage; 0: as the model's name says.", _at_least(0)),
    "HIERA.STAGES": Key([], "Blocks of each stage; []: as the model's name says.", _numbers(4, or_empty=True)),
    "HIERA.HEAD_INIT_SCALE": Key(0.001, "The new head's random weights are scaled by this.", _at_least(0)),
    # ---- MAE pre-training
    "MAE.MASK_RATIO": Key(
        0.9, "Share of the mask units that are hidden.", Legal("in (0, 1)", lambda value: 0 < value < 1)
    ),
    "MAE.MASK_TYPE": Key(
        "random", "random: any mask units; tube: the same places in all frames.", _one_of("random", "tube")
    ),
    "MAE.TARGET": Key(
        "pixel",
        "What the model predicts for a hidden patch: its pixels, or a histogram of its gradients.",
        _one_of("pixel", "hog"),
    ),
    "MAE.NORM_TARGET": Key(True, "Normalize each pixel patch by its own mean and variance.", _ANY_BOOL),
    "MAE.DECODER_EMBED_DIM": Key(512, "Width of the decoder.", _at_least(1)),
    "MAE.DECODER_DEPTH": Key(8, "Blocks of the decoder.", _at_least(1)),
    "MAE.DECODER_NUM_HEADS": Key(
        16, "Heads of the decoder. The released code has 16, the paper says 8 for video.", _at_least(1)
    ),
    "MAE.DECODER_KEEP_RATIO": Key(
        1.0,
        "Share of the hidden mask units that are decoded and scored, spread evenly. The paper has 1; less saves time.",
        Legal("in (0, 1]", lambda value: 0 < value <= 1),
    ),
    "MAE.CONTRASTIVE_WEIGHT": Key(0.0, "Factor of the patch-level contrastive loss. The paper has none.", _at_least(0)),
    "MAE.PROBE_PERIOD": Key(
        0,
        "Epochs between two k-nearest-neighbor accuracies of the features, on the validation list. 0: never.",
        _at_least(0),
    ),
    "MAE.PROBE_NEIGHBORS": Key(20, "Neighbors that vote for the class of a video.", _at_least(1)),
    # ---- solver
    "SOLVER.OPTIMIZING_METHOD": Key("adamw", "The optimizer.", _one_of("adamw", "sgd")),
    "SOLVER.BASE_LR": Key(8e-4, "Peak learning rate.", _at_least(0)),
    "SOLVER.BASE_LR_SCALE_BATCH": Key(
        0,
        "Batch size in clips that BASE_LR is stated for: all learning rates are multiplied by TRAIN.BATCH_SIZE "
        "over it. 0: take them as they are.",
        _at_least(0),
    ),
    "SOLVER.LR_POLICY": Key(
        "cosine",
        "cosine: to COSINE_END_LR; steps_with_relative_lrs: BASE_LR * LRS[i] from epoch STEPS[i] on.",
        _one_of("cosine", "steps_with_relative_lrs"),
    ),
    "SOLVER.COSINE_END_LR": Key(0.0, "Learning rate at the end of the cosine.", _at_least(0)),
    "SOLVER.STEPS": Key([0], "Epochs at which a step policy changes; the first is 0.", _ANY_LIST),
    "SOLVER.LRS": Key([1.0], "Factors of BASE_LR, one for each of STEPS.", _ANY_LIST),
    "SOLVER.MAX_EPOCH": Key(
        100,
        "Epochs of training. An epoch is as many clips as there are videos: with AUG.NUM_SAMPLE 2 it decodes half of "
        "the videos (the paper's effective epochs).",
        _at_least(1),
    ),
    "SOLVER.WARMUP_EPOCHS": Key(10.0, "Epochs of linear warm-up, part of MAX_EPOCH.", _at_least(0)),
    "SOLVER.WARMUP_START_LR": Key(1e-6, "Learning rate at the start of the warm-up.", _at_least(0)),
    "SOLVER.BETAS": Key([0.9, 0.999], "AdamW's betas.", _numbers(2)),
    "SOLVER.MOMENTUM": Key(0.9, "SGD's momentum.", _between(0, 1)),
    "SOLVER.NESTEROV": Key(False, "Nesterov momentum in SGD.", _ANY_BOOL),
    "SOLVER.WEIGHT_DECAY": Key(0.05, "Weight decay of weight matrices.", _at_least(0)),
    "SOLVER.ZERO_WD_1D_PARAM": Key(
        True, "No weight decay on biases and norms (position embeddings never decay).", _ANY_BOOL
    ),
    "SOLVER.LAYER_DECAY": Key(
        1.0,
        "Factor of the learning rate from each block to the one below it.",
        Legal("a number in (0, 1]", lambda value: 0 < value <= 1),
    ),
    "SOLVER.CLIP_GRAD_L2NORM": Key(0.0, "Largest norm of the gradient; 0: not clipped.", _at_least(0)),
    "SOLVER.MAX_BAD_STEPS": Key(
        0,
        "How many optimizer steps of a run may be left out because the loss or the gradient is not finite. With one "
        "more the job stops.",
        _at_least(0),
    ),
    "SOLVER.MAX_LOSS_RISE": Key(
        0.0,
        "The job stops when the mean loss of a log line is more than this many times that of the first. 0: it only "
        "warns, at 3 times.",
        _at_least(0),
    ),
    "SOLVER.EMA_DECAY": Key(
        0.0,
        "Decay of a moving average of the weights, which is then validated and tested; 0: none.",
        Legal("a number in [0, 1)", lambda value: 0 <= value < 1),
    ),
    # ---- loader
    "DATA_LOADER.NUM_WORKERS": Key(
        -1,
        "Decoding processes per training process; -1: one for each CPU core it has, at "
        "most 16. Samples do not depend on it.",
        _at_least(-1),
    ),
    "DATA_LOADER.PREFETCH_FACTOR": Key(2, "Batches that each worker prepares ahead.", _at_least(1)),
    "DATA_LOADER.PIN_MEMORY": Key(True, "Put batches into page-locked memory, for faster copies to a GPU.", _ANY_BOOL),
}


def get_cfg() -> CfgNode:
    """A fresh, unfrozen config that holds every key's default."""
    cfg = CfgNode()
    for name, key in KEYS.items():
        *sections, leaf = name.split(".")
        node = cfg
        for section in sections:
            node = node.setdefault(section, CfgNode())
        node[leaf] = list(key.default) if isinstance(key.default, list) else key.default
    return cfg
