"""What the persons or things in given boxes of a video do over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import simplejson
import torch
from fvcore.common.config import CfgNode
from tqdm import tqdm

from hiera_video.data.action_lists import CORNERS
from hiera_video.data.box_transforms import ViewMap, clip_boxes
from hiera_video.data.key_frame_clips import KeyFrameSampler
from hiera_video.data.transforms import EvalTransform
from hiera_video.engine.batch import autocast, to_model_input
from hiera_video.engine.box_predictions import empty_outside
from hiera_video.engine.tracks import TrackSettings, link_boxes
from hiera_video.engine.trained import Trained
from hiera_video.models.action_detector import HieraActionDetector
from hiera_video.models.person_detector import PersonDetector
from hiera_video.utils.fractions import to_fraction
from hiera_video.video import VideoReader
from hiera_video.video.file_cache import FileCache, build_file_cache

_ROUNDING_SEC = 1e-6


@dataclass(frozen=True, eq=False)
class ActionPrediction:
    """Boxes of a video as tracks, and what is done in them.

    Attributes:
        video: path or URL.
        checkpoint: path or URL of the weights.
        sha256: of that file.
        boxes: columns time_sec, track, x1, y1, x2, y2, score: every box, corners as shares of the frame.
        actions: columns time_sec, track, x1, y1, x2, y2, classes, probabilities (in each row the likeliest first), for
            some of the boxes. A box that no view shows has neither.
    """

    video: str
    checkpoint: str
    sha256: str
    boxes: pd.DataFrame
    actions: pd.DataFrame

    def to_json(self) -> str:
        """All of it as a JSON object, track by track."""
        tracks = [
            {
                "track": track,
                "boxes": rows.drop(columns="track").to_dict(orient="records"),
                "actions": self.actions[self.actions["track"] == track].drop(columns="track").to_dict(orient="records"),
            }
            for track, rows in ((track, self.boxes[self.boxes["track"] == track]) for track in tracks_of(self.boxes))
        ]
        content = {"video": self.video, "checkpoint": self.checkpoint, "weights_sha256": self.sha256, "tracks": tracks}
        return simplejson.dumps(content, indent=1, ignore_nan=True)

    def to_csv(self) -> str:
        """``video,time_sec,x1,y1,x2,y2,label,person,score``: a line for each named action; score is its probability."""
        rows = self.actions.explode(["classes", "probabilities"]).dropna(subset=["classes"])
        table = pd.DataFrame({"video": self.video, **{name: rows[name] for name in ("time_sec", *CORNERS)}})
        table = table.assign(label=rows["classes"], person=rows["track"], score=rows["probabilities"])
        return table.to_csv(index=False, float_format="%.6g")


class ActionPredictor:
    """A trained detector of actions.

    Args:
        trained: the model.
        top_k: classes to name; all where there are fewer.
        stride_sec: from one moment of which actions are predicted to the next.
        num_crops: views of each moment: 1 (center), or 3 along the longer side, of which each box takes the one that
            shows most of it.

    Raises:
        ValueError: an argument out of range, or a model that does not take boxes.
    """

    def __init__(self, trained: Trained, *, top_k: int = 3, stride_sec: float = 1.0, num_crops: int = 3) -> None:
        if top_k < 1 or not stride_sec > 0:
            raise ValueError(f"top_k is {top_k}, stride_sec {stride_sec}; they must be at least 1, and above 0")
        if not isinstance(trained.model, HieraActionDetector):
            raise ValueError(
                f"{trained.checkpoint} is of a model for whole clips (TASK {trained.cfg.TASK}), and predicts no "
                "actions of boxes; train one with TASK detect_actions"
            )
        self.trained, self.model = trained, trained.model
        self.top_k, self.stride_sec = top_k, stride_sec
        self.sampler = _build_sampler(trained.cfg)
        self.transform = _build_transform(trained.cfg, num_crops)
        self.cache = build_file_cache(trained.cfg)

    def predict(self, path: str, boxes: pd.DataFrame, *, settings: TrackSettings | None = None) -> ActionPrediction:
        """Links boxes to tracks and predicts the actions of each at moments ``stride_sec`` apart.

        Args:
            path: of the video.
            boxes: columns time_sec (since the first frame), x1, y1, x2, y2 (shares of the frame), score, person; where
                all persons are known (none is -1) they are the tracks.
            settings: of the tracks.

        Raises:
            FileNotFoundError: no such video.
            VideoDecodeError: it cannot be decoded.
            ValueError: a box lies at no time of the video.
        """
        boxes = boxes.sort_values("time_sec", kind="stable").reset_index(drop=True)
        corners = boxes[CORNERS].to_numpy(np.float64)
        tracks = boxes["person"].to_numpy(np.int64)
        if (tracks < 0).any():
            tracks = link_boxes(boxes["time_sec"].to_numpy(), corners, settings or TrackSettings())
        boxes = boxes.assign(track=tracks)[["time_sec", "track", *CORNERS, "score"]]
        parts = []
        moments = choose_moments(boxes["time_sec"].to_numpy(), self.stride_sec)
        with VideoReader(path, cache=self.cache) as reader:
            for time_sec in tqdm(moments, desc="predicting", unit="moment", leave=False, disable=None):
                here = boxes[boxes["time_sec"] == time_sec]
                shares = torch.tensor(here[CORNERS].to_numpy(), dtype=torch.float32)
                probs = self._predict_moment(reader, time_sec, shares)
                parts.append(self._name(here, probs))
        columns = ["time_sec", "track", *CORNERS, "classes", "probabilities"]
        actions = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
        return ActionPrediction(path, self.trained.checkpoint, self.trained.sha256, boxes, actions[columns])

    def _predict_moment(self, reader: VideoReader, time_sec: float, shares: torch.Tensor) -> np.ndarray:
        """Probabilities float32 (r, K) of boxes (r, 4); NaN where no view shows a box."""
        frames = reader.get_frames(self.sampler.get_frame_indices(reader.index, to_fraction(time_sec)).tolist())
        views, boxes = make_views(self.transform, frames, shares)
        used, numbers = boxes[:, 0].long().unique(return_inverse=True)
        boxes[:, 0] = numbers.float()
        cfg, device = self.trained.cfg, next(self.model.parameters()).device
        clips = to_model_input(views[used][None], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)
        precision = cfg.TRAIN.PRECISION if device.type == "cuda" else "fp32"
        with torch.inference_mode(), autocast(device, precision):
            probs = self.model(clips, boxes.to(device)).float().sigmoid().cpu()  # (r, K)
        is_seen = (boxes[:, 3:] > boxes[:, 1:3]).all(dim=1)
        return probs.masked_fill(~is_seen[:, None], float("nan")).numpy()

    def _name(self, boxes: pd.DataFrame, probs: np.ndarray) -> pd.DataFrame:
        names = self.trained.class_names
        classes, probabilities = [], []
        for row in probs:
            top = [] if np.isnan(row).any() else np.argsort(-row, kind="stable")[: self.top_k].tolist()
            classes.append(tuple(names[k] if k < len(names) else str(k) for k in top))
            probabilities.append(tuple(float(row[k]) for k in top))
        return boxes.drop(columns="score").assign(classes=classes, probabilities=probabilities)


def make_views(
    transform: EvalTransform, frames: torch.Tensor, shares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """All views of a clip, and each box in the view that shows most of it.

    Args:
        transform: of one or three views.
        frames: uint8 (T, H, W, C).
        shares: float32 (r, 4), boxes as shares of the frame.

    Returns:
        uint8 (V, C, T, S, S), and float32 (r, 5): the view's number, and the corners in its pixels, cut off at its
        borders; a box that no view shows is empty.
    """
    height, width = frames.shape[1:3]
    prepared = transform.prepare(frames)
    rows, columns = prepared.shape[1:3]
    size = transform.size_px
    views = torch.empty((transform.num_crops, frames.shape[3], len(frames), size, size), dtype=torch.uint8)
    transform.write_views(prepared.unbind(), views)
    boxes = shares * torch.tensor([width, height, width, height])
    x_scale, y_scale = width / columns, height / rows
    placed = []
    for number, (top, left) in enumerate(transform.find_corners(rows, columns)):
        view_map = ViewMap(left * x_scale, top * y_scale, size * x_scale, size * y_scale, size)
        inside, is_outside = clip_boxes(view_map.to_view(boxes), size)
        placed.append(empty_outside(torch.cat([torch.full((len(boxes), 1), float(number)), inside], 1), is_outside))
    choices = torch.stack(placed)  # (V, r, 5)
    areas = (choices[..., 3:] - choices[..., 1:3]).prod(dim=2)  # (V, r)
    middle_first = areas + 1e-3 * (torch.arange(len(areas)) == len(areas) // 2)[:, None]  # of equal ones the center
    return views, choices[middle_first.argmax(dim=0), torch.arange(len(boxes))]


def tracks_of(table: pd.DataFrame) -> list[int]:
    """The numbers of a table's tracks, ascending."""
    return sorted(set(table["track"].tolist()))


