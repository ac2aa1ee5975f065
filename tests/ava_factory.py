"""Writes a small data set in AVA's published forms, with videos whose frames show their numbers."""

from pathlib import Path

import video_factory

from hiera_video.config import load_config

TRAIN = [
    "a,902,0.1,0.1,0.5,0.5,3,1",
    "a,902,0.1,0.1,0.5,0.5,4,1",
    "a,902,0.6,0.2,0.9,0.8,1,2",
    "b,901,0.2,0.2,0.9,0.9,1,7",
    "a,901,0.0,0.0,1.0,1.0,2,1",
]
VAL = ["a,902,0.1,0.1,0.5,0.5,3,1", "b,904,0.2,0.2,0.7,0.9,1,1"]
PERSONS = [
    "b,901,0.1,0.1,0.5,0.5,,0.85",
    "b,901,0.9,0.1,1,0.5,,0.9",
    "b,903,0.1,0.1,0.5,0.5,,0.5",
    "a,902,0.3,0.1,0.5,0.5,,0.80",
]
CLASSES = 'item {\n  name: "sit"\n  id: 1\n}\nlabel {\n  name: "run"\n  label_id: 3\n  label_type: PERSON_MOVEMENT\n}\n'


def write_lines(path: Path, lines: list[str]) -> Path:
    """Writes lines, each with an end."""
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_ava(folder: Path, *, num_frames: int = 150, fps: int = 30, side_px: int = 64) -> Path:
    """Videos a.mp4 and b.mkv as if cut at 900 s, and the lists; returns the folder."""
    (folder / "videos").mkdir(parents=True)
    for name in ("a.mp4", "b.mkv"):
        path = folder / "videos" / name
        video_factory.write_video(path, num_frames=num_frames, fps=fps, width=side_px, height=side_px)
    write_lines(folder / "ava_train_v2.2.csv", TRAIN)
    write_lines(folder / "ava_val_v2.2.csv", VAL)
    write_lines(folder / "ava_val_excluded_timestamps_v2.2.csv", ["a,0903"])
    (folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(CLASSES)
    write_lines(folder / "persons.csv", PERSONS)
    return folder


def make_config(folder: Path, *pairs: str, data_format: str = "ava"):
    """A config of that data set: 5 classes, clips of 4 frames, views of 32 px, no decoding processes."""
    words = {
        "TASK": "detect_actions",
        "DATA.FORMAT": data_format,
        "DATA.PATH_TO_DATA_DIR": str(folder),
        "AVA.TEST_PREDICT_BOX_LISTS": "['persons.csv']",
        "MODEL.NUM_CLASSES": "5",
        "TRAIN.BATCH_SIZE": "3",
        "DATA.TRAIN_CROP_SIZE": "32",
        "DATA.TEST_CROP_SIZE": "32",
        "DATA.TRAIN_JITTER_SCALES": "[32, 48]",
        "DATA.NUM_FRAMES": "4",
        "DATA_LOADER.NUM_WORKERS": "0",
    }
    return load_config([], [word for pair in words.items() for word in pair] + list(pairs))
