"""The small videos, lists, weights and embeddings that the commands of the pages are run on.

A folder that looks like the one in which the pages' commands are typed: ``my_clips``, ``clip.mp4``,
``data/kinetics400`` and so on lie in it under the names that the pages use.
"""

import json
import shlex
import shutil
from pathlib import Path

import action_fixtures
import numpy as np
import pandas as pd
import torch
import video_factory
from PIL import Image

from hiera_video.cli.make_motion_dataset import main as make_motion_dataset
from hiera_video.cli.make_shape_dataset import main as make_shape_dataset
from hiera_video.config import dump_config, load_config
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.models.build import build_model_from_cfg

TINY_MODEL = "HIERA.EMBED_DIM 8 HIERA.STAGES [1,1,1,1]"
TINY_CLIP = "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_JITTER_SCALES [32,40] " + (
    "DATA.TRAIN_CROP_SIZE 32 DATA.TEST_CROP_SIZE 32 DATA_LOADER.NUM_WORKERS 0"
)
TINY = f"{TINY_MODEL} {TINY_CLIP}"
TINY_MAE = f"{TINY} MAE.DECODER_EMBED_DIM 32 MAE.DECODER_DEPTH 1 MAE.MASK_RATIO 0.5"
TINY_DETECTOR = f"{TINY_MODEL} DATA.TRAIN_CROP_SIZE 64 DATA.TEST_CROP_SIZE 64 DETECTOR.JITTER_SCALES [0.5,1.5] " + (
    "DETECTOR.ANCHOR_SIZES [8,16,32,48,64] DETECTOR.CHANNELS 8 DETECTOR.HIDDEN_DIM 8 DETECTOR.NUM_PROPOSALS 20 "
    "DETECTOR.NUM_ROIS 16 DATA_LOADER.NUM_WORKERS 0"
)
TINY_ACTIONS = f"{TINY} MODEL.NUM_CLASSES 4 DATA.TARGET_FPS 10 AVA.START_SEC 0.0 AVA.TRAIN_PREDICT_BOX_LISTS [] " + (
    f"AVA.TEST_PREDICT_BOX_LISTS \"['{action_fixtures.PERSONS}']\""
)
CLASSES = ("archery", "jump", "run", "sit", "wave")
# Kind of weights -> recipe, changes, names of classes.
WEIGHTS = {
    "video": ("Kinetics/HIERA_B_16x4.yaml", TINY, ()),
    "clips": ("Kinetics/HIERA_B_16x4.yaml", f"{TINY} MODEL.NUM_CLASSES 5", CLASSES),
    "large": ("Kinetics/HIERA_L_16x4.yaml", TINY, ()),
    "large mae": ("Kinetics/HIERA_L_16x4_MAE_800.yaml", TINY_MAE, ()),
    "mae": ("Kinetics/HIERA_B_16x4_MAE_800.yaml", TINY_MAE, ()),
    "motion": ("Demo/MOTION_HIERA_8x2.yaml", TINY, ()),
    "actions": ("AVA/HIERA_L_16x4.yaml", TINY_ACTIONS, ("walk", "sit", "3", "talk")),
    "detector": ("COCO/HIERA_B_1024.yaml", TINY_DETECTOR, ()),
    "picture": ("ImageNet/HIERA_B_224.yaml", TINY_MODEL, ()),
    "picture mae": ("ImageNet/HIERA_B_224_MAE_400.yaml", f"{TINY_MODEL} MAE.DECODER_EMBED_DIM 32", ()),
}
# Files of weights as the pages name them. Where a page means another kind by a name, the rule of its command says so.
WEIGHT_FILES = {
    "checkpoint_best.pyth": "clips",
    "hiera_base_16x224.pth": "video",
    "shared/hiera_base_16x224.pth": "video",
    "hiera_base_224.pth": "picture",
    "mae_hiera_base_16x224.pth": "mae",
    "mae_hiera_large_16x224.pth": "large mae",
    "mae_k400_ft_k400": "large",
    "mae_in1k": "picture mae",
    "output/my_clips/checkpoints/checkpoint_best.pyth": "clips",
    "output/checkpoints/checkpoint_best.pyth": "clips",
    "output/tour/checkpoints/checkpoint_best.pyth": "motion",
}


def write_weights(path, kind):
    """Random weights of that kind with their config, as a checkpoint of ours."""
    recipe, changes, names = WEIGHTS[kind]
    cfg = load_config([recipe], [*shlex.split(changes), "TRAIN.ENABLE", "False", "TEST.ENABLE", "False"])
    torch.manual_seed(0)
    model = build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE)
    content = {"model_state": model.state_dict(), "cfg": dump_config(cfg)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, content | {"class_names": list(names)})


