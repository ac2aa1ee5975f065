"""Names the classes in a video, window by window and for the whole video.

    hiera-video predict video.mp4 --checkpoint output/checkpoints/checkpoint_best.pyth
    hiera-video predict video.mp4 --checkpoint hiera_base_16x224.pth --cfg Kinetics/HIERA_B_16x4.yaml \\
        --window-sec 4 --stride-sec 1 --json predictions.json --output-video labeled.mp4
    hiera-video predict /dev/video0 --checkpoint checkpoint_best.pyth --max-sec 60
    hiera-video predict rtsp://camera/stream --checkpoint checkpoint_best.pyth

    hiera-video predict video.mp4 --checkpoint ava.pyth --boxes --detector fasterrcnn_resnet50_fpn_v2_coco.pth \\
        --output-video labeled.mp4 --json actions.json --csv actions.csv
    hiera-video predict video.mp4 --checkpoint ava.pyth --boxes-csv boxes.csv

With --boxes it says what each person does, by a model of TASK detect_actions: a detector of torchvision finds persons,
or any csv file has boxes (video,time_sec,x1,y1,x2,y2 and, where known, person and score); they are linked to tracks.
    hiera-video predict a.jpg b.jpg --checkpoint detector.pyth --output-dir drawn --json things.json

With a detector (TASK detect) it names the things in pictures, and draws their boxes and masks.

Cameras, pipes, "-" (standard input) and streams (rtsp, rtmp, srt, udp, tcp, .m3u8) are read live: each window is a line
as soon as it is complete, until the stream ends, --max-sec is reached, or Ctrl-C. The labeled video has no sound.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors
from hiera_video.cli.predict_boxes import add_box_options, check_box_options, predict_boxes

if TYPE_CHECKING:
    from hiera_video.engine.predict import Predictor, VideoPrediction, WindowPrediction


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    usage = "VIDEO|URL|DEVICE|PICTURE ... --checkpoint FILE [options] [--cfg FILE ...] [KEY VALUE ...]"
    parser = make_parser("predict", __doc__, usage=usage)
    words = "a file, a URL, a camera (/dev/video0), a pipe, or - for standard input; or pictures"
    parser.add_argument("sources", nargs="+", metavar="VIDEO", help=words)
    parser.add_argument("--checkpoint", required=True, help="path or URL of the weights")
    parser.add_argument("--top-k", type=int, help="classes to name; default: 5, of boxes 3")
    parser.add_argument("--window-sec", type=float, help="default: as long as clips in training")
    parser.add_argument("--stride-sec", type=float, help="from one window's start to the next; default: a window")
    parser.add_argument(
        "--num-crops", type=int, choices=(1, 3), help="of each window; default: 1, of boxes 3: a box takes the best one"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="crops per forward pass; default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the predictions there; -: print them instead of tables")
    parser.add_argument("--output-video", metavar="FILE.mp4", help="write the video with its labels drawn on it")
    parser.add_argument("--font", default="", metavar="FILE", help="font for --output-video")
    parser.add_argument("--live", action="store_true", help="read a file or an http stream as a live source")
    parser.add_argument("--max-sec", type=float, help="where to stop reading a live source")
    add_box_options(parser)
    parser.add_argument("--output-dir", metavar="DIR", help="pictures: draw what was found into copies there")
    parser.add_argument("--min-score", type=float, default=0.5, help="pictures: leave less out; default: %(default)s")
    args = parse_with_config(parser, argv)
    args.sources, pairs = split_sources(args.sources)
    args.video, args.opts = args.sources[0], [*pairs, *args.opts]
    args.boxes = check_box_options(parser, args)
    args.top_k = args.top_k if args.top_k is not None else 3 if args.boxes else 5
    args.num_crops = args.num_crops or (3 if args.boxes else 1)
    from hiera_video.video.live import is_live

    args.live = args.live or is_live(args.video)
    if args.live and args.boxes:
        parser.error("--boxes needs a video that can be read twice, not a live source")
    if args.live and args.output_video:
        parser.error("--output-video needs a video that can be read twice, not a live source")
    if args.max_sec is not None and not args.live:
        parser.error("--max-sec is for live sources; --live reads a file as one")
    return args


def split_sources(words: list[str]) -> tuple[list[str], list[str]]:
    """Sources, and the KEY VALUE pairs that argparse has taken for more of them."""
    from hiera_video.config.defaults import KEYS

    starts = {key.split(".")[0] + "." * ("." in key) for key in KEYS}  # "DATA." also begins a mistyped key
    is_key = [bool(i) and word.startswith(tuple(starts)) for i, word in enumerate(words)]
    start = is_key.index(True) if True in is_key else len(words)
    return words[:start], words[start:]


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Predicts, prints and writes."""
    args = parse_args(argv)
    if args.boxes:
        predict_boxes(args)
        return 0
    from hiera_video.engine.predict import Predictor
    from hiera_video.engine.trained import load_trained
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    trained = load_trained(args.checkpoint, cfg_files=args.cfg_files, opts=args.opts)
    if trained.cfg.TASK == "detect":
        from hiera_video.cli.predict_pictures import predict_pictures

        return predict_pictures(trained, args)
    if len(args.sources) > 1 or args.output_dir:
        raise ValueError(f"{args.checkpoint} is no detector: give one video, without --output-dir")
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
        draw(result, args)
    return 0


def predict_live(predictor: Predictor, args: argparse.Namespace) -> VideoPrediction:
    """Prints a line for each window once it is complete; returns all windows after the end, or after Ctrl-C."""
    from hiera_video.engine.predict import Tally
    from hiera_video.utils.logging import get_logger
    from hiera_video.video.live import LiveVideo

    tally = Tally(predictor.trained, args.top_k)
    try:
        with LiveVideo(args.video) as video:
            for window in predictor.predict_live(video, tally, max_sec=args.max_sec):
                if args.json != "-":
                    print(format_window(window), flush=True)
    except KeyboardInterrupt:
        get_logger(__name__).info("stopped after %d windows", tally.num_windows)
    return tally.summarize(args.video)


def show(result: VideoPrediction, args: argparse.Namespace) -> None:
    """Prints what `predict_live` has not printed."""
    if args.json == "-":
        print(result.to_json())
        return
    if not args.live:
        for window in list_windows(result):
            print(format_window(window))
    print(format_whole(result))


def draw(result: VideoPrediction, args: argparse.Namespace) -> None:
    """Writes the video with its labels; warns where no font has their letters."""
    from hiera_video.report.labeled_video import LabeledWindow, write_labeled_video
    from hiera_video.report.overlay import find_undrawable
    from hiera_video.utils.logging import get_logger

    names = {name for classes in result.windows["classes"] for name in classes}
    undrawable = find_undrawable("".join(sorted(names)), font_path=args.font)
    if undrawable:
        message = "no font of this system has all letters of the labels (%s); --font names another"
        get_logger(__name__).warning(message, undrawable[:20])
    windows = [LabeledWindow(row.start_sec, row.end_sec, format_labels(row)) for row in list_windows(result)]
    write_labeled_video(result.video, windows, args.output_video, font_path=args.font)


def list_windows(result: VideoPrediction) -> list[WindowPrediction]:
    """The windows of a prediction, one object each."""
    from hiera_video.engine.predict import WindowPrediction

    return [WindowPrediction(*row) for row in result.windows.itertuples(index=False)]


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
    if result.present is not None:
        lines.append(f"  at their thresholds: {', '.join(result.present) or 'none'}")
    return "\n".join([f"{result.video}: mean of {count} window{'s' * (count != 1)}{skipped}", *lines])
