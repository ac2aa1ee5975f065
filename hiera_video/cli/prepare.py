"""Makes a data set ready for training: writes its videos anew so that clips are cheap to read, and its lists with them.

    hiera-video prepare --cfg Kinetics/HIERA_B_16x4.yaml DATA.PATH_TO_DATA_DIR /data/kinetics400 \\
        --output-dir /data/kinetics400_256
    hiera-video prepare --cfg SSv2/HIERA_L_16.yaml DATA.PATH_TO_DATA_DIR /data/ssv2 --output-dir /data/ssv2_256 \\
        --short-side 256 --key-frames 16 --crf 19 --workers 32 --tar
    hiera-video run --cfg Kinetics/HIERA_B_16x4.yaml /data/kinetics400_256/prepared.yaml

Videos keep their frames and the times of these; sound goes, a rotation is applied, and larger pictures are scaled down.
Every new file is decoded and compared before it counts. The output folder then holds videos, the same lists, a
manifest, a config with the keys that read them (prepared.yaml), and failures.parquet, which names every video that
could not be prepared, with the reason. It begins with a forecast from a sample. An interrupted or killed preparation
goes on when it is started again; the exit status is 75 when it was asked to stop. With --ray, the cluster's processes
do the work (pip install "hiera_video[ray]"); all nodes must see the videos and the output folder.

With --tar, the prepared videos are then packed as `hiera-video pack` does: the folder shards in the output folder gets
tar files of about 1 GB, lists, a manifest, and packed.yaml, the config to train with. It can be moved or uploaded.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

if TYPE_CHECKING:
    from hiera_video.preparation.prepare_video import Settings

SPLITS = ("train", "val", "test")
SHARDS = "shards"  # in the output folder
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    usage = "--cfg FILE [FILE ...] [KEY VALUE ...] --output-dir DIR [options]"
    parser = make_parser("prepare", __doc__, usage=usage)
    parser.add_argument("--output-dir", metavar="DIR", help="gets everything; default: the config's OUTPUT_DIR")
    parser.add_argument(
        "--splits",
        action="append",
        choices=SPLITS,
        metavar="SPLIT",
        help="one or more of train, val, test; default: those that exist",
    )
    video = parser.add_argument_group("the new files")
    video.add_argument("--short-side", type=int, default=256, metavar="PX", help="never enlarged; default: %(default)s")
    video.add_argument(
        "--key-frames", type=int, default=16, metavar="N", help="every Nth frame is one; default: %(default)s"
    )
    video.add_argument("--crf", type=int, default=19, help="quality, less is better; default: %(default)s")
    video.add_argument("--preset", choices=PRESETS, default="medium", help="slower is smaller; default: %(default)s")
    video.add_argument(
        "--b-frames", type=int, default=3, metavar="N", help="frames that a reader may leave out; default: %(default)s"
    )
    video.add_argument(
        "--smaller", action="store_true", help="arithmetic coding and deblocking: smaller files, slower to decode"
    )
    video.add_argument(
        "--range-sec", type=float, nargs=2, metavar=("FIRST", "END"), help="only frames that begin in [FIRST, END)"
    )
    tar = parser.add_argument_group("tar files")
    tar.add_argument("--tar", action="store_true", help="pack the prepared videos into tar files, too")
    tar.add_argument("--shard-gb", type=float, default=1.0, help="size of a tar file, 10^9 bytes; default: 1")
    parser.add_argument("--workers", type=int, default=0, help="processes; default: one for each core")
    parser.add_argument("--timeout-sec", type=float, default=7200.0, help="for one video; default: %(default)s")
    parser.add_argument("--forecast-sec", type=float, default=3.0, help="time to measure clips for; 0: not at all")
    ray = parser.add_argument_group("on a Ray cluster")
    ray.add_argument("--ray", action="store_true", help="run there")
    ray.add_argument("--address", help="of the cluster; default: what Ray finds, or a local one")
    args = parse_with_config(parser, argv, lists={"--splits": SPLITS.__contains__})
    args.splits = args.splits or []
    if args.shard_gb <= 0:
        parser.error(f"--shard-gb is {args.shard_gb:g}; it must be above 0")
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prepares and prints; the exit status is 0 also where some videos could not be prepared: they are named."""
    args = parse_args(argv)
    if args.ray and importlib.util.find_spec("ray") is None:
        raise ImportError("--ray needs the package ray: pip install 'hiera_video[ray]'")
    from hiera_video.config import load_config
    from hiera_video.engine.preparation import job
    from hiera_video.preparation.forecast import format_result
    from hiera_video.utils.interrupt import stop_on_signals
    from hiera_video.utils.logging import setup_logging

    cfg = load_config(args.cfg_files, args.opts)
    options: dict[str, Any] = {"output_dir": args.output_dir or cfg.OUTPUT_DIR, "splits": args.splits}
    options |= {"timeout_sec": args.timeout_sec, "forecast_sec": args.forecast_sec, "num_workers": args.workers}
    settings = make_settings(args, pictures_fps=cfg.DATA.TARGET_FPS)
    setup_logging(None)
    with stop_on_signals():
        if args.ray:
            from hiera_video.engine.preparation.ray import prepare_on_ray

            report = prepare_on_ray(cfg, settings, address=args.address, **options)
        else:
            report = job.prepare(cfg, settings, **options)
        print(format_result(report), flush=True)
        config = pack_prepared(args, report) if args.tar else report["config"]
    print(f"To train with them: hiera-video run --cfg {' '.join(args.cfg_files or ['YOURS.yaml'])} {config}")
    return 0


