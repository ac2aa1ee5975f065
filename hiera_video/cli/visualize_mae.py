"""Shows what a pre-trained masked autoencoder makes of a video: original, masked, and reconstructed frames.

    hiera-video visualize-mae --checkpoint output/checkpoints/checkpoint_epoch_00800.pyth --video clip.mp4
    hiera-video visualize-mae --checkpoint mae_hiera_base_16x224.pth --cfg Kinetics/HIERA_B_16x4_MAE_800.yaml \\
        --video clip.mp4 --output-dir output/mae

A checkpoint of a job of ours knows its config; a released file needs --cfg.
Writes <video>_mae.png, with time along the page, and <video>_mae.mp4.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

FRAMES_PER_SEC = 4  # of the written video: slow enough to compare
NO_JOBS = ("TASK", "pretrain", "TRAIN.ENABLE", "False", "TEST.ENABLE", "False")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    usage = "--checkpoint FILE --video FILE [options] [--cfg FILE ...] [KEY VALUE ...]"
    parser = make_parser("visualize-mae", __doc__, usage=usage)
    parser.add_argument(
        "--checkpoint", required=True, help="its weights: a checkpoint of the job, or a released mae_*.pth"
    )
    parser.add_argument("--video", required=True, help="the video; its center clip is shown")
    parser.add_argument("--output-dir", default="output/mae", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the mask; default: %(default)s")
    return parse_with_config(parser, argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Reconstructs and writes."""
    args = parse_args(argv)
    from hiera_video.config import load_config
    from hiera_video.engine.reconstruct import reconstruct
    from hiera_video.engine.trained import read_weights
    from hiera_video.report.pictures import compose_moments, compose_strip
    from hiera_video.video.writer import VideoWriter

    file = read_weights(args.checkpoint, cfg_files=args.cfg_files, opts=args.opts)
    if not args.cfg_files and not file.config:
        raise ValueError(f"{args.checkpoint} holds no config: name that of the pre-training with --cfg")
    cfg = load_config(args.cfg_files, [*args.opts, *NO_JOBS], stored=file.config)
    rows, positions = reconstruct(cfg, file, args.video, seed=args.seed)
    caption = (
        f"{Path(args.video).name}: {cfg.MAE.MASK_RATIO:.0%} of the mask units are hidden ({cfg.MAE.MASK_TYPE}). "
        f"Visible patches are the original's. {explain_hidden(cfg.MAE.NORM_TARGET)} Weights: {args.checkpoint}"
    )
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    picture, film = (folder / f"{Path(args.video).stem}_mae{suffix}" for suffix in (".png", ".mp4"))
    compose_strip(rows, caption=caption, column_titles=[f"frame {position}" for position in positions]).save(picture)
    moments = compose_moments(rows)  # (T', H, W, 3)
    with VideoWriter(film, width_px=moments.shape[2], height_px=moments.shape[1], fps=FRAMES_PER_SEC) as writer:
        for number, moment in enumerate(moments):
            writer.write(moment, number / FRAMES_PER_SEC)
    print(f"{caption}\nwritten: {picture}, {film}")
    return 0


def explain_hidden(is_normalized: bool) -> str:
    """What the hidden patches of the picture show."""
    if not is_normalized:
        return "Hidden patches are predictions."
    return "Hidden patches are predictions with each patch's true mean and contrast, which the model does not predict."
