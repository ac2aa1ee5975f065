"""Every config key: its default, what it means with its unit, and which values are legal.

SlowFast's words are kept where the meaning is the same; where it differs, the text says so. `hiera-video run --keys`
prints this table.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode

from hiera_video.config.ava_keys import AVA_KEYS
from hiera_video.config.detection_keys import DETECTION_KEYS
from hiera_video.config.extract_keys import EXTRACT_KEYS
from hiera_video.config.legal import (
    ANY_BOOL,
    ANY_LIST,
    ANY_STR,
    ASCENDING,
    ASCENDING_OR_EMPTY,
    Key,
    Legal,
    at_least,
    between,
    numbers,
    one_of,
)
from hiera_video.config.mae_keys import MAE_KEYS
from hiera_video.config.report_keys import REPORT_KEYS
from hiera_video.config.solver_keys import SOLVER_KEYS

KEYS: dict[str, Key] = {
    # ---- the run
    "OUTPUT_DIR": Key("./output", "Folder of everything that a job writes.", ANY_STR),
    "RNG_SEED": Key(0, "Seed of all randomness.", at_least(0)),
    "NUM_GPUS": Key(
        -1,
        "Processes on this machine, one a GPU. -1: every visible GPU, or one CPU process; 0: one CPU process. "
        "Under torchrun the launcher decides.",
        at_least(-1),
    ),
    "TASK": Key(
        "classify",
        "classify: fine-tuning, or from scratch; pretrain: MAE, without labels; detect_actions: what is done in each "
        "box of a video; detect: boxes and masks in pictures.",
        one_of("classify", "pretrain", "detect_actions", "detect"),
    ),
    "LOG_PERIOD": Key(10, "Optimizer steps between two log lines.", at_least(1)),
    "TENSORBOARD.ENABLE": Key(False, "Write TensorBoard events to OUTPUT_DIR/tensorboard.", ANY_BOOL),
    **REPORT_KEYS,
    # ---- training
    "TRAIN.ENABLE": Key(True, "Run the training job.", ANY_BOOL),
    "TRAIN.BATCH_SIZE": Key(
        64,
        "Clips per optimizer step, over all processes and accumulation steps. With AUG.NUM_SAMPLE clips per video, "
        "BATCH_SIZE / NUM_SAMPLE videos are decoded. (SlowFast counts videos.)",
        at_least(1),
    ),
    "TRAIN.GRAD_ACCUM_STEPS": Key(1, "Forward and backward passes per optimizer step.", at_least(1)),
    "TRAIN.PRECISION": Key(
        "fp32",
        "Arithmetic of the model: fp32, or autocast to bf16, or to fp16 with loss scaling (GPU only).",
        one_of("fp32", "bf16", "fp16"),
    ),
    "TRAIN.CLASS_SAMPLING": Key(
        0.0,
        "How far classes of unequal size are evened out in what is drawn, for TASK classify. 0: every video alike; "
        "1: every class alike; 0.5: by the square roots of their sizes. Tests are not concerned.",
        between(0, 1),
    ),
    "TRAIN.CLASS_WEIGHTING": Key(
        0.0,
        "The same by weights in the loss, size ** -CLASS_WEIGHTING, whose mean over the videos is 1. 0: none.",
        between(0, 1),
    ),
    "TRAIN.PROFILE_STEPS": Key(
        0,
        "Steps, after the first few, that torch's profiler records: OUTPUT_DIR/profile gets a trace for Perfetto and a "
        "table of data, copy, forward, backward, optimizer and communication. 0: none.",
        at_least(0),
    ),
    "TRAIN.SHARDING": Key(
        "none",
        "What several processes divide among them instead of each holding it whole. zero2: gradients and the "
        "optimizer's moments; zero3: the weights too, which are gathered block by block. Numbers stay the same but for "
        "rounding. Not with fp16 or MODEL.COMPILE. One process divides nothing.",
        one_of("none", "zero2", "zero3"),
    ),
    "TRAIN.EVAL_PERIOD": Key(
        1, "Epochs between two validations; the last epoch is always validated. 0: never.", at_least(0)
    ),
    "TRAIN.EARLY_STOP_VALIDATIONS": Key(
        0,
        "Training ends before SOLVER.MAX_EPOCH when so many validations in a row were not better than the best one. "
        "0: never.",
        at_least(0),
    ),
    "TRAIN.CHECKPOINT_PERIOD": Key(1, "Epochs between two checkpoints; the last epoch is always saved.", at_least(1)),
    "TRAIN.CHECKPOINT_PERIOD_MINUTES": Key(30.0, "Minutes between checkpoints within an epoch. 0: none.", at_least(0)),
    "TRAIN.STOP_WHEN_DISK_FULL": Key(
        False,
        "Whether a checkpoint that cannot be written ends the job, or the next one is tried. The last must be written.",
        ANY_BOOL,
    ),
    "TRAIN.CHECKPOINT_KEEP_LAST": Key(
        2, "How many of the newest checkpoints to keep, beside the best. 0: all.", at_least(0)
    ),
    "TRAIN.AUTO_RESUME": Key(True, "Go on from the newest checkpoint in OUTPUT_DIR, if there is one.", ANY_BOOL),
    "TRAIN.CHECKPOINT_FILE_PATH": Key(
        "",
        "Weights to start from: a path, a URL, or the name of released ones such as mae_k400; empty: random ones.",
        ANY_STR,
    ),
    "TRAIN.ALLOW_PARTIAL": Key(
        False, "Also start from weights that fill less than 90 % of the encoder's values.", ANY_BOOL
    ),
    # ---- multi-view test
    "TEST.ENABLE": Key(False, "Run the multi-view test job.", ANY_BOOL),
    "TEST.SPLIT": Key("test", "Which list to test on.", one_of("train", "val", "test")),
    "TEST.BATCH_SIZE": Key(16, "Clips (views) per forward pass, over all processes; also in validation.", at_least(1)),
    "TEST.NUM_ENSEMBLE_VIEWS": Key(5, "Clips per video, uniform in time.", at_least(1)),
    "TEST.NUM_SPATIAL_CROPS": Key(
        3,
        "Crops per clip: 1 (center) or 3 along the longer side.",
        Legal("1 or 3", lambda value: value in (1, 3)),
    ),
    "TEST.ENSEMBLE_METHOD": Key(
        "mean",
        "How the probabilities of a video's views become one; max is usual where a clip shows some of its classes.",
        one_of("mean", "max"),
    ),
    "TEST.CHECKPOINT_FILE_PATH": Key(
        "",
        "Weights to test (path or URL); best: those of the best validation in OUTPUT_DIR; empty: the newest checkpoint "
        "in OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH.",
        ANY_STR,
    ),
    **EXTRACT_KEYS,
    # ---- data: which videos
    "DATA.FORMAT": Key(
        "kinetics",
        "kinetics: train.csv, val.csv, test.csv with 'path label' lines; ssv2: the official json files; ssv2_frames: "
        "these, and pictures instead of videos, which SlowFast's train.csv and val.csv list; folders: "
        "<split>/<class>/*.mp4; imagenet: pictures in folders, tar archives or Parquet files; ava: AVA's files of "
        "boxes and actions, see AVA.*; boxes: train.csv, val.csv, test.csv (or .json) with boxes of your own; coco: "
        "COCO.ANNOTATIONS.",
        one_of("kinetics", "ssv2", "ssv2_frames", "folders", "charades", "imagenet", "ava", "boxes", "coco"),
    ),
    "DATA.PATH_TO_DATA_DIR": Key("", "Folder of the lists (or of the class folders).", ANY_STR),
    "DATA.PATH_PREFIX": Key("", "Folder that relative video paths are under; empty: DATA.PATH_TO_DATA_DIR.", ANY_STR),
    "DATA.PATH_LABEL_SEPARATOR": Key(
        " ",
        "Separator between path and label in a csv; the last one of a line counts.",
        Legal("at least one character", bool),
    ),
    "DATA.VIDEO_SUFFIX": Key(".webm", "What DATA.FORMAT ssv2 appends to an id to name the file.", ANY_STR),
    "DATA.CLASS_NAMES_PATH": Key(
        "",
        "File of class names for reports: one a line, or json {name: id}. Empty: from the data where they are known.",
        ANY_STR,
    ),
    "DATA.TIMEOUT_SEC": Key(
        300,
        "A video that takes longer to give its clips to training or testing is bad. 0 workers: no limit.",
        at_least(1),
    ),
    "DATA.MAX_BAD_VIDEOS": Key(100, "The job stops when more videos than this cannot be decoded.", at_least(0)),
    "DATA.MANIFEST": Key(
        "",
        "What `hiera-video check` found out about the videos (path or URL of its Parquet file): they are opened "
        "without a scan; training leaves out the broken ones, tests name them. Empty: none.",
        ANY_STR,
    ),
    "DATA.CACHE_DIR": Key(
        "",
        "Folder on a disk of this machine that keeps remote videos, and members of remote shards. Empty: none.",
        ANY_STR,
    ),
    "DATA.CACHE_SIZE_GB": Key(
        100.0,
        "What the files in DATA.CACHE_DIR take at most, in 10^9 bytes; what was used least recently goes first.",
        Legal("above 0", lambda value: value > 0),
    ),
    "DATA.TRANSFORMS": Key(
        "slowfast",
        "timm, for pictures: antialiased, torchvision's center, timm's RandAugment.",
        one_of("slowfast", "timm"),
    ),
    "DATA.MAX_SHORT_SIDE": Key(
        0,
        "Larger frames are scaled down to this short side, px, while their colors are converted (JPEG pictures: to "
        "1/2, 1/4 or 1/8, not below it). Faster, but other pixels than a full decode and a resize. 0: never.",
        at_least(0),
    ),
    **AVA_KEYS,
    # ---- data: which frames
    "DATA.DECODING_BACKEND": Key(
        "pyav", "Video decoder; all give the same frames.", one_of("pyav", "decord", "torchcodec")
    ),
    "DATA.NUM_FRAMES": Key(16, "Frames per clip.", at_least(1)),
    "DATA.SAMPLING_RATE": Key(4, "Frames from one sampled frame to the next, at TARGET_FPS.", at_least(1)),
    "DATA.TARGET_FPS": Key(
        30,
        "Frame rate that SAMPLING_RATE counts in; a video of another rate is sampled at the same speed in seconds.",
        at_least(1),
    ),
    "DATA.SAMPLING": Key(
        "clip",
        "clip: consecutive frames at SAMPLING_RATE (Kinetics); segment: one frame of each of "
        "NUM_FRAMES equal parts (Something-Something).",
        one_of("clip", "segment"),
    ),
    "DATA.USE_OFFSET_SAMPLING": Key(
        True,
        "Test clips at whole multiples of floor(delta / (n - 1)), as SlowFast has it; False: k * delta / n.",
        ANY_BOOL,
    ),
    # ---- data: which pixels
    "DATA.MEAN": Key([0.45, 0.45, 0.45], "Mean of each channel, for pixels in [0, 1].", numbers(3)),
    "DATA.STD": Key(
        [0.225, 0.225, 0.225],
        "Standard deviation of each channel, for pixels in [0, 1].",
        Legal("a list of 3 positive numbers", lambda v: len(v) == 3 and min(v) > 0),
    ),
    "DATA.TRAIN_CROP_SIZE": Key(224, "Height and width of a clip in training and validation, px.", at_least(1)),
    "DATA.TEST_CROP_SIZE": Key(224, "Height and width of a view in testing, px.", at_least(1)),
    "DATA.TRAIN_JITTER_SCALES": Key(
        [256, 320],
        "Short side to resize to before a random crop, drawn from "
        "[min, max] px; the first is the short side of a test with one crop.",
        ASCENDING,
    ),
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": Key(
        [],
        "Area of a random resized crop as a share of the frame, [min, max]; []: short-side jitter instead.",
        ASCENDING_OR_EMPTY,
    ),
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": Key(
        [], "Aspect ratio of a random resized crop, [min, max]; []: 1.", ASCENDING_OR_EMPTY
    ),
    "DATA.RANDOM_FLIP": Key(True, "Flip half of the training clips left to right.", ANY_BOOL),
    "DATA.INTERPOLATION": Key("bilinear", "How clips are resized.", one_of("bilinear", "bicubic")),
    # ---- augmentation
    "AUG.NUM_SAMPLE": Key(1, "Clips per decoded video in training (repeated augmentation).", at_least(1)),
    "AUG.AA_TYPE": Key("", "RandAugment, e.g. 'rand-m7-n2-mstd0.5-inc1'; empty: none.", ANY_STR),
    "AUG.COLOR_JITTER": Key(0.0, "Strength of brightness, contrast and saturation jitter; 0: none.", between(0, 1)),
    "AUG.RE_PROB": Key(0.0, "Probability of random erasing.", between(0, 1)),
    "AUG.RE_MODE": Key(
        "pixel",
        "What erasing fills in. const: zeros, which are the mean; pixel: noise for each pixel.",
        one_of("const", "pixel"),
    ),
    "AUG.RE_COUNT": Key(1, "Number of boxes that random erasing fills.", at_least(1)),
    "MIXUP.ENABLE": Key(False, "Mixup, CutMix and label smoothing in training.", ANY_BOOL),
    "MIXUP.ALPHA": Key(0.8, "Beta parameter of mixup; 0: no mixup.", at_least(0)),
    "MIXUP.CUTMIX_ALPHA": Key(1.0, "Beta parameter of CutMix; 0: no CutMix.", at_least(0)),
    "MIXUP.PROB": Key(1.0, "Probability that a batch is mixed.", between(0, 1)),
    "MIXUP.SWITCH_PROB": Key(0.5, "Probability of CutMix where both are on.", between(0, 1)),
    "MIXUP.LABEL_SMOOTH_VALUE": Key(
        0.1,
        "Label smoothing, with MIXUP.ENABLE (for smoothing without mixing: PROB 0).",
        Legal("a number in [0, 1)", lambda value: 0 <= value < 1),
    ),
    # ---- model
    "MODEL.MODEL_NAME": Key("hiera_base_16x224", "A video model of hiera_video.model_names().", ANY_STR),
    "MODEL.NUM_CLASSES": Key(400, "Number of classes of the head.", at_least(2)),
    "MODEL.LOSS_FUNC": Key(
        "cross_entropy",
        "cross_entropy: a clip has one class; bce_logit: any number of classes, each by itself, with lines such as "
        "'path 3,17'. For TASK classify; boxes always have several.",
        one_of("cross_entropy", "bce_logit"),
    ),
    "MODEL.HEAD": Key(
        "mean",
        "What the classifier sees. mean: the mean of all tokens, as in the released models; attentive: what learned "
        "queries find among them, which helps where the encoder is frozen. For TASK classify.",
        one_of("mean", "attentive"),
    ),
    "MODEL.FREEZE_STAGES": Key(
        0,
        "How many stages, with the embeddings below them, fine-tuning leaves as they are; 4: the whole encoder but its "
        "last norm. Less memory, and less overfitting on few clips.",
        between(0, 4),
    ),
    "MODEL.DROPOUT_RATE": Key(0.0, "Dropout before the head.", Legal("in [0, 1)", lambda value: 0 <= value < 1)),
    "MODEL.DROP_PATH_RATE": Key(
        0.0,
        "Stochastic depth of the last block; it grows linearly from 0 at the first.",
        Legal("in [0, 1)", lambda value: 0 <= value < 1),
    ),
    "MODEL.POS_EMBED_RESIZE": Key(
        "bicubic",
        "How position embeddings of weights of another size are interpolated; absolute_win keeps what repeats in each "
        "mask unit aligned with it.",
        one_of("bicubic", "absolute_win"),
    ),
    "MODEL.ACT_CHECKPOINT": Key(False, "Recompute each block in the backward pass to save memory.", ANY_BOOL),
    "MODEL.COMPILE": Key(
        False,
        "Compile the model with torch.compile, forward and backward: classifiers and autoencoders as one graph. The "
        "first step takes minutes, numbers differ in their last bits, dropout and drop path draw others.",
        ANY_BOOL,
    ),
    "MODEL.MATMUL_PRECISION": Key(
        "highest",
        "Products of float32 matrices and convolutions, in every job. highest: in float32. high: in TF32 where the GPU "
        "has it, faster, with 10 bits of the 23 of each factor; medium: in bfloat16 where the processor has it, with "
        "7. Does not matter for what runs in 16 bits.",
        one_of("highest", "high", "medium"),
    ),
    "CUDNN.BENCHMARK": Key(
        False,
        "Let cuDNN time its convolutions, of which the patch embedding is the largest, and take the fastest. The "
        "choice can differ from start to start, and with it the last bits: a resumed run is then not the same run.",
        ANY_BOOL,
    ),
    "HIERA.EMBED_DIM": Key(0, "Width of the first stage; 0: as the model's name says.", at_least(0)),
    "HIERA.NUM_HEADS": Key(0, "Heads of the first stage; 0: as the model's name says.", at_least(0)),
    "HIERA.STAGES": Key([], "Blocks of each stage; []: as the model's name says.", numbers(4, or_empty=True)),
    "HIERA.ATTN_WINDOW_UNITS": Key(
        [],
        "Mask units per side of a window that attention of stages 3 and 4 stays in, e.g. [7, 7] for SAM2; []: global.",
        numbers(2, or_empty=True),
    ),
    "HIERA.GLOBAL_BLOCKS": Key([], "Blocks that are global all the same, counted from 0.", ANY_LIST),
    "HIERA.POS_EMBED_WINDOW": Key(
        False,
        "Position embeddings in two tables, one of which repeats in each mask unit (absolute win): for models that are "
        "trained at several sizes.",
        ANY_BOOL,
    ),
    "HIERA.HEAD_INIT_SCALE": Key(0.001, "The new head's random weights are scaled by this.", at_least(0)),
    **MAE_KEYS,
    **SOLVER_KEYS,
    # ---- loader
    "DATA_LOADER.NUM_WORKERS": Key(
        -1,
        "Decoding processes per training process; -1: one for each CPU core it has, at "
        "most 16. Samples do not depend on it.",
        at_least(-1),
    ),
    "DATA_LOADER.PREFETCH_FACTOR": Key(2, "Batches that each worker prepares ahead.", at_least(1)),
    "DATA_LOADER.PIN_MEMORY": Key(True, "Put batches into page-locked memory, for faster copies to a GPU.", ANY_BOOL),
} | DETECTION_KEYS


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
