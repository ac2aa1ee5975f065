"""Finds out how many heads the decoder of a masked autoencoder has, by its loss on videos.

    hiera-video check-mae-heads --checkpoint mae_hiera_base_16x224.pth --video a.mp4 --video b.mp4

The number of heads changes no shape, so that weights load with a wrong one, and predict worse without any sign of it.
The released code has 16, the paper says 8 for video. The right number has the lower loss on nearly every video; give
several, of the kind that the model was trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

NO_JOBS = ("TASK", "pretrain", "TRAIN.ENABLE", "False", "TEST.ENABLE", "False")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    usage = "--checkpoint FILE --video FILE [--video FILE ...] [options] [--cfg FILE ...] [KEY VALUE ...]"
    parser = make_parser("check-mae-heads", __doc__, usage=usage)
    parser.add_argument("--checkpoint", required=True, help="weights of pre-training, path or URL")
    parser.add_argument(
        "--video", action="append", required=True, dest="videos", help="a video; its center clip is used"
    )
    parser.add_argument("--heads", type=int, nargs="+", default=[8, 16], help="numbers to try; default: 8 16")
    parser.add_argument("--masks", type=int, default=4, help="masks of each video; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the masks; default: %(default)s")
    return parse_with_config(parser, argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Computes and prints the losses."""
    args = parse_args(argv)
    from hiera_video.config import load_config
    from hiera_video.engine.mae_heads import compute_losses_by_heads
    from hiera_video.engine.trained import read_weights
    from hiera_video.models.recognize import describe_weights, recognize

    file = read_weights(args.checkpoint, cfg_files=args.cfg_files, opts=args.opts)
    found = recognize(file.weights)
    if found is None or not found.is_mae or not found.is_video:
        raise ValueError(f"{args.checkpoint} is no masked autoencoder for videos, but {describe_weights(file.weights)}")
    named = ["MODEL.MODEL_NAME", found.name] if found.name and not file.config and not args.cfg_files else []
    cfg = load_config(args.cfg_files, [*named, *args.opts, *NO_JOBS], stored=file.config)
    losses = compute_losses_by_heads(cfg, file, args.videos, heads=args.heads, num_masks=args.masks, seed=args.seed)
    print(format_losses(losses, args.videos))
    if file.decoder_num_heads:
        print(f"The file itself says {file.decoder_num_heads}.")
    return 0


def format_losses(losses: Mapping[int, Sequence[float]], videos: Sequence[str]) -> str:
    """A table of the losses, a row for each video, and what follows from it."""
    width = max(map(len, (*videos, "mean")))
    rows = [("masked loss", [f"{number} heads" for number in losses])]
    rows += [(path, [f"{values[i]:.4f}" for values in losses.values()]) for i, path in enumerate(videos)]
    means = {number: sum(values) / len(values) for number, values in losses.items()}
    rows.append(("mean", [f"{mean:.4f}" for mean in means.values()]))
    table = "\n".join(f"{title:<{width}}  " + "  ".join(f"{cell:>10}" for cell in cells) for title, cells in rows)
    best = min(means, key=means.__getitem__)
    wins = sum(min(losses, key=lambda number: losses[number][i]) == best for i in range(len(videos)))
    verdict = f"{best} heads have the lowest loss, on {wins} of {len(videos)} videos: MAE.DECODER_NUM_HEADS {best}"
    if wins < len(videos):
        verdict += ". The videos do not agree: give more of them, of the kind that the model was trained on"
    return f"{table}\n{verdict}"
