"""Takes optimizer steps of a tiny model with DistributedDataParallel and with sharding, side by side, and compares.

    torchrun --nproc_per_node 2 tests/sharded_steps.py

Rank 0 prints one JSON object: for each case the losses of both, and the bytes that it holds of the divided model.
"""

import json

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from hiera_video.engine.batch import autocast
from hiera_video.engine.training.bad_step import clip_gradients, compute_grad_norm
from hiera_video.engine.training.state import MovingAverage
from hiera_video.models.build import build_model
from hiera_video.models.sharding import gather_model, gather_state, get_local, make_skeleton, shard_model
from hiera_video.solver.optimizer import compute_param_groups
from hiera_video.utils.distributed import get_rank, get_world_size

# embed_dim 6 gives tensors of 6 and 3 rows, which 2 and 4 processes cannot divide evenly.
TINY = {"embed_dim": 6, "stages": (1, 1, 1, 1), "num_heads": 1, "input_size": (4, 32, 32), "num_classes": 5}
DECODER = {"decoder_embed_dim": 10, "decoder_depth": 1, "decoder_num_heads": 2}
NUM_STEPS, NUM_PARTS, LARGEST_NORM = 3, 2, 0.5
CASES = {
    "zero2 fp32": ("hiera_tiny_16x224", "zero2", "fp32", {"activation_checkpointing": True}),
    "zero3 fp32": ("hiera_tiny_16x224", "zero3", "fp32", {}),
    "zero3 bf16": ("hiera_tiny_16x224", "zero3", "bf16", {}),
    "zero3 bf16 mae": ("mae_hiera_tiny_16x224", "zero3", "bf16", {"activation_checkpointing": True}),
}


def build(name, more):
    torch.manual_seed(0)
    model = build_model(name, **TINY, **(DECODER if name.startswith("mae_") else {"head_init_scale": 1.0}), **more)
    model.patch_embed.proj.bias.requires_grad_(False)  # frozen
    return model


def compute_loss(forward, model, step, part):
    torch.manual_seed(1000 * step + 10 * part + get_rank())
    video = torch.randn(3, 3, 4, 32, 32)
    if hasattr(model, "decode"):
        return forward(video, mask=torch.tensor([[True, False]] * 3).view(3, 2))[0]
    return F.cross_entropy(forward(video).float(), torch.randint(0, 5, (3,)))


def train(forward, model, average, precision):
    """Losses of this process, and the gradient's norm of each step."""
    groups = compute_param_groups(model, weight_decay=0.1, layer_decay=0.7)
    optimizer = torch.optim.AdamW(
        groups, lr=1e-2, eps=1e-4, fused=True
    )  # a gradient that is 0 but for rounding moves nothing
    for group in groups:
        group["lr"] = 1e-2 * group["lr_scale"]
    lines = []
    for step in range(NUM_STEPS):
        for part in range(NUM_PARTS):
            with autocast(torch.device("cpu"), precision):
                loss = compute_loss(forward, model, step, part)
            (loss / NUM_PARTS).backward()
            lines.append(loss.item())
        norm = compute_grad_norm(model)
        clip_gradients(model, LARGEST_NORM, norm)
        lines.append(norm.item())
        optimizer.step()
        average.update_parameters(model)
        if step + 1 < NUM_STEPS:
            optimizer.zero_grad()
    return lines, optimizer


def count_bytes(model, average, optimizer):
    def count(tensors):
        return sum(get_local(tensor).untyped_storage().nbytes() for tensor in tensors)

    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    return {
        "parameters": count(model.parameters()),
        "gradients": sum(
            get_local(p.grad).numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None
        ),
        "moments": count(moments),
        "average": count(average.module.parameters()),
    }


def compare(name, sharding, precision, more):
    plain, divided = build(name, more), build(name, more)
    averages = MovingAverage(plain, 0.5), MovingAverage(divided, 0.5)
    skeleton = make_skeleton(divided)
    for module in (divided, averages[1].module):
        shard_model(module, sharding=sharding, precision=precision)
    expected, _ = train(nn.parallel.DistributedDataParallel(plain), plain, averages[0], precision)
    found, optimizer = train(divided, divided, averages[1], precision)
    difference = max(
        (dict(gather_state(module))[name] - value).abs().max().item() / value.abs().max().item()
        for module, whole in ((divided, plain), (averages[1].module, averages[0].module))
        for name, value in whole.state_dict().items()
    )
    gathered = gather_model(averages[1].module, skeleton)
    same = all(torch.equal(value, gathered.state_dict()[name]) for name, value in gather_state(averages[1].module))
    return {
        "expected": expected,
        "found": found,
        "difference": difference,
        "gathered_is_the_same": same and not any(p.is_meta for p in gathered.parameters()),
        "bytes": count_bytes(divided, averages[1], optimizer),
    }


def main():
    dist.init_process_group("gloo")
    results = {title: compare(*case) for title, case in CASES.items()}
    if get_rank() == 0:
        print(json.dumps({"num_processes": get_world_size(), **results}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