def write_world(folder):
    """Everything but the embeddings, which a command of the pages makes."""
    motion, coco = folder / "data" / "motion", folder / "data" / "coco"
    words = ["--train", "24", "--val", "8", "--test", "11", "--workers", "1"]
    assert make_motion_dataset(["--output-dir", str(motion), *words]) == 0
    words = ["--task", "coco", "--train", "8", "--val", "5", "--size", "64"]
    assert make_shape_dataset(["--output-dir", str(coco), *words]) == 0
    (folder / "data" / "ava").mkdir()
    action_fixtures.write_actions(folder / "data" / "ava")
    for name in ("kinetics400", "k400"):
        shutil.copytree(motion, folder / "data" / name, ignore=shutil.ignore_patterns("ssv2", "few_labels", "*.json"))
    videos = sorted((motion / "videos").iterdir(), key=lambda path: int(path.stem))
    write_class_folders(folder / "my_clips", videos)
    write_lists_of_several_classes(folder / "my_lists", videos)
    write_something(folder / "data" / "ssv2", motion)
    write_own_boxes(coco, folder / "data" / "mine")
    video_factory.write_video(folder / "clip.mp4", num_frames=100)
    shutil.copy(videos[0], motion / "videos" / "880.mp4")
    for number, name in enumerate(("a", "b", "example", "my_videos/a", "my_videos/b", "my_videos/c", "my_videos/d")):
        path = folder / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(videos[number], path)
    shutil.copy(folder / "data" / "ava" / "videos" / "e.mp4", folder / "film.mp4")
    (folder / "boxes.csv").write_text(
        "video,time_sec,x1,y1,x2,y2,score\nfilm,1.0,27,5,46,43,0.9\nfilm,1.5,27,5,46,43,0.9\n"
    )
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)).save(folder / name)
    (folder / "train.csv").write_text("my_videos/a.mp4 0\nmy_videos/b.mp4 1\n")
    (folder / "test.csv").write_text("my_videos/c.mp4 0\n")
    write_kinds(folder)
    shutil.copy(motion / "classnames.json", folder / "classnames.json")
    (folder / "list.csv").write_text("my_videos/a.mp4\nmy_videos/b.mp4\n")
    for name, kind in WEIGHT_FILES.items():
        write_weights(folder / name, kind)


def write_kinds(folder):
    """Labels of the videos that are embedded, and what a cross-validation has predicted of them."""
    paths, labels = [f"my_videos/{name}.mp4" for name in "abcd"], [0, 1, 0, 1]
    pd.DataFrame({"path": paths, "kind": labels}).to_csv(folder / "kinds.csv", index=False)
    predictions = pd.DataFrame({"path": paths, "label": labels, "probs": list(np.eye(8)[[0, 1, 1, 1]])})
    (folder / "output" / "crossval").mkdir(parents=True)
    predictions.to_parquet(folder / "output" / "crossval" / "crossval_predictions.parquet")


def write_class_folders(folder, videos):
    for position, video in enumerate(videos[:40]):
        split = ("train", "train", "val", "test")[position // len(CLASSES) % 4]
        path = folder / split / CLASSES[position % len(CLASSES)] / f"subject{position % 4}_{video.name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path)


def write_lists_of_several_classes(folder, videos):
    folder.mkdir()
    for number, split in enumerate(("train", "val", "test")):
        some = videos[12 * number : 12 * number + 12]
        lines = [f"{video} {i % 20},{(i + 7) % 20}\n" for i, video in enumerate(some)]
        (folder / f"{split}.csv").write_text("".join(lines))


def write_something(folder, motion):
    """The motion data as Something-Something V2 lies on a disk."""
    shutil.copytree(motion / "ssv2", folder)
    (folder / "20bn-something-something-v2").mkdir()
    for path in (motion / "videos").iterdir():
        target = folder / "20bn-something-something-v2" / f"{path.stem}.webm"
        shutil.copy(path, target)


def write_own_boxes(coco, folder):
    """Three of the four classes in one folder of pictures."""
    (folder / "photos").mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((coco / "annotations" / f"instances_{split}2017.json").read_text())
        kept = content["categories"][:3]
        ids = {category["id"] for category in kept}
        things = [thing for thing in content["annotations"] if thing["category_id"] in ids]
        for picture in content["images"]:
            new_name = f"{split}_{picture['file_name']}"
            shutil.copy(coco / f"{split}2017" / picture["file_name"], folder / "photos" / new_name)
            picture["file_name"] = new_name
        (folder / f"{split}.json").write_text(json.dumps(content | {"categories": kept, "annotations": things}))


def copy_world(world: Path, folder: Path):
    """A copy of one's own for a command, in which files share their bytes with the original."""
    shutil.copytree(world, folder, copy_function=copy_or_link, dirs_exist_ok=True)


def copy_or_link(source, target):
    """Jobs write new files and never into old ones, but for what lies in their output folders."""
    if "output" in Path(source).parts:
        shutil.copy(source, target)
    else:
        Path(target).hardlink_to(source)