def pack_prepared(args: argparse.Namespace, report: Mapping[str, Any]) -> str:
    """Packs what was prepared; returns the path of the config that reads the tar files.

    Args:
        args: of the command.
        report: of the preparation. Its manifest says all of the videos, so that none is checked again.
    """
    from hiera_video.cli import pack
    from hiera_video.config import load_config
    from hiera_video.engine.output_lock import lock_output

    keys = [text for pair in report["keys"].items() for text in pair]
    cfg = load_config(args.cfg_files, [*args.opts, *keys])
    folder = os.path.join(report["output_dir"], SHARDS)
    with lock_output(folder):
        packed = pack.pack_lists(cfg, pack.build_lists(cfg, ""), output_dir=folder, shard_gb=args.shard_gb)
    print(f"{folder}:\n{pack.format_packed(packed)}")
    if num_failures := pack.count_failures(packed):
        print(f"{num_failures:,} lines of the lists keep their old path: these videos could not be prepared")
    return os.path.join(folder, pack.CONFIG)


def make_settings(args: argparse.Namespace, *, pictures_fps: float) -> Settings:
    """How videos are written.

    Raises:
        ValueError: an option is not legal.
    """
    from hiera_video.preparation.prepare_video import Settings
    from hiera_video.video.reencode import Encoding

    legal = {"--short-side": (64, 8192), "--key-frames": (1, 1000), "--crf": (0, 51), "--b-frames": (0, 16)}
    for option, (low, high) in legal.items():
        value = getattr(args, option.lstrip("-").replace("-", "_"))
        if not low <= value <= high:
            raise ValueError(f"{option} is {value}; legal are {low} to {high}")
    if args.range_sec is not None and not 0 <= args.range_sec[0] < args.range_sec[1]:
        raise ValueError(f"--range-sec is {args.range_sec[0]:g} {args.range_sec[1]:g}; legal is 0 <= FIRST < END")
    encoding = Encoding(
        short_side_px=args.short_side,
        key_distance_frames=args.key_frames,
        crf=args.crf,
        preset=args.preset,
        b_frames=args.b_frames,
        fast_decode=not args.smaller,
    )
    return Settings(encoding, tuple(args.range_sec) if args.range_sec else None, float(pictures_fps))
