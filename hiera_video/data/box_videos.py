"""Files, sizes and times of the videos that lists of boxes name."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

import numpy as np
import pandas as pd
from fvcore.common.config import CfgNode

from hiera_video.data.action_lists import load_frame_lists
from hiera_video.data.box_tables import Facts
from hiera_video.data.frame_lists import find_series
from hiera_video.data.key_frame_clips import WHOLE_SEC, KeyFrameSampler, find_start_sec
from hiera_video.data.lists import join_prefix, read_text
from hiera_video.data.video_folder import VideoFolder, is_there
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import pathmgr
from hiera_video.video import VideoDecodeError
from hiera_video.video.manifest import Manifest, load_manifest, open_video

logger = get_logger(__name__)

_FILE_NAMES = "ava_file_names_trainval_v2.1.txt"
_MAX_TRIES = 20


def build_list_path(cfg: CfgNode, name: str) -> str:
    """The path of one of AVA's lists."""
    return join_prefix(cfg.AVA.ANNOTATION_DIR or cfg.DATA.PATH_TO_DATA_DIR, name)


def build_video_paths(cfg: CfgNode, split: str, videos: list[str]) -> dict[str, str]:
    """How lists name a video -> its file, folder or series of pictures.

    Raises:
        FileNotFoundError: none of them is there.
    """
    ava = cfg.AVA
    if ava.FRAME_DIR and ava.FRAME_LIST_DIR:
        lists = ava.TRAIN_LISTS if split == "train" else ava.TEST_LISTS
        series = load_frame_lists([join_prefix(ava.FRAME_LIST_DIR, name) for name in lists])
        paths = {video: join_prefix(ava.FRAME_DIR, series.get(video, video)) for video in videos}
    elif ava.FRAME_DIR:
        paths = {video: find_series(join_prefix(ava.FRAME_DIR, video)) for video in videos}
    else:
        find = build_video_folder(cfg).find
        paths = {video: find(video) for video in videos}
    missing = [path for path in paths.values() if not is_there(path)]
    if missing and len(missing) == len(paths):
        where = "AVA.FRAME_DIR" if ava.FRAME_DIR else "DATA.PATH_PREFIX"
        raise FileNotFoundError(f"none of the {len(paths)} videos of the split {split} is there, such as {missing[0]}; "
                                f"{where} says where they lie")  # fmt: skip
    if missing:
        logger.warning("%s: %d of %d videos are not there, such as %s", split, len(missing), len(paths), missing[0])
    return paths


def build_video_folder(cfg: CfgNode) -> VideoFolder:
    """Where the videos lie: DATA.PATH_PREFIX, or the folder videos in the data folder, or that folder itself."""
    folder = cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR
    inner = os.path.join(folder, "videos")
    if not cfg.DATA.PATH_PREFIX and cfg.DATA.FORMAT == "ava" and os.path.isdir(inner):
        folder = inner
    listed = build_list_path(cfg, _FILE_NAMES)
    is_listed = cfg.DATA.FORMAT == "ava" and pathmgr.isfile(listed)
    return VideoFolder(folder, file_names=read_text(listed).split() if is_listed else ())


def build_facts(cfg: CfgNode) -> Facts:
    """What one's own lists may ask of videos: DATA.MANIFEST answers, or the videos are opened."""
    folder, known = build_video_folder(cfg), load_manifest(cfg.DATA.MANIFEST) if cfg.DATA.MANIFEST else None

    @functools.cache
    def get_size(video: str) -> tuple[int, int]:
        path = folder.find(video)
        record = known.get_entry(path) if known is not None else None
        if record is not None and record.width and record.height:
            return record.width, record.height
        try:
            with open_video(path, known) as reader:
                return reader.width, reader.height
        except (VideoDecodeError, OSError) as error:
            raise ValueError(
                f"the size of {path} is needed, as its boxes are in pixels, but it does not open: {error}. Take its "
                "boxes out of the list, or give them as shares of the frame"
            ) from error

    @functools.lru_cache(maxsize=8)
    def load_times_sec(path: str) -> list[float]:
        try:
            with open_video(path, known) as reader:
                return reader.times_sec
        except (VideoDecodeError, OSError) as error:
            raise ValueError(f"the times of frames of {path} are needed, but it does not open: {error}") from error

    def get_time_sec(video: str, frame: int) -> float:
        path = folder.find(video)
        times_sec = load_times_sec(path)
        if not 0 <= frame < len(times_sec):
            raise ValueError(f"{path}: frame {frame} has boxes; legal are 0 to {len(times_sec) - 1}")
        return times_sec[frame]

    return Facts(get_size, get_time_sec)


def build_good_videos(cfg: CfgNode, paths: Mapping[str, str], manifest: Manifest | None) -> list[str]:
    """The videos to train on: those that are there and not known to be broken.

    Raises:
        ValueError: more are not than DATA.MAX_BAD_VIDEOS.
    """
    places = np.array(list(paths.values()))
    broken = set(manifest.find_broken(places)) if manifest is not None else set()
    good = [video for number, (video, path) in enumerate(paths.items()) if number not in broken and is_there(path)]
    num_bad = len(paths) - len(good)
    if num_bad > cfg.DATA.MAX_BAD_VIDEOS:
        raise ValueError(
            f"{num_bad} of {len(paths)} videos to train on are missing or broken, more than DATA.MAX_BAD_VIDEOS = "
            f"{cfg.DATA.MAX_BAD_VIDEOS}. Add or repair them, or raise the limit"
        )
    if num_bad:
        logger.warning("left out of training: %d of %d videos, which are missing or broken", num_bad, len(paths))
    return good


def build_start_secs(
    cfg: CfgNode, boxes: pd.DataFrame, paths: Mapping[str, str], manifest: Manifest | None
) -> dict[str, float]:
    """Time of each file's first frame: AVA.START_SEC, or what the first video that opens shows; 0 of one's own boxes.

    Raises:
        ValueError: AVA.START_SEC is -1, and no video opens, or the first one is neither whole nor cut at 900 s.
    """
    start_sec = cfg.AVA.START_SEC if cfg.DATA.FORMAT == "ava" else WHOLE_SEC
    if start_sec < 0:
        start_sec = _build_found_start_sec(cfg, boxes, paths, manifest)
    return dict.fromkeys(paths, start_sec)


def _build_found_start_sec(
    cfg: CfgNode, boxes: pd.DataFrame, paths: Mapping[str, str], manifest: Manifest | None
) -> float:
    sampler = KeyFrameSampler(num_frames=1, sampling_rate=1, target_fps=cfg.DATA.TARGET_FPS)
    reasons = []
    last_secs = boxes.groupby("video", sort=False)["time_sec"].max().head(_MAX_TRIES)
    for video, last_sec in last_secs.items():
        try:
            with open_video(paths[video], manifest) as reader:
                duration_sec = sampler.compute_length_sec(reader.index)
        except (VideoDecodeError, OSError) as error:
            reasons.append(str(error))
            continue
        try:
            start_sec = find_start_sec(duration_sec, last_sec)
        except ValueError as error:
            raise ValueError(f"{paths[video]}: {error}") from error
        logger.info(
            "%s lasts %.0f s: files are taken to begin at second %g of the film (AVA.START_SEC)",
            *(paths[video], duration_sec, start_sec),
        )
        return start_sec
    raise ValueError(f"AVA.START_SEC = -1, but no video opens that would show when files begin: {'; '.join(reasons)}")
