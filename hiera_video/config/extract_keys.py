"""Config keys of the job that embeds videos."""

from __future__ import annotations

from hiera_video.config.legal import ANY_BOOL, ANY_STR, Key, Legal, at_least, one_of

EXTRACT_KEYS: dict[str, Key] = {
    "EXTRACT.ENABLE": Key(False, "Run the job that embeds videos.", ANY_BOOL),
    "EXTRACT.VIDEOS": Key(
        "",
        "Which videos: a folder, a glob in quotes, a list of paths (.csv, .txt), a manifest (.parquet) or one video. "
        "Empty: the lists of DATA.FORMAT.",
        ANY_STR,
    ),
    "EXTRACT.SPLIT": Key(
        "all", "Which list of DATA.FORMAT; all: every list that exists.", one_of("all", "train", "val", "test")
    ),
    "EXTRACT.CHECKPOINT_FILE_PATH": Key(
        "",
        "Weights (path or URL); best: those of the best validation in OUTPUT_DIR; empty: the newest checkpoint in "
        "OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH.",
        ANY_STR,
    ),
    "EXTRACT.CLIPS": Key(
        "windows",
        "windows: sliding over the whole video; uniform: NUM_CLIPS clips spread over it, as in testing.",
        one_of("windows", "uniform"),
    ),
    "EXTRACT.WINDOW": Key(
        0.0,
        "Length of a window in EXTRACT.UNIT. 0: that of clips in training, NUM_FRAMES x SAMPLING_RATE.",
        at_least(0),
    ),
    "EXTRACT.STRIDE": Key(
        0.0, "Time from one window's start to the next, in EXTRACT.UNIT. 0: the length of a window.", at_least(0)
    ),
    "EXTRACT.UNIT": Key("sec", "Unit of WINDOW and STRIDE: seconds, or frames of the video.", one_of("sec", "frames")),
    "EXTRACT.NUM_CLIPS": Key(5, "Clips of a video, with EXTRACT.CLIPS uniform.", at_least(1)),
    "EXTRACT.NUM_CROPS": Key(
        1,
        "Crops per clip: 1 (center) or 3 along the longer side.",
        Legal("1 or 3", lambda value: value in (1, 3)),
    ),
    "EXTRACT.LAYER": Key(
        "pooled",
        "pooled: the features that the head sees; stageN: the mean over the tokens of stage N; mapN: its feature map, "
        "(T', H', W', D) in spatial order.",
        one_of("pooled", *(f"{kind}{stage}" for kind in ("stage", "map") for stage in (1, 2, 3, 4))),
    ),
    "EXTRACT.AVERAGE": Key(
        "crops",
        "none: an embedding for each view; crops: one for each clip, the mean over its crops; video: one for each "
        "video, the mean over its views.",
        one_of("none", "crops", "video"),
    ),
    "EXTRACT.L2_NORMALIZE": Key(False, "Scale embeddings to length 1, after averaging.", ANY_BOOL),
    "EXTRACT.DTYPE": Key("float32", "How embeddings are stored.", one_of("float32", "float16")),
    "EXTRACT.PRECISION": Key("fp32", "Arithmetic of the model, as TRAIN.PRECISION.", one_of("fp32", "bf16", "fp16")),
    "EXTRACT.BATCH_SIZE": Key(16, "Clips (views) per forward pass of each process.", at_least(1)),
    "EXTRACT.WRITE_NPY": Key(False, "Also write npy/<video id>.npy, (windows, D), for each video.", ANY_BOOL),
    "EXTRACT.WRITE_SAFETENSORS": Key(False, "Also write safetensors/<video id>.safetensors.", ANY_BOOL),
    "EXTRACT.TIMEOUT_SEC": Key(
        600,
        "The job gives a video up, and names it among the failures, when decoding it brings nothing for so long.",
        at_least(1),
    ),
}
