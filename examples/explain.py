"""Asks a classifier which part of a video it looked at: hides one square after the other, and sees what is lost.

    python examples/explain.py clip.mp4 --weights hiera_base_16x224.pth --output explained.png

Each square of 32 px is made gray in all frames. The picture is brighter where the answer's probability fell most.
"""

import argparse

import torch
from PIL import Image
from torch.nn import functional as F

import hiera_video as hv

UNIT_PX = 32


def load_clip(path, num_frames, side):
    """Frames spread over a whole video: float (3, T, H, W) in [0, 1]."""
    with hv.VideoReader(path) as reader:
        frames = reader.get_frames([i * len(reader) // num_frames for i in range(num_frames)])
    video = F.interpolate(frames.permute(0, 3, 1, 2).float() / 255, (side, side), mode="bilinear", antialias=True)
    return video.clamp(0, 1).transpose(0, 1)  # (T, C, H, W) -> (C, T, H, W)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--model", default="hiera_base_16x224")
    parser.add_argument("--classes", type=int, default=400, help="of the weights' head")
    parser.add_argument("--weights", help="path or URL; default: random ones, which look at nothing")
    parser.add_argument("--size", type=int, nargs=3, default=(16, 224, 224), metavar=("T", "H", "W"))
    parser.add_argument("--output", default="explained.png")
    args = parser.parse_args()

    model = hv.build_model(args.model, num_classes=args.classes, input_size=tuple(args.size)).eval()
    if args.weights:
        print(hv.load_weights(model, args.weights))
    pixels = load_clip(args.video, args.size[0], args.size[1])
    clip = (pixels - 0.45) / 0.225
    rows, columns = args.size[1] // UNIT_PX, args.size[2] // UNIT_PX
    with torch.no_grad():
        whole = model(clip[None]).softmax(1)[0]  # (K,)
        answer = int(whole.argmax())
        lost = torch.zeros(rows, columns)
        for row in range(rows):
            hidden = clip.repeat(columns, 1, 1, 1, 1)  # (columns, C, T, H, W)
            for column in range(columns):
                top, left = row * UNIT_PX, column * UNIT_PX
                hidden[column, :, :, top : top + UNIT_PX, left : left + UNIT_PX] = 0  # the mean color
            lost[row] = whole[answer] - model(hidden).softmax(1)[:, answer]
    heat = (lost.clamp(min=0) / lost.max().clamp(min=1e-9)).repeat_interleave(UNIT_PX, 0).repeat_interleave(UNIT_PX, 1)
    picture = pixels[:, args.size[0] // 2] * (0.25 + 0.75 * heat)  # (C, H, W)
    Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy()).save(args.output)
    print(f"class {answer}, {whole[answer]:.1%}; the most important square costs {lost.max():.1%}: {args.output}")


if __name__ == "__main__":
    main()