def choose_moments(times_sec: np.ndarray, stride_sec: float) -> list[float]:
    """The first of some times, and each next one that lies at least a stride after the last chosen one."""
    chosen: list[float] = []
    for time_sec in np.unique(times_sec).tolist():
        if not chosen or time_sec >= chosen[-1] + stride_sec - _ROUNDING_SEC:
            chosen.append(time_sec)
    return chosen


def find_persons(
    path: str, detector: PersonDetector, *, fps: float, min_score: float, cache: FileCache | None = None
) -> pd.DataFrame:
    """The persons in a video at regular moments, in the form that `ActionPredictor.predict` takes.

    Args:
        path: of the video.
        detector: finds them.
        fps: moments a second.
        min_score: less certain ones are left out.
        cache: keeps remote files on a local disk.
    """
    rows: list[tuple[Any, ...]] = []
    sampler = KeyFrameSampler(num_frames=1, sampling_rate=1, target_fps=30)
    with VideoReader(path, cache=cache) as reader:
        length_sec = sampler.compute_length_sec(reader.index)
        moments = np.arange(max(round(length_sec * fps), 1)) / fps
        for time_sec in tqdm(moments.tolist(), desc="finding persons", unit="frame", leave=False, disable=None):
            frames = reader.get_frames(sampler.get_frame_indices(reader.index, to_fraction(time_sec)).tolist())
            ((corners, scores),) = detector.find(frames, min_score=min_score)
            rows += [(time_sec, *box, score, -1) for box, score in zip(corners.tolist(), scores.tolist(), strict=True)]
    return pd.DataFrame(rows, columns=["time_sec", *CORNERS, "score", "person"])


