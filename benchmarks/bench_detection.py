"""Compares a training step of Mask R-CNN on Hiera with one of torchvision's on a ResNet-50, for scale.

    python benchmarks/bench_detection.py --model hiera_base_224 --size 1024 --batch 1 --runs 1

They are not the same model: the ratio says what Hiera's encoder, its pyramid with norms and ViTDet's heads cost beside
torchvision's plain `maskrcnn_resnet50_fpn`. Both see the same picture of the recipe's size with the same things on it,
and learn with all their parameters. A step is forward, backward and AdamW. Each side runs in fresh processes, in turns:
steps of warm-up, then one whose time counts, and the peak memory of all (on a GPU what torch allocated, on a CPU how
far the resident memory grows from before the model is made). The last line is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIDES = ("resnet50", "ours")
NUM_CLASSES, NUM_THINGS = 80, 7  # COCO has 7.3 things on a picture


def make_targets(size: int, batch: int) -> list[dict[str, torch.Tensor]]:
    """Rectangles of several sizes."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(batch):
        places = torch.rand(NUM_THINGS, 2, generator=generator) * 0.6 * size
        sides = (0.05 + 0.3 * torch.rand(NUM_THINGS, 2, generator=generator)) * size
        boxes = torch.cat([places, places + sides], dim=1).round()
        masks = torch.zeros(NUM_THINGS, size, size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        labels = torch.randint(1, NUM_CLASSES + 1, (NUM_THINGS,), generator=generator)
        targets.append({"boxes": boxes.to(DEVICE), "labels": labels.to(DEVICE), "masks": masks.to(DEVICE)})
    return targets


def make_step(args: argparse.Namespace) -> Callable[[], None]:
    size = args.size
    if args.child == "ours":
        from hiera_video.models.mask_rcnn import HieraDetector
        from hiera_video.models.variants import MODELS

        own = {"num_classes": NUM_CLASSES, "input_size": (size, size), "drop_path_rate": 0.2}
        model = HieraDetector(**(MODELS[args.model] | own)).train().to(DEVICE)
    else:
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        options = {"weights": None, "weights_backbone": None, "num_classes": NUM_CLASSES + 1}
        model = maskrcnn_resnet50_fpn(**options, min_size=size, max_size=size, trainable_backbone_layers=5)
        model = model.train().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    pictures = torch.rand(args.batch, 3, size, size, device=DEVICE)

    def step() -> None:
        targets = make_targets(size, args.batch)
        with common.autocast(DEVICE, common.DTYPES[args.dtype]):
            if args.child == "ours":
                losses, _ = model(pictures, [(size, size)] * args.batch, targets)
            else:
                losses = model(list(pictures), targets)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def run_child(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    import torchvision.models.detection  # noqa: F401  what imports take counts on no side

    import hiera_video.models.mask_rcnn  # noqa: F401

    before = common.read_status_kib("VmRSS")
    step = make_step(args)
    for _ in range(args.warm_up):
        step()
    seconds = common.time_run(step)
    peak = (common.read_status_kib("VmHWM") - before) / 2**10
    if DEVICE.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"seconds": seconds, "memory_mib": peak}))


def measure(side: str) -> dict[str, float]:
    child = subprocess.run([sys.executable, *sys.argv, "--child", side], check=True, capture_output=True, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hiera_base_224", help="a Hiera of images")
    parser.add_argument("--size", type=int, default=1024, help="side of the pictures, px")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="fresh processes of each side")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before the one that counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=common.DTYPES, default="fp32")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(args)
        return
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(args.runs):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            runs[side].append(measure(side))
    rows = {
        name: {side: statistics.median(run[name] for run in runs[side]) for side in SIDES}
        for name in ("seconds", "memory_mib")
    }
    print(f"{'a training step':28}{'resnet50':>12}{'ours':>12}{'ours / resnet50':>18}")
    for name, unit in (("seconds", "s"), ("memory_mib", "MiB")):
        first, second = rows[name].values()
        print(f"{name:28}{first:12.1f}{second:12.1f}{second / first:17.2f}x   {unit}")
    print(json.dumps({**common.describe_run(args), **rows}))


if __name__ == "__main__":
    main()
