"""Config keys of detection in pictures, part of the table in defaults.py, and the rules across keys that it has."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from hiera_video.config.legal import ASCENDING, Key, Legal, at_least

DETECTION_KEYS: dict[str, Key] = {
    "COCO.ANNOTATIONS": Key(
        "annotations/instances_{split}2017.json",
        "With DATA.FORMAT coco, the file of boxes and masks, in COCO's form, of the split that stands for {split}; "
        "relative to DATA.PATH_TO_DATA_DIR.",
        Legal("a path", bool),
    ),
    "COCO.IMAGES": Key(
        "{split}2017",
        "The folder that its file_name is in; relative to DATA.PATH_PREFIX, or to DATA.PATH_TO_DATA_DIR.",
        Legal("a path", bool),
    ),
    "DETECTOR.JITTER_SCALES": Key(
        [0.1, 2.0],
        "Large-scale jitter in training: the longer side becomes DATA.TRAIN_CROP_SIZE times a number in [min, max].",
        ASCENDING,
    ),
    "DETECTOR.ANCHOR_SIZES": Key(
        [32, 64, 128, 256, 512],
        "Side of the anchors of each of the five levels of the pyramid, px.",
        Legal("a list of 5 positive numbers", lambda v: len(v) == 5 and all(side > 0 for side in v)),
    ),
    "DETECTOR.CHANNELS": Key(256, "Width of the pyramid and of the convolutions of the heads.", at_least(1)),
    "DETECTOR.HIDDEN_DIM": Key(1024, "Width of the layer before boxes and classes.", at_least(1)),
    "DETECTOR.NUM_PROPOSALS": Key(2000, "Proposals of a picture that training keeps.", at_least(1)),
    "DETECTOR.NUM_ROIS": Key(512, "Of these, how many the box head learns from.", at_least(1)),
}


def check_detection(cfg: CfgNode) -> None:
    """Raises ValueError for keys of other tasks that detection would silently leave aside."""
    unused = {
        "MIXUP.ENABLE": cfg.MIXUP.ENABLE,
        "AUG.AA_TYPE": cfg.AUG.AA_TYPE,
        "AUG.RE_PROB": cfg.AUG.RE_PROB,
        "AUG.COLOR_JITTER": cfg.AUG.COLOR_JITTER,
        "DATA.MANIFEST": cfg.DATA.MANIFEST,
        "DATA.MAX_SHORT_SIDE": cfg.DATA.MAX_SHORT_SIDE,
    }
    for name, value in unused.items():
        if value:
            raise ValueError(f"{name} = {value} has no meaning with TASK = detect; leave it as it is by default")
    if cfg.AUG.NUM_SAMPLE != 1:
        raise ValueError(f"AUG.NUM_SAMPLE = {cfg.AUG.NUM_SAMPLE}: TASK = detect takes each picture once; set 1")
