"""Names what happens in a video, window by window, and in the whole.

    python tools/predict_video.py video.mp4 --checkpoint output/checkpoints/checkpoint_best.pyth
    python tools/predict_video.py video.mp4 --checkpoint hiera_base_16x224.pth \\
        --cfg configs/Kinetics/HIERA_B_16x4.yaml --window-sec 4 --stride-sec 1 \\
        --json predictions.json --output-video labelled.mp4
    python tools/predict_video.py /dev/video0 --checkpoint checkpoint_best.pyth --max-sec 60
    python tools/predict_video.py rtsp://camera/stream --checkpoint checkpoint_best.pyth

Cameras, pipes, "-" (standard input) and streams (rtsp, rtmp, srt, udp, tcp, .m3u8) are read live: a line for each
window as soon as it is complete, until the stream ends, --max-sec, or Ctrl-C. The labelled video has no sound.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from hiera_video.config import parse_args as parse_config_args
from hiera_video.engine.predict import Predictor, Tally, VideoPrediction, WindowPrediction
from hiera_video.engine.trained import load_trained
from hiera_video.report.overlay import LabelPainter, find_undrawable
from hiera_video.utils.logging import get_logger, setup_logging
from hiera_video.video import FramesChangedError, VideoDecodeError, VideoReader
from hiera_video.video.live import LiveVideo, is_live

TICKS_PER_SEC = 90_000  # of the written time stamps: whole numbers for all usual frame rates
ROUNDING_SEC = 1e-6
_MAX_ATTEMPTS = 3  # at a video whose damage shows only in decoding
logger = get_logger("hiera_video.predict_video")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of this tool; all other words are KEY VALUE pairs, as for run_net.py."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s VIDEO|URL|DEVICE --checkpoint FILE [options] [--cfg FILE ...] [KEY VALUE ...]",
        allow_abbrev=False,
    )
    parser.add_argument("video", help="a file, a URL, a camera (/dev/video0), a pipe, or - for standard input")
    parser.add_argument("--checkpoint", required=True, help="path or URL of the weights")
    parser.add_argument("--cfg", nargs="+", default=[], metavar="FILE", help="on top of the checkpoint's config")
    parser.add_argument("--top-k", type=int, default=5, help="classes to name; default: %(default)s")
    parser.add_argument("--window-sec", type=float, help="default: as long as clips in training")
    parser.add_argument("--stride-sec", type=float, help="from one window's start to the next; default: a window")
    parser.add_argument("--num-crops", type=int, choices=(1, 3), default=1, help="of each window; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="crops per forward pass; default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the predictions there; -: print them instead of tables")
    parser.add_argument("--output-video", metavar="FILE.mp4", help="write the video with its labels drawn on it")
    parser.add_argument("--font", default="", metavar="FILE", help="font for --output-video")
    parser.add_argument("--live", action="store_true", help="read a file or an http stream as a live source")
    parser.add_argument("--max-sec", type=float, help="where to stop reading a live source")
    args, rest = parser.parse_known_args(argv)
    config_args = parse_config_args([*(["--cfg", *args.cfg] if args.cfg else []), *rest], description=__doc__)
    args.cfg_files, args.opts = config_args.cfg_files, config_args.opts
    args.live = args.live or is_live(args.video)
    if args.live and args.output_video:
        parser.error("--output-video needs a video that can be read twice, not a live source")
    if args.max_sec is not None and not args.live:
        parser.error("--max-sec is for live sources; add --live to read a file so")
    return args


def predict_live(predictor: Predictor, args: argparse.Namespace) -> VideoPrediction:
    """Prints a line for each window as it gets complete; gives all of them after the end, or after Ctrl-C."""
    tally = Tally(predictor.trained, args.top_k)
    try:
        with LiveVideo(args.video) as video:
            for window in predictor.predict_live(video, tally, max_sec=args.max_sec):
                if args.json != "-":
                    print(format_window(window), flush=True)
    except KeyboardInterrupt:
        logger.info("stopped after %d windows", tally.num_windows)
    return tally.summarize(args.video)


def format_window(window: WindowPrediction) -> str:
    """One line: when, and what."""
    known = not math.isnan(window.start_sec)
    span = f"{window.start_sec:8.2f} - {window.end_sec:8.2f} s" if known else " " * 21
    return f"{span}  {', '.join(format_labels(window))}"


def format_labels(prediction: WindowPrediction | VideoPrediction) -> list[str]:
    """Probabilities and classes; the class comes last, so that a long one does not push the number out of a picture."""
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return [f"{probability:.1%} {name}" for name, probability in pairs]


def format_whole(result: VideoPrediction) -> str:
    """The classes of the whole video, one a line."""
    count = len(result.windows)
    skipped = f", {result.num_skipped} left out" if result.num_skipped else ""
    lines = [f"  {label}" for label in format_labels(result)]
    return "\n".join([f"{result.video}: mean of {count} window{'s' * (count != 1)}{skipped}", *lines])


class CurrentWindow:
    """Which window's labels stand on a frame: of those that it is in, the one whose middle is nearest."""

    def __init__(self, windows: Sequence[WindowPrediction]) -> None:
        self._windows = windows
        self._middles = np.array([(window.start_sec + window.end_sec) / 2 for window in windows])

    def find(self, time_sec: float, *, frame_sec: float) -> WindowPrediction | None:
        """The window at a moment; a last frame that begins at most frame_sec after a window counts as in it."""
        after = int(np.searchsorted(self._middles, time_sec))
        near = [self._windows[i] for i in (after - 1, after) if 0 <= i < len(self._windows)]
        near = [window for window in near if window.start_sec <= time_sec + ROUNDING_SEC < window.end_sec + frame_sec]
        return min(near, key=lambda window: self._rate(window, time_sec), default=None)

    def _rate(self, window: WindowPrediction, time_sec: float) -> tuple[bool, float]:
        is_over = time_sec + ROUNDING_SEC >= window.end_sec
        return is_over, abs(window.start_sec + window.end_sec - 2 * time_sec)


