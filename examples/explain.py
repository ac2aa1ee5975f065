"""Asks a classifier which parts of a video its answer rests on, and draws them.

    python examples/explain.py clip.mp4 --checkpoint checkpoint_best.pyth --output explained.png

`hiera-video explain` makes a page and a film of it. Here is what it computes: how much evidence for the class each mask
unit of a window adds (2 frames × 32 × 32 px); below 0 where it speaks against it.
"""

import argparse

import numpy as np
from PIL import Image

import hiera_video as hv


def paint(window):
    """The frames of a window beside each other, brighter where their mask units speak for the class: (H, n * W, 3)."""
    units, frames = window.scores, window.frames  # (ut, uh, uw), uint8 (T, H, W, 3)
    shown = frames[:: len(frames) // len(units)][: len(units)]  # one frame for each unit in time
    heat = np.clip(units / max(units.max(), 1e-9), 0, 1)
    heat = heat.repeat(frames.shape[1] // units.shape[1], axis=1).repeat(frames.shape[2] // units.shape[2], axis=2)
    painted = shown * (0.25 + 0.75 * heat[..., None])
    return np.concatenate(list(painted.astype(np.uint8)), axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--checkpoint", required=True, help="path or URL of a classifier's weights")
    parser.add_argument("--cfg", nargs="*", default=[], help="its recipe, where the weights do not hold their config")
    parser.add_argument("--class-name", default="", help="default: the likeliest class of the video")
    parser.add_argument("--output", default="explained.png")
    args = parser.parse_args()

    found = hv.explain(args.video, checkpoint=args.checkpoint, class_name=args.class_name, cfg_files=args.cfg)
    print(f"{found.class_name}: {found.probability:.1%} of {args.video}; a mask unit is {found.unit_size} (T, H, W)")
    for window in found.windows:
        place = np.unravel_index(window.scores.argmax(), window.scores.shape)
        times = f"{window.start_sec:7.2f} to {window.end_sec:7.2f} s"
        most = f"unit {tuple(map(int, place))} adds most, {window.scores.max():.2f}"
        print(f"{times}: {window.probability:6.1%}; {most}; all explain {window.explained:.0%}")
    Image.fromarray(np.concatenate([paint(window) for window in found.windows])).save(args.output)
    print(f"{args.output}: a row for each of {len(found.windows)} windows")


if __name__ == "__main__":
    main()
