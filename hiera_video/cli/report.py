"""Writes a page about a run, or about several: curves, classes, confusions, calibration, mistakes, failures.

    hiera-video report output/k400
    hiera-video report output/k400 output/k400_longer --html comparison.html

A folder is the OUTPUT_DIR of a job. The page is one file that needs no network; videos play from where they lie. One
folder gives report.html in it; several give comparison.html in the first, where each is compared with the first: the
difference of the accuracies on the same videos with its 95 % interval, McNemar's exact test, and the clips that changed
sides.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiera_video.cli.arguments import make_parser, report_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command.

    Raises:
        ValueError: a value out of range.
    """
    parser = make_parser("report", __doc__)
    parser.add_argument("folders", nargs="+", metavar="OUTPUT_DIR", help="of a job; further ones are compared with it")
    parser.add_argument("--html", metavar="FILE", help="the page; default: report.html or comparison.html in the first")
    parser.add_argument(
        "--num-clips", type=int, metavar="N", help="clips in each gallery; default: 12, and 8 of each comparison"
    )
    args = parser.parse_args(argv)
    if args.num_clips is not None and args.num_clips < 0:
        raise ValueError(f"--num-clips is {args.num_clips}; it must be 0 or more")
    if len({os.path.realpath(folder) for folder in args.folders}) < len(args.folders):
        raise ValueError(f"a folder is named twice: {' '.join(args.folders)}")
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Reads the folders and writes the page."""
    args = parse_args(argv)
    from hiera_video.report.compare_page import render_compare_page
    from hiera_video.report.page import write_page
    from hiera_video.report.run_files import name_runs, read_run
    from hiera_video.report.run_page import PAGE, render_run_page
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    names = name_runs(args.folders)
    runs = [read_run(folder, name=name) for folder, name in zip(args.folders, names, strict=True)]
    path = Path(args.html or os.path.join(args.folders[0], PAGE if len(runs) == 1 else "comparison.html"))
    options: dict[str, Any] = {"page_dir": path.resolve().parent}
    if args.num_clips is not None:
        options["num_shown"] = args.num_clips
    page = render_run_page(runs[0], **options) if len(runs) == 1 else render_compare_page(runs, **options)
    write_page(path, page)
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0
