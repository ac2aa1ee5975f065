"""Config keys of boxes and actions. SlowFast's words; names of files are relative to AVA.ANNOTATION_DIR."""

from __future__ import annotations

from hiera_video.config.legal import ANY_BOOL, ANY_STR, TEXTS, Key, Legal, between

AVA_KEYS: dict[str, Key] = {
    "AVA.ANNOTATION_DIR": Key("", "Folder of AVA's lists; empty: DATA.PATH_TO_DATA_DIR.", ANY_STR),
    "AVA.FRAME_DIR": Key(
        "",
        "Folder of extracted frames, at DATA.TARGET_FPS. Empty: the videos themselves, in DATA.PATH_PREFIX, whole or "
        "cut at 900 s.",
        ANY_STR,
    ),
    "AVA.FRAME_LIST_DIR": Key(
        "", "Folder of SlowFast's lists of these frames; empty: they are <FRAME_DIR>/<video>/*.jpg.", ANY_STR
    ),
    "AVA.TRAIN_LISTS": Key(["train.csv"], "Lists of frames for training, in FRAME_LIST_DIR.", TEXTS),
    "AVA.TEST_LISTS": Key(["val.csv"], "Lists of frames for validation and testing, in FRAME_LIST_DIR.", TEXTS),
    "AVA.START_SEC": Key(
        -1.0,
        "Time on the lists' clock of the first frame: 0 of whole films, 900 of AVA's usual cut. -1: found out from how "
        "long the first video is.",
        Legal("-1, or a number >= 0", lambda value: value == -1 or value >= 0),
    ),
    "AVA.TRAIN_GT_BOX_LISTS": Key(["ava_train_v2.2.csv"], "Truth to train on.", TEXTS),
    "AVA.TRAIN_PREDICT_BOX_LISTS": Key(
        [], "Predicted persons to train on, with the actions that the file gives them; no file of truth.", TEXTS
    ),
    "AVA.TEST_PREDICT_BOX_LISTS": Key(
        ["person_box_67091280_iou90/ava_detection_val_boxes_and_labels.csv"],
        "Predicted persons whose actions are predicted in validation and testing. []: the boxes of the truth, which "
        "makes results higher.",
        TEXTS,
    ),
    "AVA.DETECTION_SCORE_THRESH": Key(
        0.8,
        "Predicted persons of a lower score are left out, also with DATA.FORMAT boxes. (SlowFast's default is 0.9, its "
        "AVA recipes have 0.8.)",
        between(0, 1),
    ),
    "AVA.GROUNDTRUTH_FILE": Key("ava_val_v2.2.csv", "Truth to validate and test with.", ANY_STR),
    "AVA.EXCLUSION_FILE": Key(
        "ava_val_excluded_timestamps_v2.2.csv", "Moments that count neither way in a test; empty: none.", ANY_STR
    ),
    "AVA.LABEL_MAP_FILE": Key(
        "ava_action_list_v2.2_for_activitynet_2019.pbtxt", "The classes that count in a test, and their names.", ANY_STR
    ),
    "AVA.FULL_TEST_ON_VAL": Key(
        True,
        "Validation takes all seconds; False: those that 4 divides, as SlowFast's default has it. TEST.SPLIT test is "
        "always full.",
        ANY_BOOL,
    ),
}
