"""Weights from files: reads them safely and fits them to a model of another size, class count or input kind."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_video.models.checkpoint_file import CheckpointFile, read_checkpoint_file
from hiera_video.models.encoder import HieraEncoder
from hiera_video.utils.logging import get_logger

_logger = get_logger(__name__)

_DECODER_PREFIXES = ("decoder_", "mask_token", "multi_scale_fusion_heads", "encoder_norm")
_HEAD = ("head.projection.weight", "head.projection.bias")


@dataclass
class LoadReport:
    """What `load_weights` did, by parameter name; `str()` gives a few lines for a person.

    Attributes:
        source: the path or URL.
        loaded: taken from the file, those of `resized` and `inflated` included.
        resized: position embeddings that were interpolated to another grid.
        inflated: made for video from an image checkpoint.
        dropped: in the file, not taken: a head of another class count.
        dropped_decoder: in the file, not taken: what only MAE pre-training needs.
        missing: not in the file; these keep their values.
        unexpected: in the file, unknown to the model.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    dropped_decoder: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors"]
        for title in ("resized", "inflated", "dropped", "missing", "unexpected"):
            names = getattr(self, title)
            if names:
                more = f", ... ({len(names)} in all)" if len(names) > 6 else ""
                lines.append(f"  {title}: {', '.join(names[:6])}{more}")
        if self.dropped_decoder:
            lines.append(f"  dropped: {len(self.dropped_decoder)} tensors of the MAE decoder")
        return "\n".join(lines)


def load_weights(
    model: HieraEncoder, path: str | os.PathLike[str] | CheckpointFile, *, source_grid: Sequence[int] | None = None
) -> LoadReport:
    """Loads a file's weights into a model as far as they fit, and says how far that is.

    - Position embeddings of another size are interpolated: in space bicubic, in time linear.
    - A head of another class count is dropped, with a warning in the log.
    - An image checkpoint is inflated for a video model: the patch kernel is spread evenly over the frames of its token,
      the spatial position embedding is the image's, the temporal one zero. A video that stands still then gives exactly
      the image model's features. (A kernel of 3 frames, stride 2, padding 1 gets weights in its last two taps: the
      first looks at the frame before the token, which for the first token is padding.)
    - The decoder of an MAE checkpoint is left out.

    Either everything that fits is loaded or, when an error is raised, nothing.

    Args:
        model: gets the weights in place.
        path: local file or URL, in any form that `read_checkpoint_file` knows; or a file that it has already read.
        source_grid: tokens per side, (T', H', W') or (H', W'), of the model whose weights these are; needed only when
            its spatial grid is not square and the file does not say it under the key `tokens_grid`.

    Raises:
        FileNotFoundError: no such file, or a URL that cannot be fetched.
        ValueError: not a checkpoint, or one that only unsafe unpickling could read; a shape that fits neither as it is
            nor by one of the ways above; a value that is not finite; no tensor for this model at all.
    """
    file = path if isinstance(path, CheckpointFile) else read_checkpoint_file(path)
    state, source = dict(file.weights), file.source
    report = LoadReport(source)
    target = model.state_dict()
    if not any(name in target for name in state):
        raise ValueError(f"{source} holds no weights of this model; it has {', '.join(list(state)[:5])} ...")

    _drop_decoder(state, target, report)
    _drop_other_head(state, target, report)
    _inflate(state, target, model, report)
    _resize_pos_embeds(state, target, model, source_grid or file.tokens_grid, report)
    for name in target:
        if name in state and state[name].shape != target[name].shape:
            raise ValueError(
                f"{source}: {name} has shape {tuple(state[name].shape)}, the model needs {tuple(target[name].shape)}"
            )
        if name in state and not state[name].isfinite().all():
            raise ValueError(f"{source}: {name} has values that are not finite: training had gone astray before it")

    model.load_state_dict(state, strict=False)
    report.loaded = [name for name in target if name in state]
    report.missing = [name for name in target if name not in state]
    report.unexpected = [name for name in state if name not in target]
    return report


def _drop_decoder(state: dict[str, Tensor], target: dict[str, Tensor], report: LoadReport) -> None:
    for name in [name for name in state if name.startswith(_DECODER_PREFIXES) and name not in target]:
        del state[name]
        report.dropped_decoder.append(name)


