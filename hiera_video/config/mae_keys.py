"""Keys of MAE pre-training."""

from __future__ import annotations

from hiera_video.config.legal import ANY_BOOL, Key, Legal, at_least, one_of

MAE_KEYS: dict[str, Key] = {
    "MAE.MASK_RATIO": Key(
        0.9, "Share of the mask units that are hidden.", Legal("in (0, 1)", lambda value: 0 < value < 1)
    ),
    "MAE.MASK_TYPE": Key(
        "random", "random: any mask units; tube: the same places in all frames.", one_of("random", "tube")
    ),
    "MAE.TARGET": Key(
        "pixel",
        "What the model predicts for a hidden patch: its pixels, or a histogram of its gradients.",
        one_of("pixel", "hog"),
    ),
    "MAE.NORM_TARGET": Key(True, "Normalize each pixel patch by its own mean and variance.", ANY_BOOL),
    "MAE.DECODER_EMBED_DIM": Key(512, "Width of the decoder.", at_least(1)),
    "MAE.DECODER_DEPTH": Key(8, "Blocks of the decoder.", at_least(1)),
    "MAE.DECODER_NUM_HEADS": Key(
        16, "Heads of the decoder. The released code has 16, the paper says 8 for video.", at_least(1)
    ),
    "MAE.DECODER_KEEP_RATIO": Key(
        1.0,
        "Share of the hidden mask units that are decoded and scored, spread evenly. The paper has 1; less saves time.",
        Legal("in (0, 1]", lambda value: 0 < value <= 1),
    ),
    "MAE.MULTI_SCALE": Key(
        True, "The decoder sees all stages, fused, or the last one alone (the paper's ablation).", ANY_BOOL
    ),
    "MAE.CONTRASTIVE_WEIGHT": Key(0.0, "Factor of the patch-level contrastive loss. The paper has none.", at_least(0)),
    "MAE.CONTRASTIVE_TEMPERATURE": Key(
        0.07, "What the similarities of the contrastive loss are divided by.", Legal("above 0", lambda value: value > 0)
    ),
    "MAE.PROBE_PERIOD": Key(
        0,
        "Epochs between two k-nearest-neighbor accuracies of the features, on the validation list. 0: never.",
        at_least(0),
    ),
    "MAE.PROBE_NEIGHBORS": Key(20, "Neighbors that vote for the class of a video.", at_least(1)),
}
