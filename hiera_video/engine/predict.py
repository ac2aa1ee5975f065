"""What happens when in a video: the classes of sliding windows, and of the whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import simplejson
import torch
from fvcore.common.config import CfgNode
from tqdm import tqdm

from hiera_video.data.clip_sampling import build_clip_sampler
from hiera_video.engine.multilabel import DEFAULT_THRESHOLD, is_multilabel
from hiera_video.engine.trained import Trained, load_trained
from hiera_video.engine.views import compute_on_views, compute_probs
from hiera_video.models.hiera import Hiera
from hiera_video.streams.chunk import OpenVideos
from hiera_video.streams.clip_reader import build_clip_reader, make_views
from hiera_video.streams.live_windows import LiveClip, LiveWindows
from hiera_video.streams.windows import ClipPlanner, SlidingWindows, UniformClips, build_windows
from hiera_video.utils.logging import get_logger
from hiera_video.video.live import LiveVideo

_MIN_LATE_SEC = 1.0  # no window is left out before the model is so far behind a live source
logger = get_logger(__name__)


@dataclass(frozen=True)
class WindowPrediction:
    """The likeliest classes of a window [start_sec, end_sec), likeliest first; times are NaN where they are unknown."""

    start_sec: float
    end_sec: float
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class VideoPrediction:
    """The likeliest classes over time, and of the whole.

    Attributes:
        video: path or URL.
        checkpoint: path or URL of the weights.
        sha256: of that file.
        classes: of the whole, likeliest first.
        probabilities: of these classes, mean over windows (the largest, where TEST.ENSEMBLE_METHOD is max).
        windows: columns start_sec, end_sec, classes, probabilities (in each row the likeliest first).
        num_skipped: windows of a live source for which there was no time.
        present: where a video may have several classes, those of the whole that reach their thresholds; else None.
    """

    video: str
    checkpoint: str
    sha256: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    windows: pd.DataFrame
    num_skipped: int = 0
    present: tuple[str, ...] | None = None

    def to_json(self) -> str:
        """All of it as a JSON object; an unknown time is null."""
        content = {
            "video": self.video,
            "checkpoint": self.checkpoint,
            "weights_sha256": self.sha256,
            "num_windows": len(self.windows),
            "num_skipped": self.num_skipped,
            "classes": self.classes,
            "probabilities": self.probabilities,
            **({} if self.present is None else {"present": self.present}),
            "windows": self.windows.to_dict(orient="records"),
        }
        return simplejson.dumps(content, indent=1, ignore_nan=True)


class Predictor:
    """A trained model, and the windows and crops of a video that it looks at.

    Args:
        trained: the model.
        top_k: classes to name; all where there are fewer.
        window_sec: length of a window; None: as long as clips in training. (A model that was trained on segments of
            whole videos then gets one clip of the whole video.)
        stride_sec: from one window's start to the next; None: the length of a window.
        num_crops: 1 (center) or 3; probabilities are averaged.
        batch_size: crops per forward pass.

    Raises:
        ValueError: an argument out of range, or a model without classifier.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        top_k: int = 5,
        window_sec: float | None = None,
        stride_sec: float | None = None,
        num_crops: int = 1,
        batch_size: int = 8,
    ) -> None:
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if trained.cfg.TASK == "detect_actions":
            raise ValueError(f"{trained.checkpoint} names no classes of windows: its head scores boxes; use --boxes")
        if not isinstance(trained.model, Hiera):
            raise ValueError(
                f"{trained.checkpoint} has no classifier: it is of {trained.cfg.MODEL.MODEL_NAME}, from pre-training"
            )
        self.trained, self.top_k = trained, top_k
        planner = build_planner(trained.cfg, window_sec=window_sec, stride_sec=stride_sec)
        self._reader = build_clip_reader(trained.cfg, planner, num_crops=num_crops, views_per_chunk=batch_size)

    def predict(self, path: str) -> VideoPrediction:
        """Classifies all windows of a video, of any length: only the frames of unfinished windows are kept.

        Raises:
            FileNotFoundError: no such file.
            VideoDecodeError: it cannot be decoded.
            ValueError: the frame rate of these pictures is unknown.
        """
        tallies = OpenVideos(lambda _: Tally(self.trained, self.top_k))
        with tqdm(desc="predicting", unit="window", leave=False, disable=None) as bar:
            for tally, chunk in tallies.follow(self._reader.read(path)):
                probs = self._classify(chunk.views)
                for (start_sec, end_sec), row in zip(chunk.spans_sec.tolist(), probs, strict=True):
                    tally.add(start_sec, end_sec, row)
                bar.total, bar.n = chunk.num_clips, tally.num_windows
                bar.refresh()
        return tally.summarize(path)

    def predict_live(
        self, video: LiveVideo, tally: Tally, *, max_sec: float | None = None, skips_late: bool | None = None
    ) -> Iterator[WindowPrediction]:
        """Classifies the windows of a source, each as soon as it is complete.

        Args:
            video: the source; it is not closed.
            tally: gets each window.
            max_sec: where to stop; None: at the end of the source.
            skips_late: leave windows out where the model is slower than the source; None: if it `is_realtime`.

        Raises:
            ValueError: the model was trained on segments of whole videos, and no length of a window is named.
        """
        windows, late_sec = self._build_live_windows(video)
        skips_late = video.is_realtime if skips_late is None else skips_late
        began: float | None = None
        for time_sec, frame in video:
            began = time.monotonic() if began is None else began
            if max_sec is not None and time_sec >= max_sec:
                break
            for clip in windows.push(time_sec, frame):
                if skips_late and time.monotonic() - began - time_sec > late_sec:
                    tally.skip()
                else:
                    yield tally.add(*clip.span_sec, self._classify_live(clip))
        for clip in windows.finish():
            yield tally.add(*clip.span_sec, self._classify_live(clip))

    def _build_live_windows(self, video: LiveVideo) -> tuple[LiveWindows, float]:
        """The windows, and how many seconds the model may be behind before some are left out."""
        planner, transform = self._reader.planner, self._reader.transform
        if not isinstance(planner, SlidingWindows):
            raise ValueError("a live source has no whole that could be cut into segments: window_sec is needed")
        windows = LiveWindows(
            planner.num_frames,
            window_sec=planner.window,
            stride_sec=planner.stride,
            fps=video.fps,
            time_base=video.time_base,
            is_segment=planner.is_segment,
            prepare=lambda frame: transform.prepare(frame[None])[0],
        )
        return windows, max(float(planner.stride), _MIN_LATE_SEC)

    def _classify_live(self, clip: LiveClip) -> torch.Tensor:
        return self._classify(make_views(self._reader.transform, clip.frames))[0]

    def _classify(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 (n * crops, C, T, H, W) -> probabilities, float32 (n, K), mean over crops."""
        model, cfg = self.trained.model, self.trained.cfg
        device = next(model.parameters()).device
        # The lower precisions of training are for GPUs; most CPUs are slower with them.
        precision = cfg.TRAIN.PRECISION if device.type == "cuda" else "fp32"
        logits = compute_on_views(cfg, model, views, device=device, precision=precision)  # (n * crops, K)
        probs = compute_probs(logits, is_multilabel=is_multilabel(cfg))
        return probs.unflatten(0, (-1, self._reader.transform.num_crops)).mean(dim=1).cpu()  # (n, crops, K) -> (n, K)


class Tally:
    """The windows so far, each with its likeliest classes only, and the sum (or largest) of all probabilities.

    Args:
        trained: gives the class names; a class without a name gets its number.
        top_k: how many classes of each window to keep.
    """

    def __init__(self, trained: Trained, top_k: int) -> None:
        self._trained, self._top_k = trained, top_k
        self._is_max = trained.cfg.TEST.ENSEMBLE_METHOD == "max"
        self._whole: torch.Tensor | None = None  # float64 (K,): the sum, or the largest
        self._windows: list[WindowPrediction] = []
        self.num_skipped = 0

    def add(self, start_sec: float, end_sec: float, probs: torch.Tensor) -> WindowPrediction:
        """Takes the probabilities (K,) of the next window."""
        row = probs.double()
        if self._whole is not None:
            row = torch.maximum(self._whole, row) if self._is_max else self._whole + row
        self._whole = row
        self._windows.append(WindowPrediction(start_sec, end_sec, *self._find_top(probs)))
        return self._windows[-1]

    @property
    def num_windows(self) -> int:
        """How many windows it has taken."""
        return len(self._windows)

    def skip(self) -> None:
        """Counts a window that nobody classifies."""
        if not self.num_skipped:
            logger.warning("the model is slower than the source: some windows are left out, to keep up with it")
        self.num_skipped += 1

    def summarize(self, video: str) -> VideoPrediction:
        """All windows, and the classes of the whole; no classes if there was no window."""
        whole = self._whole if self._whole is None or self._is_max else self._whole / len(self._windows)
        top = ((), ()) if whole is None else self._find_top(whole)
        columns = list(WindowPrediction.__dataclass_fields__)
        return VideoPrediction(
            video,
            self._trained.checkpoint,
            self._trained.sha256,
            *top,
            windows=pd.DataFrame(
                [[getattr(window, name) for name in columns] for window in self._windows], columns=columns
            ),
            num_skipped=self.num_skipped,
            present=self._find_present(whole),
        )

    def _find_present(self, whole: torch.Tensor | None) -> tuple[str, ...] | None:
        if whole is None or not is_multilabel(self._trained.cfg):
            return None
        thresholds = torch.tensor(self._trained.thresholds or [DEFAULT_THRESHOLD] * len(whole), dtype=whole.dtype)
        return tuple(map(self._trained.get_class_name, (whole >= thresholds).nonzero()[:, 0].tolist()))

    def _find_top(self, probs: torch.Tensor) -> tuple[tuple[str, ...], tuple[float, ...]]:
        top = probs.topk(min(self._top_k, len(probs)))
        return tuple(map(self._trained.get_class_name, top.indices.tolist())), tuple(top.values.tolist())


def predict(
    path: str | os.PathLike[str],
    *,
    checkpoint: str | Trained,
    top_k: int = 5,
    window_sec: float | None = None,
    stride_sec: float | None = None,
    num_crops: Literal[1, 3] = 1,
    batch_size: int = 8,
    cfg_files: Sequence[str] = (),
    opts: Sequence[Any] = (),
) -> VideoPrediction:
    """Classifies a video of any length in sliding windows.

    Args:
        path: file or URL.
        checkpoint: path or URL, or what `load_trained` made of it, which saves loading it for each video.
        top_k: classes to name; all where there are fewer.
        window_sec: length of a window; None: as long as clips in training.
        stride_sec: from one window's start to the next; None: the length of a window.
        num_crops: 1 at the center of each window, or 3 along its longer side; probabilities are averaged.
        batch_size: crops per forward pass.
        cfg_files: yaml files on top of the checkpoint's config; a released file needs one, or `opts`.
        opts: keys and values on top of them, alternating.

    Raises:
        FileNotFoundError: no such video or checkpoint.
        VideoDecodeError: the video cannot be decoded.
        ValueError: an argument out of range, or no checkpoint with a classifier.
    """
    if not isinstance(checkpoint, Trained):
        checkpoint = load_trained(checkpoint, cfg_files=cfg_files, opts=[str(word) for word in opts])
    predictor = Predictor(
        checkpoint,
        top_k=top_k,
        window_sec=window_sec,
        stride_sec=stride_sec,
        num_crops=num_crops,
        batch_size=batch_size,
    )
    return predictor.predict(os.fspath(path))


def build_planner(cfg: CfgNode, *, window_sec: float | None, stride_sec: float | None) -> ClipPlanner:
    """The windows of predictions: sliding ones, or one clip of the whole where the model was trained on segments and no
    window is named.

    Raises:
        ValueError: a length out of range.
    """
    if cfg.DATA.SAMPLING == "segment" and window_sec is None:
        return UniformClips(build_clip_sampler(cfg, num_clips=1, is_training=False))
    return build_windows(cfg, window=window_sec, stride=stride_sec)
