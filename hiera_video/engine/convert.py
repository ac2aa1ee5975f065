"""Weights written for other packages, and verified there: the package loads the file and must give our numbers."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from hiera_video.config import load_config
from hiera_video.engine.trained import NO_JOBS
from hiera_video.models.build import build_model, build_model_from_cfg
from hiera_video.models.checkpoint_file import CheckpointFile, read_checkpoint_file
from hiera_video.models.foreign_weights import to_other_names
from hiera_video.models.hiera import Hiera
from hiera_video.models.hiera_mae import HieraMAE
from hiera_video.models.layers import HieraBlock
from hiera_video.models.mask_units import random_mask
from hiera_video.models.recognize import describe_weights, find_input_size, recognize
from hiera_video.models.weights import load_weights
from hiera_video.utils.rng import seeded

TARGETS = ("released", "hf", "timm", "safetensors")
TOLERANCE = 1e-4  # relative to the largest value where that is below 1
_PACKAGES = {"released": "hiera-transformer", "hf": "transformers", "timm": "timm"}
_MODULES = {"released": "hiera", "hf": "transformers", "timm": "timm"}
_ABSWIN_PX = 256  # timm's hiera_base_abswin_256
_SEED = 0

Model = Hiera | HieraMAE


class ConversionError(ValueError):
    """Weights that the other package cannot take, or with which it computes something else."""


@dataclass(frozen=True)
class Converted:
    """What `convert_weights` did.

    Attributes:
        path: the file or folder that was written.
        model: what the weights are of.
        compared: what was compared, e.g. "logits".
        difference: the largest between ours and the other package's.
        largest: the largest value among ours.
    """

    path: str
    model: str
    compared: str
    difference: float
    largest: float


def convert_weights(source: str, path: str | os.PathLike[str], *, target: str) -> Converted:
    """Writes weights under another package's names, loads them there, and compares what both compute.

    Args:
        source: path, URL or folder of any form that `read_checkpoint_file` knows.
        path: the file to write; for "hf" a folder.
        target: "released" (`hiera-transformer`), "hf" (`transformers`), "timm", or "safetensors" (our names).

    Raises:
        ConversionError: the other package has no such model, or gives other numbers, or there is such a file or folder
            already; nothing is written.
        ModuleNotFoundError: the other package is not installed, so that nothing can be verified.
        ValueError: as `read_checkpoint_file` and `load_weights`.
    """
    if target not in TARGETS:
        raise ConversionError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    out = Path(path)
    if out.exists():
        raise ConversionError(f"{out} exists already; remove it, or name another")
    model = load_whole(read_checkpoint_file(source))
    _check_target(model, target, source)
    _require(target)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.stem}.partial{out.suffix}")
    write, run = _WAYS[target]
    try:
        write(model, partial)
        compared, ours, theirs = run(model, partial)
        difference, largest = (ours - theirs).abs().max().item(), ours.abs().max().item()
        if not difference <= TOLERANCE * min(largest, 1):
            raise ConversionError(
                f"{source} under the names of {target} gives other {compared}: the largest difference is "
                f"{difference:.1e} where the largest value is {largest:.1e}, and {TOLERANCE:.0e} of it is allowed; "
                "nothing is written"
            )
        os.replace(partial, out)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
    described = describe_weights(model.state_dict())
    return Converted(str(out), described, compared, difference, largest)


def load_whole(file: CheckpointFile) -> Model:
    """The model that a file's weights are of, filled by them, in eval mode.

    Raises:
        ConversionError: the file does not tell which model, or lacks a part of it.
    """
    found = recognize(file.weights)
    if found is None:
        raise ConversionError(f"{file.source} seems to be {describe_weights(file.weights)}")
    if file.config:
        cfg = load_config([], NO_JOBS, stored=file.config)
        built = build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE)
        if not isinstance(built, Hiera | HieraMAE):
            raise ConversionError(f"{file.source} is a detector's (TASK {cfg.TASK}), whose head no other package has")
        model = built
    elif found.name:
        arguments: dict[str, Any] = {} if found.num_classes is None else {"num_classes": found.num_classes}
        size = find_input_size(file.weights, found) or ((_ABSWIN_PX,) * 2 if file.format == "timm abswin" else None)
        arguments |= {"input_size": size} if size else {}
        arguments |= {"decoder_num_heads": file.decoder_num_heads} if file.decoder_num_heads else {}
        model = build_model(found.name, **arguments)
    else:
        raise ConversionError(
            f"{file.source} is {found}: such weights do not tell how many heads attention has, and the file holds no "
            "config that does"
        )
    report = load_weights(model, file)
    if report.missing:
        raise ConversionError(f"{file.source} has not the whole of {found}: missing {', '.join(report.missing)}")
    return model.eval()


def _check_target(model: Model, target: str, source: str) -> None:
    is_video = len(model.input_size) == 3
    if target in ("hf", "timm") and is_video:
        raise ConversionError(f"{source} is of a model for videos; {_PACKAGES[target]} has Hiera for images alone")
    if target == "timm" and isinstance(model, HieraMAE):
        raise ConversionError(f"{source} is of a masked autoencoder, which timm does not have; hf and released do")
    if target != "safetensors" and model.has_window_table:
        raise ConversionError(f"{source} has position embeddings in two tables, which {_PACKAGES[target]} cannot hold")
    if isinstance(model, HieraMAE) and (model.target != "pixel" or len(model.multi_scale_fusion_heads) == 1):
        raise ConversionError(f"{source} predicts {model.target}s: other packages predict pixels from fused stages")


def _require(target: str) -> None:
    if target not in _MODULES:
        return
    try:
        importlib.import_module(_MODULES[target])
    except ImportError as error:
        raise ModuleNotFoundError(
            f"what is written for {target} is verified with {_PACKAGES[target]}, which cannot be imported ({error}): "
            f"pip install {_PACKAGES[target]}"
        ) from error


def _get_stages(model: Model) -> list[int]:
    return [end - before for before, end in pairwise([-1, *model.stage_ends])]


def _get_arguments(model: Model) -> dict[str, Any]:
    """What the released package and timm call the same."""
    return {
        "embed_dim": model.widths[0],
        "num_heads": cast(HieraBlock, model.blocks[0]).attn.heads,
        "stages": _get_stages(model),
        "q_pool": model.q_pool,
    }


def _get_decoder_arguments(model: HieraMAE) -> dict[str, int]:
    return {
        "decoder_embed_dim": model.mask_token.shape[-1],
        "decoder_depth": len(model.decoder_blocks),
        "decoder_num_heads": model.decoder_num_heads,
    }


def _make_input(model: Model) -> Tensor:
    with seeded(_SEED):
        return torch.randn(2, model.in_chans, *model.input_size)


def _write_safetensors(model: Model, path: Path) -> None:
    safetensors.torch.save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def _run_safetensors(model: Model, path: Path) -> tuple[str, Tensor, Tensor]:
    read = read_checkpoint_file(path).weights
    ours = torch.cat([value.flatten() for value in model.state_dict().values()])
    return "values", ours, torch.cat([read[name].flatten() for name in model.state_dict()])


def _write_released(model: Model, path: Path) -> None:
    torch.save({"model_state": to_other_names(model.state_dict(), "released")}, path)


@torch.no_grad()
def _run_released(model: Model, path: Path) -> tuple[str, Tensor, Tensor]:
    hiera = importlib.import_module("hiera")
    arguments = _get_arguments(model) | {"input_size": model.input_size}
    if len(model.input_size) == 3:
        patch = model.patch_embed
        arguments |= {"q_stride": model.q_stride, "mask_unit_size": model.mask_unit_size, "sep_pos_embed": True}
        arguments |= {"patch_kernel": patch.kernel, "patch_stride": patch.stride, "patch_padding": patch.padding}
    state = torch.load(path, weights_only=True)["model_state"]
    x = _make_input(model)
    if isinstance(model, HieraMAE):
        theirs = hiera.hiera_mae.MaskedAutoencoderHiera(**arguments, **_get_decoder_arguments(model)).eval()
        theirs.load_state_dict(state, strict=True)
        with seeded(_SEED):
            mask = random_mask(len(x), model.num_mask_units, 0.6)
        return "predictions", model(x, mask=mask)[1], theirs(x, mask=mask)[1]
    theirs = hiera.Hiera(**arguments, num_classes=len(state["head.projection.bias"]))
    theirs.load_state_dict(state, strict=True)
    return "logits", model(x), theirs.train()(x)  # in eval mode the released head gives probabilities


def _make_hf_config(model: Model) -> Any:
    transformers = importlib.import_module("transformers")
    arguments = _get_arguments(model)
    config = {
        "embed_dim": arguments["embed_dim"],
        "num_heads": [arguments["num_heads"] * 2**stage for stage in range(len(model.stage_ends))],
        "depths": arguments["stages"],
        "num_query_pool": model.q_pool,
        "image_size": list(model.input_size),
    }
    if isinstance(model, HieraMAE):
        decoder = _get_decoder_arguments(model)
        config |= {"decoder_hidden_size": decoder.pop("decoder_embed_dim"), **decoder}
    else:
        config |= {"num_labels": model.head.projection.out_features}
    return transformers.HieraConfig(**config)


def _write_hf(model: Model, path: Path) -> None:
    transformers = importlib.import_module("transformers")
    is_mae = isinstance(model, HieraMAE)
    theirs = (transformers.HieraForPreTraining if is_mae else transformers.HieraForImageClassification)(
        _make_hf_config(model)
    )
    theirs.load_state_dict(to_other_names(model.state_dict(), "hf"), strict=True)
    theirs.save_pretrained(path)


@torch.no_grad()
def _run_hf(model: Model, path: Path) -> tuple[str, Tensor, Tensor]:
    transformers = importlib.import_module("transformers")
    x = _make_input(model)
    if not isinstance(model, HieraMAE):
        theirs = transformers.HieraForImageClassification.from_pretrained(path).eval()
        return "logits", model(x), theirs(x).logits
    theirs = transformers.HieraForPreTraining.from_pretrained(path).eval()
    with seeded(_SEED):
        noise = torch.rand(len(x), model.num_mask_units)
    num_keep = int(model.num_mask_units * (1 - theirs.config.mask_ratio))
    mask = torch.zeros_like(noise, dtype=torch.bool).scatter_(1, noise.argsort(dim=1)[:, :num_keep], True)
    pred, hidden = model.reconstruct(x, mask)
    logits = theirs(x, noise=noise).logits.view_as(pred)
    return "predictions", pred[hidden], logits[hidden]


def _write_timm(model: Model, path: Path) -> None:
    state = to_other_names(model.state_dict(), "timm")
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path)


@torch.no_grad()
def _run_timm(model: Model, path: Path) -> tuple[str, Tensor, Tensor]:
    timm = importlib.import_module("timm")
    state = safetensors.torch.load_file(path)
    num_classes = len(state["head.fc.bias"])
    theirs = timm.create_model(
        "hiera_base_224", img_size=model.input_size, num_classes=num_classes, **_get_arguments(model)
    ).eval()
    theirs.load_state_dict(state, strict=True)
    x = _make_input(model)
    return "logits", model(x), theirs(x)


_WAYS: dict[str, tuple[Callable[[Model, Path], None], Callable[[Model, Path], tuple[str, Tensor, Tensor]]]] = {
    "released": (_write_released, _run_released),
    "hf": (_write_hf, _run_hf),
    "timm": (_write_timm, _run_timm),
    "safetensors": (_write_safetensors, _run_safetensors),
}
