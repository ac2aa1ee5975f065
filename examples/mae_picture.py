"""Hides most of a clip and draws what a masked autoencoder makes of the rest, frame by frame.

    python examples/mae_picture.py clip.mp4 --weights mae_hiera_base_16x224.pth --output mae.png

`hiera-video visualize-mae` reads a job's checkpoint with its config; this is how the parts fit together.
"""

import argparse

import torch
from PIL import Image
from torch.nn import functional as F

import hiera_video as hv
from hiera_video.models.targets import paint_patches


def load_clip(path, num_frames, side):
    """Frames spread over a whole video: float (1, 3, T, H, W) in [0, 1]."""
    with hv.VideoReader(path) as reader:
        frames = reader.get_frames([i * len(reader) // num_frames for i in range(num_frames)])
    video = F.interpolate(frames.permute(0, 3, 1, 2).float() / 255, (side, side), mode="bilinear", antialias=True)
    return video.clamp(0, 1).transpose(0, 1)[None]  # (T, C, H, W) -> (1, C, T, H, W)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--model", default="mae_hiera_base_16x224")
    parser.add_argument("--weights", help="path or URL; default: random ones, which paint noise")
    parser.add_argument("--size", type=int, nargs=3, default=(16, 224, 224), metavar=("T", "H", "W"))
    parser.add_argument("--mask-ratio", type=float, default=0.9)
    parser.add_argument("--output", default="mae.png")
    args = parser.parse_args()

    mae = hv.build_model(args.model, input_size=tuple(args.size)).eval()
    if args.weights:
        print(hv.load_weights(mae, args.weights))
    pixels = load_clip(args.video, args.size[0], args.size[1])
    order = torch.rand(1, mae.num_mask_units).argsort(dim=1)  # (1, U)
    mask = order >= round(args.mask_ratio * mae.num_mask_units)  # True: the model sees this unit
    with torch.no_grad():
        pred, hidden = mae.reconstruct((pixels - 0.45) / 0.225, mask)  # of each token's pixels
    gray = torch.full_like(pred, 0.5)
    rows = [
        pixels[0, :, :: mae.pred_stride[0]],  # (C, T', H, W): one frame for each token in time
        paint_patches(pixels, gray, hidden, mae.pred_stride, normalized=False)[0],
        paint_patches(pixels, pred, hidden, mae.pred_stride, normalized=True)[0],  # with each patch's true contrast
    ]
    # Three rows of T' frames: (C, T', H, W) -> (C, H, T' * W)
    picture = torch.cat([row.transpose(1, 2).flatten(2) for row in rows], dim=1)
    Image.fromarray((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(args.output)
    print(f"{args.output}: the clip, what the model saw ({1 - args.mask_ratio:.0%}), and what it made of it")


if __name__ == "__main__":
    main()
