"""Looks at every video of a config's lists before days of training, and writes down what it finds.

    hiera-video check --cfg Kinetics/HIERA_B_16x4.yaml DATA.PATH_TO_DATA_DIR /data/k400 OUTPUT_DIR output/k400_check
    hiera-video check --cfg my.yaml --splits train val --full-decode --workers 16

It names videos that are missing, broken, cut off, too short, mislabeled or listed twice, describes the videos, and
forecasts how many cores training will need. Give the manifest that it writes to jobs as DATA.MANIFEST. The exit status
is 1 when there are errors, 2 when nothing could be checked, and 75 when it was stopped: then it goes on when it is
started again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors
from hiera_video.utils.machine import count_cores

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from hiera_video.data.lists import VideoList
    from hiera_video.data.samples import SampleDataset
    from hiera_video.video.manifest import VideoRecord

SPLITS = ("train", "val", "test")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("check", __doc__, usage="--cfg FILE [FILE ...] [KEY VALUE ...] [options]")
    parser.add_argument(
        "--splits",
        action="append",
        choices=SPLITS,
        metavar="SPLIT",
        help="one or more of train, val, test; default: those that exist",
    )
    parser.add_argument("--output", help="the manifest; default: OUTPUT_DIR/manifest.parquet")
    parser.add_argument("--json", help="the report for programs; default: OUTPUT_DIR/dataset_report.json")
    parser.add_argument("--workers", type=int, default=count_cores(), help="processes; default: %(default)s")
    parser.add_argument(
        "--full-decode", action="store_true", help="decode every frame: finds damage inside, takes long"
    )
    parser.add_argument("--timeout-sec", type=float, default=300.0, help="for one video; default: %(default)s")
    parser.add_argument(
        "--gpu-clips-per-sec", type=float, default=300.0, help="clips that a GPU trains on; default: %(default)s"
    )
    parser.add_argument("--forecast-sec", type=float, default=5.0, help="time to measure for; 0: no forecast")
    args = parse_with_config(parser, argv, lists={"--splits": SPLITS.__contains__})
    args.splits = args.splits or []
    return args


@report_errors(status=2)
def main(argv: Sequence[str] | None = None) -> int:
    """Checks and prints; the exit status is 0 where there are at most warnings, else 1, or 2 as the help says."""
    args = parse_args(argv)
    from hiera_video.config import load_config
    from hiera_video.inspection.report import format_summary
    from hiera_video.inspection.survey import ERROR
    from hiera_video.utils.interrupt import stop_on_signals
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    with stop_on_signals():
        report = check(load_config(args.cfg_files, args.opts), args)
    print(format_summary(report))
    return int(any(group["severity"] == ERROR for group in report["findings"].values()))


def check(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """Checks, writes manifest and report, and returns the report."""
    import simplejson

    from hiera_video.inspection.boxes import build_box_survey, build_length_sec, find_absent_moments
    from hiera_video.inspection.run import build_lists, find_faults, inspect_all, make_report, merge_lists
    from hiera_video.inspection.survey import build_needed_frames
    from hiera_video.video.manifest import write_manifest

    start = time.perf_counter()
    manifest_path = Path(args.output or Path(cfg.OUTPUT_DIR) / "manifest.parquet")
    report_path = Path(args.json or Path(cfg.OUTPUT_DIR) / "dataset_report.json")
    survey = build_box_survey(cfg, args.splits) if cfg.DATA.FORMAT in ("ava", "boxes") else None
    if survey is not None:
        lists, sources, findings = survey.lists, survey.sources, survey.findings
    else:
        lists, sources, findings = build_lists(cfg, args.splits)
    splits, labels = merge_lists(lists)
    unfinished = manifest_path.with_suffix(".unfinished_full_decode" if args.full_decode else ".unfinished")
    records = inspect_all(
        list(splits),
        num_workers=args.workers,
        full_decode=args.full_decode,
        timeout_sec=args.timeout_sec,
        known=load_unfinished(unfinished, list(splits)),
        keep=lambda records: write_manifest(unfinished, records, splits=splits, labels=labels),
    )
    findings += find_faults(
        lists,
        records,
        splits,
        num_classes=cfg.MODEL.NUM_CLASSES,
        needs_labels=cfg.TASK == "classify",
        count_needed=build_needed_frames(cfg),
    )
    if survey is not None:
        findings += find_absent_moments(survey, records, splits, get_length_sec=build_length_sec(cfg))
    write_manifest(manifest_path, records, splits=splits, labels=labels)
    unfinished.unlink(missing_ok=True)
    report = make_report(
        lists,
        sources,
        records,
        findings,
        path_prefix=cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR,
        num_classes=cfg.MODEL.NUM_CLASSES,
        is_ssv2=cfg.DATA.FORMAT in ("ssv2", "ssv2_frames"),
    )
    report["boxes"] = survey.counts if survey is not None else {}
    report["forecast"] = forecast(cfg, lists.get("train"), records, manifest_path, args)
    report["written"] = {"manifest": str(manifest_path), "report": str(report_path)}
    report["seconds"] = round(time.perf_counter() - start, 2)
    report_path.parent.mkdir(parents=True, exist_ok=True)
    report_path.write_text(simplejson.dumps(report, indent=1) + "\n")
    return report


def load_unfinished(path: Path, videos: Sequence[str]) -> dict[str, VideoRecord]:
    """What a check that was stopped has found out about these videos, if they have not changed since."""
    from hiera_video.utils.logging import get_logger
    from hiera_video.video.manifest import load_manifest

    if not path.exists():
        return {}
    manifest = load_manifest(str(path))
    known = {video: record for video in videos if (record := manifest.get_entry(video)) is not None}
    get_logger(__name__).info("the check goes on: %d of %d videos are known from %s", len(known), len(videos), path)
    return known


def forecast(
    cfg: CfgNode,
    videos: VideoList | None,
    records: dict[str, VideoRecord],
    manifest_path: Path,
    args: argparse.Namespace,
) -> dict[str, Any] | None:
    """How many cores training will need; None where there is nothing to measure."""
    from hiera_video.data.box_loaders import build_box_dataset
    from hiera_video.data.loader import build_train_dataset
    from hiera_video.inspection.run import forecast_cores, select_good
    from hiera_video.video.manifest import load_manifest

    measures = videos is not None and args.forecast_sec and cfg.TASK != "detect"  # whose pictures have masks to decode
    good = select_good(videos, records) if videos is not None and measures else None
    if good is None or not len(good):
        return None
    if cfg.DATA.FORMAT in ("ava", "boxes"):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATA.MANIFEST, cfg.DATA.MAX_BAD_VIDEOS = str(manifest_path), len(records)
        try:
            dataset: SampleDataset = build_box_dataset(cfg, "train", is_training=True)
        except (FileNotFoundError, ValueError):
            return None  # the report names what is wrong with the lists
    else:
        dataset = build_train_dataset(cfg, good, manifest=load_manifest(str(manifest_path)))
    return forecast_cores(
        dataset,
        seconds=args.forecast_sec,
        gpu_clips_per_sec=args.gpu_clips_per_sec,
        cores_here=count_cores(),
    )
