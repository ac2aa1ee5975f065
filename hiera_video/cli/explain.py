"""Shows which parts of a video a decision rests on.

    hiera-video explain video.mp4 --checkpoint output/checkpoints/checkpoint_best.pyth
    hiera-video explain video.mp4 --checkpoint hiera_base_16x224.pth --cfg Kinetics/HIERA_B_16x4.yaml \\
        --class archery --window-sec 4 --max-windows 3 --output-dir output/explained

Hiera can leave out mask units, blocks of a few frames and pixels, as it does in pre-training. Each window is classified
again and again with pieces left out; a unit's score is how much evidence for the class it adds where it is visible.
Grad-CAM of the last map stands beside it.

Writes explain.html (open it in a browser; it plays explain.mp4 from the same folder), explain.mp4, explain.json and
explain.npz with the scores. Each window takes as long as --num-masks forward passes of about half a clip.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

if TYPE_CHECKING:
    from hiera_video.engine.explain import VideoExplanation
    from hiera_video.report.explain_page import ShownExplanation


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    usage = "VIDEO --checkpoint FILE [options] [--cfg FILE ...] [KEY VALUE ...]"
    parser = make_parser("explain", __doc__, usage=usage)
    parser.add_argument("video", metavar="VIDEO", help="path or URL")
    parser.add_argument("--checkpoint", required=True, help="path or URL of the weights")
    parser.add_argument(
        "--class", dest="class_name", default="", metavar="NAME", help="name or number; default: the video's likeliest"
    )
    parser.add_argument("--window-sec", type=float, help="default: as long as clips in training")
    parser.add_argument("--stride-sec", type=float, help="from one window's start to the next; default: a window")
    parser.add_argument(
        "--max-windows", type=int, default=8, help="of a longer video, so many are explained, spread evenly; default: 8"
    )
    parser.add_argument("--num-masks", type=int, default=208, help="for each window; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="masks per forward pass; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the masks; default: %(default)s")
    parser.add_argument("--output-dir", metavar="DIR", help="default: output/explain/VIDEO")
    return parse_with_config(parser, argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Explains, writes and prints."""
    args = parse_args(argv)
    from hiera_video.engine.explain import ExplainSettings, explain
    from hiera_video.report.explain_page import FILM, PAGE, default_folder, render_explain_page, write_film
    from hiera_video.report.page import write_page
    from hiera_video.utils.files import write_whole
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    found = explain(
        args.video,
        checkpoint=args.checkpoint,
        class_name=args.class_name,
        window_sec=args.window_sec,
        stride_sec=args.stride_sec,
        settings=ExplainSettings(args.max_windows, args.num_masks, args.batch_size, args.seed),
        cfg_files=args.cfg_files,
        opts=args.opts,
    )
    folder = Path(args.output_dir or default_folder(args.video))
    shown = make_shown_explanation(found)
    starts_sec, poster = write_film(folder / FILM, shown.windows)
    write_page(folder / PAGE, render_explain_page(shown, starts_sec=starts_sec, poster=poster))
    write_whole(folder / "explain.json", found.to_json().encode())
    found.write_maps(folder / "explain.npz")
    print("\n".join(describe(shown)))
    print(f"written: {folder / PAGE}, {FILM}, explain.json, explain.npz")
    return 0


def make_shown_explanation(found: VideoExplanation) -> ShownExplanation:
    """An explanation as film and page show it."""
    import numpy as np

    from hiera_video.report.explain_page import ShownExplanation, make_shown

    rows = found.prediction.windows
    by_window = [
        dict(zip(classes, values, strict=True))
        for classes, values in zip(rows["classes"], rows["probabilities"], strict=True)
    ]
    frames, height, width = found.unit_size
    return ShownExplanation(
        video=found.prediction.video,
        class_name=found.class_name,
        probability=found.probability,
        is_multilabel=found.is_multilabel,
        spans_sec=rows[["start_sec", "end_sec"]].to_numpy(dtype=float),
        probabilities={name: np.array([row[name] for row in by_window]) for name in by_window[0]},
        windows=make_shown(found.windows),
        facts=[
            found.prediction.video,
            f"Weights: {found.prediction.checkpoint}, SHA-256 {found.prediction.sha256[:12]}...",
            f"A mask unit is {frames} frame{'s' * (frames > 1)} of {height} x {width} px, a window has "
            f"{' x '.join(map(str, found.windows[0].scores.shape))} (time, height, width). {found.num_masks} masks for "
            f"each window, seed {found.seed}.",
        ],
    )


def describe(shown: ShownExplanation) -> list[str]:
    """The lines that are printed: the class, each window with its strongest unit, and what a coarse map cannot tell."""
    from hiera_video.report.clips import format_span
    from hiera_video.report.explain_page import describe_place, explain_grid, list_strongest

    count, total = len(shown.windows), len(shown.spans_sec)
    spread = f", {count} of them explained, spread evenly" if count < total else ""
    windows = f"{total} window{'s' * (total != 1)}{spread}"
    lines = [f"{shown.video}: {shown.probability:.1%} {shown.class_name}, mean of {windows}"]
    for window in shown.windows:
        span = format_span(window.start_sec, window.end_sec)
        best = list_strongest([window], 1)
        strongest = f"strongest {best[0][2]:+.2f} at {describe_place(window, best[0][1])}" if best else "nothing for it"
        lines.append(f"  {span:>19}  {window.probability:6.1%}  evidence {window.evidence:+.2f}, {strongest}")
    warning = explain_grid(shown.windows)
    return [*lines, warning] if warning else lines