def select_video(table: pd.DataFrame, video: str, source: str) -> pd.DataFrame:
    """The rows of a table of boxes that are of a video: by its path, its file name or that without ending.

    Raises:
        ValueError: the table names several videos, and none of them so.
    """
    names: Sequence[str] = table["video"].unique().tolist()
    if len(names) <= 1:
        return table
    file_name = video.rstrip("/").rsplit("/", 1)[-1]
    for name in (video, file_name, file_name.rsplit(".", 1)[0]):
        if name in names:
            return table[table["video"] == name]
    raise ValueError(f"{source} has boxes of {len(names)} videos, such as {names[0]}, and none of {video}")


def _build_sampler(cfg: CfgNode) -> KeyFrameSampler:
    data = cfg.DATA
    return KeyFrameSampler(num_frames=data.NUM_FRAMES, sampling_rate=data.SAMPLING_RATE, target_fps=data.TARGET_FPS)


def _build_transform(cfg: CfgNode, num_crops: int) -> EvalTransform:
    size = cfg.DATA.TEST_CROP_SIZE
    return EvalTransform(
        num_crops=num_crops,
        short_side_px=size,
        crop_size_px=size,
        interpolation=cfg.DATA.INTERPOLATION,
        like=cfg.DATA.TRANSFORMS,
    )
