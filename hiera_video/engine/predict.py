"""What happens when in a video: the classes of sliding windows, and of the whole."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import pandas as pd
import simplejson
import torch
from fvcore.common.config import CfgNode
from tqdm import tqdm

from hiera_video.data.clip_sampling import build_clip_sampler
from hiera_video.data.transforms import build_eval_transform
from hiera_video.engine.batch import autocast, to_model_input
from hiera_video.engine.trained import Trained, load_trained
from hiera_video.models.hiera import Hiera
from hiera_video.streams.clip_stream import stream_clips
from hiera_video.streams.live_windows import LiveClip, LiveWindows
from hiera_video.streams.windows import ClipPlanner, SlidingWindows, UniformClips
from hiera_video.utils.logging import get_logger
from hiera_video.video.live import LiveVideo
from hiera_video.video.manifest import open_video

_MIN_LATE_SEC = 1.0  # a live source that is less behind is not worth leaving anything out
logger = get_logger(__name__)


@dataclass(frozen=True)
class WindowPrediction:
    """The likeliest classes of a window [start_sec, end_sec), likeliest first; the times may be unknown, NaN."""

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
        probabilities: of these, mean over windows.
        windows: columns start_sec, end_sec, classes, probabilities (of each row, likeliest first).
        num_skipped: windows of a live source that there was no time for.
    """

    video: str
    checkpoint: str
    sha256: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    windows: pd.DataFrame
    num_skipped: int = 0

    def to_json(self) -> str:
        """All of it as a JSON object; a time that is not known is null."""
        content = {
            "video": self.video,
            "checkpoint": self.checkpoint,
            "weights_sha256": self.sha256,
            "num_windows": len(self.windows),
            "num_skipped": self.num_skipped,
            "classes": self.classes,
            "probabilities": self.probabilities,
            "windows": self.windows.to_dict(orient="records"),
        }
        return simplejson.dumps(content, indent=1, ignore_nan=True)


