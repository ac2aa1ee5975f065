"""Fine-tunes a model on a folder of classes, in a loop of one's own.

    python examples/finetune.py my_clips/train --weights hiera_base_16x224.pth --output mine.pth

`hiera-video run` has all that a long run needs; here are the parts alone.
"""

import argparse
import random
from pathlib import Path

import torch
from torch.nn import functional as F

import hiera_video as hv


def load_clip(path, num_frames, side):
    """A random clip of every second frame, normalized: (3, T, H, W)."""
    with hv.VideoReader(path) as reader:
        start = random.randint(0, max(len(reader) - 2 * num_frames, 0))
        frames = reader.get_frames([min(start + 2 * i, len(reader) - 1) for i in range(num_frames)])
    video = frames.permute(0, 3, 1, 2).float() / 255  # (T, H, W, C) -> (T, C, H, W)
    video = F.interpolate(video, (side, side), mode="bilinear", antialias=True)
    return ((video - 0.45) / 0.225).transpose(0, 1)  # (T, C, H, W) -> (C, T, H, W)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="has a folder of videos for each class")
    parser.add_argument("--model", default="hiera_base_16x224", help="one of hv.model_names()")
    parser.add_argument("--weights", help="path or URL to start from; default: random weights")
    parser.add_argument("--size", type=int, nargs=3, default=(16, 224, 224), metavar=("T", "H", "W"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--output", default="finetuned.pth")
    args = parser.parse_args()
    classes = sorted(path.name for path in args.folder.iterdir() if path.is_dir())
    videos = [(path, classes.index(path.parent.name)) for path in args.folder.glob("*/*.mp4")]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = hv.build_model(args.model, num_classes=len(classes), input_size=tuple(args.size)).to(device).train()
    if args.weights:
        print(hv.load_weights(model, args.weights))  # the head is new; position embeddings are resized
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    for epoch in range(args.epochs):
        random.shuffle(videos)
        for at in range(0, len(videos), args.batch_size):
            paths, labels = zip(*videos[at : at + args.batch_size], strict=True)
            logits = model(torch.stack([load_clip(path, *args.size[:2]) for path in paths]).to(device))  # (B, K)
            loss = F.cross_entropy(logits, torch.tensor(labels, device=device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}")
    torch.save({"model_state": model.state_dict(), "class_names": classes}, args.output)


if __name__ == "__main__":
    main()
