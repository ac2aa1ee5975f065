"""The part of `hiera-video predict` that says what is done in boxes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from hiera_video.engine.predict_actions import ActionPrediction
    from hiera_video.report.boxed_video import LabeledBox
    from hiera_video.video.file_cache import FileCache

_NOT_FOR_BOXES = {"window_sec": "--window-sec", "max_sec": "--max-sec"}
_MIN_GAP_SEC = 1.0  # between two boxes of a track; sparser lists have larger gaps


def add_box_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose boxes."""
    group = parser.add_argument_group("boxes")
    group.add_argument("--boxes", action="store_true", help="say what each person does; needs one of the next two")
    group.add_argument(
        "--detector", metavar="FILE", help="weights (path or URL) of torchvision's Faster R-CNN and others"
    )
    group.add_argument("--boxes-csv", metavar="FILE", help="boxes instead of a detector's")
    group.add_argument("--min-box-score", type=float, default=0.8, help="of boxes to keep; default: %(default)s")
    group.add_argument(
        "--detector-fps", type=float, default=5.0, help="frames a second to look at; default: %(default)s"
    )
    group.add_argument("--csv", metavar="FILE", help="write actions there, a line each")


def check_box_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> bool:
    """Whether boxes are asked for; ends the command where the options do not fit together."""
    sources = [source for source in (args.detector, args.boxes_csv) if source]
    if not args.boxes and not sources:
        if args.csv:
            parser.error("--csv is for --boxes; --json holds classes over time")
        return False
    if len(sources) != 1:
        parser.error("--boxes needs either --detector FILE or --boxes-csv FILE")
    for name, option in _NOT_FOR_BOXES.items():
        if getattr(args, name) is not None:
            parser.error(f"{option} is not for --boxes: a clip around each moment is as long as in training")
    if not args.detector_fps > 0:
        parser.error(f"--detector-fps is {args.detector_fps}; it must be above 0")
    return True


def predict_boxes(args: argparse.Namespace) -> None:
    """Predicts the actions in boxes, prints and writes them."""
    from hiera_video.engine.predict_actions import ActionPredictor
    from hiera_video.engine.trained import load_trained
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    predictor = ActionPredictor(
        load_trained(args.checkpoint, cfg_files=args.cfg_files, opts=args.opts),
        top_k=args.top_k,
        stride_sec=1.0 if args.stride_sec is None else args.stride_sec,
        num_crops=args.num_crops,
    )
    result = predictor.predict(args.video, load_boxes(args, predictor.cache))
    for path, text in ((args.json, result.to_json() + "\n"), (args.csv, result.to_csv())):
        if path and path != "-":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
    print(result.to_json() if args.json == "-" else format_tracks(result))
    if args.output_video:
        from hiera_video.report.boxed_video import write_boxed_video

        write_boxed_video(args.video, BoxesOverTime(result).find, args.output_video, font_path=args.font)


def load_boxes(args: argparse.Namespace, cache: FileCache | None) -> pd.DataFrame:
    """The boxes that the options choose, as `ActionPredictor.predict` takes them."""
    from hiera_video.data.box_checks import check_boxes
    from hiera_video.data.box_tables import Facts, load_box_csv
    from hiera_video.engine.predict_actions import find_persons, select_video
    from hiera_video.models.person_detector import load_person_detector
    from hiera_video.utils.distributed import get_device
    from hiera_video.video import VideoReader

    if args.detector:
        detector = load_person_detector(args.detector)
        detector.model.to(get_device())
        fps, min_score = args.detector_fps, args.min_box_score
        return find_persons(args.video, detector, fps=fps, min_score=min_score, cache=cache)
    with VideoReader(args.video, cache=cache) as reader:
        size, times_sec = (reader.width, reader.height), reader.times_sec
    table, _ = load_box_csv(args.boxes_csv, Facts(lambda _: size, lambda _, frame: float(times_sec[frame])))
    table = select_video(table, args.video, args.boxes_csv)
    check_boxes(table, args.boxes_csv)
    table = table.drop_duplicates(["time_sec", "x1", "y1", "x2", "y2"])  # a row for each label
    return table[table["score"] >= args.min_box_score]


def format_tracks(result: ActionPrediction) -> str:
    """What each track does over time, a line for each moment."""
    lines = []
    for row in result.actions.sort_values(["track", "time_sec"], kind="stable").itertuples(index=False):
        lines.append(f"track {row.track:3d}  {row.time_sec:8.2f} s  {', '.join(format_actions(row)) or 'not in view'}")
    count = result.boxes["track"].nunique()
    return "\n".join([*lines, f"{result.video}: {len(result.boxes)} boxes, {count} track{'s' * (count != 1)}"])


def format_actions(row: Any) -> list[str]:
    """Probabilities and classes of a row of `ActionPrediction.actions`."""
    pairs = zip(row.probabilities, row.classes, strict=True)
    return [f"{probability:.0%} {name}" for probability, name in pairs]


class BoxesOverTime:
    """Where each track is at any moment, and what it does then: as predicted at the nearest moment.

    Args:
        result: the boxes and actions.
    """

    def __init__(self, result: ActionPrediction) -> None:
        import numpy as np

        from hiera_video.engine.predict_actions import tracks_of

        corners = ["x1", "y1", "x2", "y2"]
        times = np.unique(result.boxes["time_sec"].to_numpy(float))
        step_sec = float(np.median(np.diff(times))) if len(times) > 1 else _MIN_GAP_SEC
        self._gaps = {"max_gap_sec": max(_MIN_GAP_SEC, 2 * step_sec), "stay_sec": step_sec / 2}
        self._tracks = []
        for track in tracks_of(result.boxes):
            boxes = result.boxes[result.boxes["track"] == track].drop_duplicates("time_sec")
            actions = result.actions[result.actions["track"] == track]
            labels = [(row.time_sec, format_actions(row)) for row in actions.itertuples(index=False)]
            self._tracks.append((track, boxes["time_sec"].to_numpy(float), boxes[corners].to_numpy(float), labels))

    def find(self, time_sec: float, frame_sec: float) -> list[LabeledBox]:
        """The boxes of a frame, see `write_boxed_video`."""
        from hiera_video.engine.tracks import interpolate_boxes
        from hiera_video.report.boxed_video import LabeledBox

        found: list[LabeledBox] = []
        for track, times, corners, labels in self._tracks:
            box = interpolate_boxes(times, corners, time_sec, **self._gaps)
            if box is not None:
                near: tuple[float, list[str]] = min(
                    labels, key=lambda label: abs(label[0] - time_sec), default=(0.0, [])
                )
                found.append(LabeledBox(track, box.tolist(), [f"#{track}", *near[1]]))
        return found