class Predictor:
    """A trained model, and how it looks at videos.

    Args:
        trained: the model.
        top_k: classes to name; all where there are fewer.
        window_sec: length of a window; None: as of clips in training. (A model that was trained on segments of whole
            videos then gets one clip of the whole video.)
        stride_sec: from one window's start to the next; None: the length of a window.
        num_crops: 1 (centre) or 3; probabilities are averaged.
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
        if not isinstance(trained.model, Hiera):
            raise ValueError(
                f"{trained.checkpoint} has no classifier: it is of {trained.cfg.MODEL.MODEL_NAME}, from pre-training"
            )
        self.trained, self.top_k = trained, top_k
        self._clips_per_chunk = max(batch_size // num_crops, 1) if num_crops > 0 else 1
        cfg = trained.cfg
        self._transform = build_eval_transform(cfg, num_crops=num_crops, crop_size_px=cfg.DATA.TEST_CROP_SIZE)
        self._planner = _build_planner(cfg, window_sec=window_sec, stride_sec=stride_sec)

    def predict(self, path: str) -> VideoPrediction:
        """Classifies all windows of a video, of any length: only the frames of unfinished windows are kept.

        Raises:
            FileNotFoundError: no such file.
            VideoDecodeError: it cannot be decoded.
            ValueError: nothing tells the frame rate of these pictures.
        """
        data = self.trained.cfg.DATA
        chunks = stream_clips(
            path,
            planner=self._planner,
            transform=self._transform,
            clips_per_chunk=self._clips_per_chunk,
            open_reader=partial(open_video, backend=data.DECODING_BACKEND, max_short_side_px=data.MAX_SHORT_SIDE),
        )
        tally, attempt = Tally(self.trained, self.top_k), 0
        with tqdm(desc="predicting", unit="window", leave=False, disable=None) as bar:
            for chunk in chunks:
                if chunk["attempt"] != attempt:  # damage showed up, and the video was started over
                    tally, attempt = Tally(self.trained, self.top_k), chunk["attempt"]
                probs = self._classify(chunk["views"])
                for (start_sec, end_sec), row in zip(chunk["spans_sec"].tolist(), probs, strict=True):
                    tally.add(start_sec, end_sec, row)
                bar.total, bar.n = chunk["number_of_clips"], tally.num_windows
                bar.refresh()
        return tally.summarize(path)

    def predict_live(
        self, video: LiveVideo, tally: Tally, *, max_sec: float | None = None, skips_late: bool | None = None
    ) -> Iterator[WindowPrediction]:
        """Classifies the windows of a source as they get complete.

        Args:
            video: is read, not closed.
            tally: gets each window.
            max_sec: where to stop; None: at its end.
            skips_late: leave windows out where the model is slower than the source; None: if it is `is_realtime`.

        Raises:
            ValueError: the length of a window is needed.
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
        if not isinstance(self._planner, SlidingWindows):
            raise ValueError("a live source has no whole that could be cut into segments: window_sec is needed")
        plan, data = self._planner, self.trained.cfg.DATA
        windows = LiveWindows(
            data.NUM_FRAMES,
            window_sec=plan.window,
            stride_sec=plan.stride,
            fps=video.fps,
            time_base=video.time_base,
            is_segment=plan.is_segment,
            prepare=lambda frame: self._transform.prepare(frame[None])[0],
        )
        return windows, max(float(plan.stride), _MIN_LATE_SEC)

    def _classify_live(self, clip: LiveClip) -> torch.Tensor:
        size = self._transform.size_px
        views = torch.empty((self._transform.num_crops, 3, len(clip.frames), size, size), dtype=torch.uint8)
        self._transform.write_views(clip.frames, views)
        return self._classify(views)[0]

    @torch.inference_mode()
    def _classify(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 (n * crops, C, T, H, W) -> probabilities, float32 (n, K), mean over crops."""
        model, cfg = self.trained.model, self.trained.cfg
        device = next(model.parameters()).device
        views = views.unflatten(0, (-1, self._transform.num_crops))  # (n, crops, C, T, H, W)
        video = to_model_input(views, device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (n * crops, C, T, H, W)
        # The lower precisions of training are for GPUs; most CPUs are slower with them.
        with autocast(device, cfg.TRAIN.PRECISION if device.type == "cuda" else "fp32"):
            logits = model(video)  # (n * crops, K)
        return logits.float().softmax(dim=1).unflatten(0, views.shape[:2]).mean(dim=1).cpu()  # (n, K)


class Tally:
    """Windows so far, each with its likeliest classes alone, and the sum of all probabilities.

    Args:
        trained: whose class names are used; a class without one gets its number.
        top_k: classes to keep of each window.
    """

    def __init__(self, trained: Trained, top_k: int) -> None:
        self._trained, self._top_k = trained, top_k
        self._sum: torch.Tensor | None = None  # float64 (K,)
        self._windows: list[WindowPrediction] = []
        self.num_skipped = 0

    def add(self, start_sec: float, end_sec: float, probs: torch.Tensor) -> WindowPrediction:
        """Takes the probabilities (K,) of the next window."""
        self._sum = probs.double() if self._sum is None else self._sum + probs
        self._windows.append(WindowPrediction(start_sec, end_sec, *self._find_top(probs)))
        return self._windows[-1]

    @property
    def num_windows(self) -> int:
        """Those that were added."""
        return len(self._windows)

    def skip(self) -> None:
        """Counts a window that is left out."""
        if not self.num_skipped:
            logger.warning("the model is slower than the source: some windows are left out, to keep up with it")
        self.num_skipped += 1

    def summarize(self, video: str) -> VideoPrediction:
        """All windows, and the classes of the whole; none of these if there was no window."""
        top = ((), ()) if self._sum is None else self._find_top(self._sum / len(self._windows))
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
        )

    def _find_top(self, probs: torch.Tensor) -> tuple[tuple[str, ...], tuple[float, ...]]:
        top = probs.topk(min(self._top_k, len(probs)))
        names = self._trained.class_names
        classes = (names[k] if k < len(names) else str(k) for k in top.indices.tolist())
        return tuple(classes), tuple(top.values.tolist())


def predict(
    path: str,
    *,
    checkpoint: str | Trained,
    top_k: int = 5,
    window_sec: float | None = None,
    stride_sec: float | None = None,
    num_crops: int = 1,
    batch_size: int = 8,
    cfg_files: Sequence[str] = (),
    opts: Sequence[str] = (),
) -> VideoPrediction:
    """Classifies a video of any length in sliding windows.

    Args:
        path: file or URL.
        checkpoint: path or URL, or what `load_trained` made of it, which saves loading it for each video.
        top_k: see `Predictor`, also for the next four.
        window_sec: length of a window.
        stride_sec: from one window's start to the next.
        num_crops: of each window.
        batch_size: crops per forward pass.
        cfg_files: yaml files on top of the checkpoint's config; a released file needs one, or `opts`.
        opts: keys and values on top of them.

    Raises:
        FileNotFoundError: no such video or checkpoint.
        VideoDecodeError: the video cannot be decoded.
        ValueError: an argument out of range, or no checkpoint with a classifier.
    """
    if not isinstance(checkpoint, Trained):
        checkpoint = load_trained(checkpoint, cfg_files=cfg_files, opts=opts)
    predictor = Predictor(
        checkpoint,
        top_k=top_k,
        window_sec=window_sec,
        stride_sec=stride_sec,
        num_crops=num_crops,
        batch_size=batch_size,
    )
    return predictor.predict(path)


def _build_planner(cfg: CfgNode, *, window_sec: float | None, stride_sec: float | None) -> ClipPlanner:
    """Windows as long as the clips that the model was trained on, unless told otherwise."""
    data = cfg.DATA
    is_segment = data.SAMPLING == "segment"
    if is_segment and window_sec is None:
        return UniformClips(build_clip_sampler(cfg, num_clips=1, is_training=False))
    window = Fraction(data.NUM_FRAMES * data.SAMPLING_RATE) / data.TARGET_FPS if window_sec is None else window_sec
    return SlidingWindows(
        data.NUM_FRAMES, window=window, stride=window if stride_sec is None else stride_sec, is_segment=is_segment
    )