def write_labelled_video(result: VideoPrediction, path: str | os.PathLike[str], *, font_path: str = "") -> None:
    """Writes the video as H.264 without sound, at its own times, with the current labels on each frame.

    Frames are decoded, drawn on and written one by one. An odd last row or column is left out: H.264 has even sizes.

    Raises:
        ValueError: the target is the video itself, or nothing tells when its frames are shown.
    """
    target = Path(path)
    if target.exists() and os.path.exists(result.video) and target.samefile(result.video):
        raise ValueError(f"--output-video {target} is the video itself")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with VideoReader(result.video) as reader:
            for attempt in range(_MAX_ATTEMPTS):
                try:
                    _write_frames(reader, result, partial, font_path)
                    break
                except FramesChangedError:
                    if attempt == _MAX_ATTEMPTS - 1:
                        raise VideoDecodeError(f"{result.video}: its frames change each time it is decoded") from None
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _write_frames(reader: VideoReader, result: VideoPrediction, path: Path, font_path: str) -> None:
    times_sec = reader.times_sec
    current = CurrentWindow([WindowPrediction(*row) for row in result.windows.itertuples(index=False)])
    height, width = reader.height // 2 * 2, reader.width // 2 * 2
    painter = LabelPainter(width, height, font_path=font_path)
    with av.open(str(path), "w", format="mp4") as container:
        rate = Fraction(reader.fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS_PER_SEC)
        frames = reader.iterate_frames(range(len(reader)))
        for position, frame in tqdm(frames, desc="drawing", total=len(reader), leave=False, disable=None):
            picture = np.ascontiguousarray(frame.numpy()[:height, :width])
            window = current.find(times_sec[position], frame_sec=1 / reader.fps)
            painter.paint(picture, format_labels(window) if window else [])
            video_frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            video_frame.time_base, video_frame.pts = (
                Fraction(1, TICKS_PER_SEC),
                round(times_sec[position] * TICKS_PER_SEC),
            )
            container.mux(stream.encode(video_frame))
        container.mux(stream.encode())


def main(argv: Sequence[str] | None = None) -> None:
    """Predicts, prints and writes."""
    args = parse_args(argv)
    setup_logging(None)
    try:
        trained = load_trained(args.checkpoint, cfg_files=args.cfg_files, opts=args.opts)
        predictor = Predictor(
            trained,
            top_k=args.top_k,
            window_sec=args.window_sec,
            stride_sec=args.stride_sec,
            num_crops=args.num_crops,
            batch_size=args.batch_size,
        )
        result = predict_live(predictor, args) if args.live else predictor.predict(args.video)
        if args.json and args.json != "-":
            Path(args.json).parent.mkdir(parents=True, exist_ok=True)
            Path(args.json).write_text(result.to_json() + "\n")
        show(result, args)
        if args.output_video:
            names = {name for classes in result.windows["classes"] for name in classes}
            undrawable = find_undrawable("".join(sorted(names)), font_path=args.font)
            if undrawable:
                logger.warning("no font here has all letters of the labels (%s); --font names one", undrawable[:20])
            write_labelled_video(result, args.output_video, font_path=args.font)
    except (ValueError, FileNotFoundError, VideoDecodeError) as error:
        sys.exit(f"error: {error}")


def show(result: VideoPrediction, args: argparse.Namespace) -> None:
    """Prints what is not printed yet."""
    if args.json == "-":
        print(result.to_json())
        return
    if not args.live:
        for row in result.windows.itertuples(index=False):
            print(format_window(WindowPrediction(*row)))
    print(format_whole(result))