def _drop_other_head(state: dict[str, Tensor], target: dict[str, Tensor], report: LoadReport) -> None:
    weight = _HEAD[0]
    if weight not in state or weight not in target or len(state[weight]) == len(target[weight]):
        return
    _logger.warning(
        "%s: head for %d classes dropped, the model has %d", report.source, len(state[weight]), len(target[weight])
    )
    for name in [name for name in _HEAD if name in state]:
        del state[name]
        report.dropped.append(name)


def _inflate(state: dict[str, Tensor], target: dict[str, Tensor], model: HieraEncoder, report: LoadReport) -> None:
    name = "patch_embed.proj.weight"
    if name in state and state[name].ndim == 4 and target[name].ndim == 5:
        patch = model.patch_embed
        # Output t sees the frames stride * t - padding + tap: these taps are the token's own frames, never padding.
        taps = range(patch.padding[0], min(patch.padding[0] + patch.stride[0], patch.kernel[0]))
        image = state[name]  # (D, C, kh, kw)
        video = image.new_zeros(*image.shape[:2], patch.kernel[0], *image.shape[2:])  # (D, C, kt, kh, kw)
        video[:, :, taps.start : taps.stop] = image[:, :, None] / len(taps)
        state[name] = video
        report.inflated.append(name)
    if "pos_embed" in state and model.sep_pos_embed:
        state["pos_embed_spatial"] = state.pop("pos_embed")
        state["pos_embed_temporal"] = torch.zeros_like(target["pos_embed_temporal"], device="cpu")
        report.inflated += ["pos_embed_spatial", "pos_embed_temporal"]


def _resize_pos_embeds(
    state: dict[str, Tensor],
    target: dict[str, Tensor],
    model: HieraEncoder,
    source_grid: Sequence[int] | None,
    report: LoadReport,
) -> None:
    for name in [name for name in model.pos_embed_names if name in state]:
        is_temporal = name == "pos_embed_temporal"
        if is_temporal and name in report.inflated:
            continue
        if state[name].ndim != 3 or state[name].shape[-1] != target[name].shape[-1]:
            continue  # another width: the comparison of shapes will name it
        new = model.tokens_grid
        if model.sep_pos_embed:
            new = new[:1] if is_temporal else new[1:]
        old = _compute_source_grid(name, state[name].shape[1], new, source_grid, report.source)
        if old != new:
            state[name] = _interpolate(state[name], old, new)
            report.resized.append(name)


def _compute_source_grid(
    name: str, num_tokens: int, new: tuple[int, ...], given: Sequence[int] | None, source: str
) -> tuple[int, ...]:
    if given is not None:
        grid = tuple(given[:1]) if name == "pos_embed_temporal" else tuple(given[-len(new) :])
    elif num_tokens == math.prod(new):
        grid = new
    elif len(new) == 1:
        grid = (num_tokens,)
    else:
        side = math.isqrt(num_tokens)
        grid = (side, side) if len(new) == 2 else ()
    if math.prod(grid) != num_tokens or len(grid) != len(new):
        hint = "pass source_grid" if given is None else f"source_grid {tuple(given)} does not fit"
        raise ValueError(f"{source}: {name} has {num_tokens} tokens of an unknown grid, the model's is {new}; {hint}")
    return grid


def _interpolate(table: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """(1, prod(old), D) -> (1, prod(new), D); time linear, space bicubic (antialiased where it shrinks)."""
    x = table.float().transpose(1, 2).unflatten(2, old)  # (1, D, [T',] H', W')
    if len(old) != 2 and old[0] != new[0]:
        steps = x.flatten(3).transpose(2, 3) if len(old) == 3 else x[:, :, None]  # (1, D, H' * W' or 1, T')
        steps = F.interpolate(steps.flatten(1, 2), size=new[0], mode="linear")  # (1, D * ..., T' new)
        x = steps.view(1, x.shape[1], -1, new[0]).transpose(2, 3).reshape(1, x.shape[1], new[0], *old[1:])
    if len(old) != 1 and old[-2:] != new[-2:]:
        maps = x.transpose(1, 2).flatten(0, 1) if len(old) == 3 else x  # (T' or 1, D, H', W')
        maps = F.interpolate(maps, size=new[-2:], mode="bicubic", antialias=True)  # (T' or 1, D, H' new, W' new)
        x = maps.unflatten(0, (1, -1)).transpose(1, 2)  # (1, D, T' or 1, H' new, W' new)
    return x.flatten(2).transpose(1, 2).to(table.dtype).contiguous()  # (1, prod(new), D)
