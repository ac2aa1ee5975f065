"""A fresh process that takes two real training steps on the CPU and prints by how many bytes its memory grew at most.

    python real_step.py BATCH_SIZE KEY VALUE ...

Who runs it compares that with what a plan foresees.
"""

import ctypes
import sys
from pathlib import Path

import torch
from command_words import to_words

from hiera_video.config import load_config
from hiera_video.engine.batch import autocast
from hiera_video.engine.training.bad_step import compute_grad_norm
from hiera_video.engine.training.classify import build_classification
from hiera_video.engine.training.pretrain import build_pretraining
from hiera_video.engine.training.state import build_state
from hiera_video.models.mask_units import draw_mask

# What libraries take when they are first used belongs to no model.
WARM_UP = {
    "HIERA.EMBED_DIM": "32",
    "HIERA.STAGES": "[1, 1, 1, 1]",
    "MAE.DECODER_EMBED_DIM": "32",
    "MAE.DECODER_DEPTH": "1",
}


def read_status_bytes(key):
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def take_steps(cfg, batch_size):
    build_job = build_pretraining if cfg.TASK == "pretrain" else build_classification
    model, compute_loss = build_job(cfg)
    state = build_state(cfg, model)
    model.train()
    size = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE)
    batch = {
        "video": torch.randint(256, (batch_size, 1, 3, *size), dtype=torch.uint8),
        "label": torch.zeros(batch_size, dtype=torch.int64),
    }
    if cfg.TASK == "pretrain":
        masks = [draw_mask(model.mask_units_grid, cfg.MAE.MASK_RATIO) for _ in range(batch_size)]
        batch["mask"] = torch.stack(masks)[:, None]
    for _ in range(2):
        with autocast(torch.device("cpu"), cfg.TRAIN.PRECISION):
            loss, _ = compute_loss(model, batch)
        loss.backward()
        compute_grad_norm(model)
        state.optimizer.step()
        if state.ema:
            state.ema.update_parameters(model)
        state.optimizer.zero_grad(set_to_none=True)


def main():
    batch_size, pairs = int(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    take_steps(load_config([], [*pairs, *to_words(WARM_UP)]), 1)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what the allocator has kept of that
    before = read_status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    take_steps(load_config([], pairs), batch_size)
    print(read_status_bytes("VmHWM") - before)


if __name__ == "__main__":
    main()
