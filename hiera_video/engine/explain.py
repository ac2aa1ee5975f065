"""Which mask units of a video a decision rests on: what is left without them, and Grad-CAM beside it."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
import torch
from tqdm import tqdm

from hiera_video.engine.batch import to_model_input
from hiera_video.engine.multilabel import is_multilabel
from hiera_video.engine.occlusion import compute_grad_cam, compute_left, draw_deletions, fit_scores
from hiera_video.engine.predict import Predictor, VideoPrediction, build_planner
from hiera_video.engine.trained import Trained, load_trained
from hiera_video.models.hiera import Hiera
from hiera_video.streams.chunk import OpenVideos
from hiera_video.streams.clip_reader import build_clip_reader
from hiera_video.streams.windows import SpreadClips
from hiera_video.utils.files import open_whole


@dataclass(frozen=True, eq=False)
class WindowExplanation:
    """What the decision on a window [start_sec, end_sec) rests on.

    Attributes:
        start_sec: NaN where no time is known.
        end_sec: likewise.
        frames: uint8 (T, H, W, 3), what the model sees.
        evidence: for the class, with nothing left out: its log-odds among the classes, or its logit where a video may
            have several.
        scores: float32 (ut, uh, uw): how much evidence each mask unit adds, see `fit_scores`; below 0 where it speaks
            against the class.
        cam: float32 (T', H', W'), Grad-CAM of the last stage, 0 and above.
        explained: share of the evidence's variance, over masks, that the scores predict for masks they were not fitted
            to; NaN where it does not vary.
    """

    start_sec: float
    end_sec: float
    frames: np.ndarray
    evidence: float
    scores: np.ndarray
    cam: np.ndarray
    explained: float

    @property
    def probability(self) -> float:
        """Of the class, in this window."""
        return 1 / (1 + math.exp(-self.evidence))


@dataclass(frozen=True, eq=False)
class VideoExplanation:
    """The windows of a video and what the decision rests on in some of them.

    Attributes:
        prediction: the classes of all windows and of the whole, all classes of each.
        label: number of the class that is explained.
        class_name: its name.
        probability: of the class in the whole video.
        is_multilabel: whether a video may have several classes.
        windows: those that were explained.
        unit_size: frames, height and width (px) of a mask unit, as the model sees the video.
        num_masks: of each window; fewer than were asked for where its units have no more sets.
        seed: of the masks.
    """

    prediction: VideoPrediction
    label: int
    class_name: str
    probability: float
    is_multilabel: bool
    windows: Sequence[WindowExplanation]
    unit_size: tuple[int, int, int]
    num_masks: int
    seed: int

    def to_json(self) -> str:
        """What is said of the video and of each window, without the maps, as a JSON object; an unknown time is null."""
        content = {
            "video": self.prediction.video,
            "checkpoint": self.prediction.checkpoint,
            "weights_sha256": self.prediction.sha256,
            "class": self.class_name,
            "label": self.label,
            "probability": self.probability,
            "num_windows": len(self.prediction.windows),
            "num_masks": self.num_masks,
            "seed": self.seed,
            "mask_unit": dict(zip(("frames", "height_px", "width_px"), self.unit_size, strict=True)),
            "grid": self.windows[0].scores.shape,
            "windows": [
                {
                    "start_sec": window.start_sec,
                    "end_sec": window.end_sec,
                    "probability": window.probability,
                    "evidence": window.evidence,
                    "explained": window.explained,
                    "strongest_unit": np.unravel_index(window.scores.argmax(), window.scores.shape),
                    "strongest_score": window.scores.max(),
                }
                for window in self.windows
            ],
        }
        return simplejson.dumps(content, indent=1, ignore_nan=True, default=lambda number: number.item())

    def write_maps(self, path: Path) -> None:
        """Writes ``spans_sec`` (n, 2), ``scores`` (n, ut, uh, uw) and ``grad_cam`` (n, T', H', W') as an .npz file."""
        spans = np.array([(window.start_sec, window.end_sec) for window in self.windows])
        scores, cams = (np.stack([getattr(window, name) for window in self.windows]) for name in ("scores", "cam"))
        with open_whole(path) as file:
            np.savez(file, spans_sec=spans, scores=scores, grad_cam=cams)


@dataclass(frozen=True)
class ExplainSettings:
    """How much is computed.

    Attributes:
        max_windows: explain at most so many windows, spread evenly.
        num_masks: how often each window is classified with units left out.
        batch_size: of them at once.
        seed: of the masks.

    Raises:
        ValueError: a number below 1.
    """

    max_windows: int = 8
    num_masks: int = 208
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_windows", "num_masks", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def explain(
    path: str | os.PathLike[str],
    *,
    checkpoint: str | Trained,
    class_name: str = "",
    window_sec: float | None = None,
    stride_sec: float | None = None,
    settings: ExplainSettings | None = None,
    cfg_files: Sequence[str] = (),
    opts: Sequence[Any] = (),
) -> VideoExplanation:
    """Finds out which mask units of a video a decision rests on.

    The video is classified as by `hiera_video.predict`, at one crop. Then windows are classified again and again with
    some of their mask units left out, as in pre-training: exactly, and for less than the cost of a whole clip.

    Args:
        path: file or URL.
        checkpoint: path or URL, or what `load_trained` made of it.
        class_name: the class to explain, or its number; "" for the likeliest of the whole video.
        window_sec: length of a window; None: as long as clips in training.
        stride_sec: from one window's start to the next; None: the length of a window.
        settings: how much is computed.
        cfg_files: yaml files on top of the checkpoint's config; a released file needs one, or `opts`.
        opts: keys and values on top of them, alternating.

    Raises:
        FileNotFoundError: no such video or checkpoint.
        VideoDecodeError: the video cannot be decoded.
        ValueError: an argument out of range, no such class, or a model from which no mask units can be left out.
    """
    settings = settings or ExplainSettings()
    if not isinstance(checkpoint, Trained):
        checkpoint = load_trained(checkpoint, cfg_files=cfg_files, opts=[str(word) for word in opts])
    cfg, model = checkpoint.cfg, checkpoint.model
    predictor = Predictor(checkpoint, top_k=cfg.MODEL.NUM_CLASSES, window_sec=window_sec, stride_sec=stride_sec)
    wanted = find_class(checkpoint, class_name) if class_name else None
    deleted = draw_deletions(_in_time(model.mask_units_grid), num_masks=settings.num_masks, seed=settings.seed)
    prediction = predictor.predict(os.fspath(path))
    label = find_class(checkpoint, prediction.classes[0]) if wanted is None else wanted
    planner = build_planner(cfg, window_sec=window_sec, stride_sec=stride_sec)
    reader = build_clip_reader(cfg, SpreadClips(planner, settings.max_windows), num_crops=1, views_per_chunk=1)
    videos: OpenVideos[list[WindowExplanation]] = OpenVideos(lambda _: [])
    windows: list[WindowExplanation] = []
    with tqdm(desc="explaining", unit="window", leave=False, disable=None) as bar:
        for windows, chunk in videos.follow(reader.read(os.fspath(path))):
            start_sec, end_sec = chunk.spans_sec[0].tolist()
            found = _explain_clip(checkpoint, chunk.views, deleted, label, settings.batch_size)
            windows.append(WindowExplanation(start_sec, end_sec, **found))
            bar.total, bar.n = chunk.num_clips, len(windows)
            bar.refresh()
    return VideoExplanation(
        prediction=prediction,
        label=label,
        class_name=checkpoint.get_class_name(label),
        probability=prediction.probabilities[prediction.classes.index(checkpoint.get_class_name(label))],
        is_multilabel=is_multilabel(cfg),
        windows=windows,
        unit_size=_in_time([s * m for s, m in zip(model.patch_stride, model.mask_unit_size, strict=True)]),
        num_masks=len(deleted),
        seed=settings.seed,
    )


def find_class(trained: Trained, name: str) -> int:
    """The number of a class by its name, or by its number.

    Raises:
        ValueError: no such class; names the nearest ones.
    """
    names = [trained.get_class_name(label) for label in range(trained.cfg.MODEL.NUM_CLASSES)]
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    raise ValueError(
        f"there is no class {name!r} among the {len(names)} of {trained.checkpoint}; near: {', '.join(near)}, or a "
        f"number from 0 to {len(names) - 1}"
    )


def _explain_clip(
    trained: Trained, views: torch.Tensor, deleted: np.ndarray, label: int, batch_size: int
) -> dict[str, Any]:
    """What `WindowExplanation` has besides the times, of a view uint8 (1, C, T, H, W)."""
    model, cfg = trained.model, trained.cfg
    if not isinstance(model, Hiera):
        raise ValueError(f"{trained.checkpoint} has no classifier")
    device = next(model.parameters()).device
    clip = to_model_input(views[None], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)[0]  # (C, T, H, W)
    clip = model.drop_time(clip[None])[0]
    evidence, left = compute_left(model, clip, deleted, label, is_multilabel=is_multilabel(cfg), batch_size=batch_size)
    scores, explained = fit_scores(deleted, left)
    return {
        "frames": views[0].permute(1, 2, 3, 0).contiguous().numpy(),  # (T, H, W, C)
        "evidence": evidence,
        "scores": scores.reshape(_in_time(model.mask_units_grid)).astype(np.float32),
        "cam": compute_grad_cam(model, clip, label),
        "explained": explained,
    }


def _in_time(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Sizes of time, height and width; a picture lasts 1."""
    height, width = sizes[-2:]
    return (sizes[0] if len(sizes) == 3 else 1), height, width
