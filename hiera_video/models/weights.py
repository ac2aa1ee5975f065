"""Weights from files: reads them safely and fits them to a model of another size, class count or input kind."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hiera_video.models.checkpoint_file import CheckpointFile, read_checkpoint_file
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.hiera_mae import HieraMAE
from hiera_video.models.position_embeddings import RESIZE_KINDS, join_windows, resize_by_windows, resize_table
from hiera_video.models.recognize import describe_weights
from hiera_video.utils.logging import get_logger

_logger = get_logger(__name__)

_DECODER_PREFIXES = ("decoder_", "mask_token", "multi_scale_fusion_heads", "encoder_norm")
_HEAD = ("head.projection.weight", "head.projection.bias")
_ENCODER_PREFIXES = ("patch_embed.", "pos_embed", "blocks.")
# Below this share of an encoder's values, weights are of another model, or damaged.
_MIN_ENCODER_SHARE = 0.9


@dataclass
class LoadReport:
    """What `load_weights` did, by parameter name; `str()` gives a few lines for a person.

    Attributes:
        source: the path or URL.
        format: whose names the file has, see `foreign_weights.recognize_format`.
        loaded: taken from the file, those of `resized` and `inflated` included.
        resized: position embeddings that were interpolated to another grid.
        inflated: made for video from an image checkpoint.
        ignored: parameters of the model that the caller does not need; these keep their values.
        dropped: in the file, not taken: a head of another class count.
        dropped_decoder: in the file, not taken: what only MAE pre-training needs.
        missing: not in the file; these keep their values.
        unexpected: in the file, unknown to the model.
    """

    source: str
    format: str = "hiera"
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    dropped_decoder: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        whose = "" if self.format == "hiera" else f", under the names of {self.format}"
        lines = [f"{self.source}: loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors{whose}"]
        for title in ("resized", "inflated", "dropped", "missing", "unexpected"):
            names = getattr(self, title)
            if names:
                more = f", ... ({len(names)} in all)" if len(names) > 6 else ""
                lines.append(f"  {title}: {', '.join(names[:6])}{more}")
        if self.dropped_decoder:
            lines.append(f"  dropped: {len(self.dropped_decoder)} tensors of the MAE decoder")
        return "\n".join(lines)


def load_weights(
    model: HieraEncoder,
    path: str | os.PathLike[str] | CheckpointFile,
    *,
    source_grid: Sequence[int] | None = None,
    pos_embed_resize: str = "bicubic",
    allow_partial: bool = False,
    ignore: Sequence[str] = (),
) -> LoadReport:
    """Loads a file's weights into a model as far as they fit, and says how far that is.

    - Position embeddings of another size are interpolated: in space bicubic, in time linear.
    - A head of another class count is dropped, with a warning in the log.
    - An image checkpoint is inflated for a video model: the patch kernel is spread evenly over the frames of its token,
      the spatial position embedding is the image's, the temporal one zero. A video that stands still then gives exactly
      the image model's features. (A kernel of 3 frames, stride 2, padding 1 gets weights in its last two taps: the
      first looks at the frame before the token, which for the first token is padding.) So is an autoencoder: a still
      video with a tube mask gives the image model's predictions.
    - The decoder of an MAE checkpoint is left out of a classifier.
    - timm's, Hugging Face's and SAM2's weights are converted, see `foreign_weights`.

    Either everything that fits is loaded or, when an error is raised, nothing.

    Args:
        model: gets the weights in place.
        path: local file or URL, in any form that `read_checkpoint_file` knows; or a file that it has already read.
        source_grid: tokens per side, (T', H', W') or (H', W'), of the model whose weights these are; needed only when
            its spatial grid is not square and the file does not say it under the key `tokens_grid`.
        pos_embed_resize: how spatial position embeddings are interpolated: "bicubic", or "absolute_win", which keeps
            aligned with mask units what repeats in each, see `position_embeddings.resize_by_windows`.
        allow_partial: also take weights that fill less than 90 % of the encoder's values.
        ignore: beginnings of names; parameters with such a name are left as they are, whatever the file has for them.

    Raises:
        FileNotFoundError: no such file, or a URL that cannot be fetched.
        ValueError: not a checkpoint, or one that only unsafe unpickling could read; a shape that fits neither as it is
            nor by one of the ways above; a value that is not finite; no tensor for this model at all, or too few; a
            decoder of another number of heads; SAM2's weights at a size where their attention is not Hiera's.
    """
    if pos_embed_resize not in RESIZE_KINDS:
        raise ValueError(f"pos_embed_resize must be one of {', '.join(RESIZE_KINDS)}, got {pos_embed_resize!r}")
    file = path if isinstance(path, CheckpointFile) else read_checkpoint_file(path)
    report = LoadReport(file.source, file.format)
    target = {name: value for name, value in model.state_dict().items() if not name.startswith(tuple(ignore))}
    report.ignored = [name for name in model.state_dict() if name not in target]
    state = {name: value for name, value in file.weights.items() if not name.startswith(tuple(ignore))}
    if not any(name in target for name in state):
        raise ValueError(
            f"{file.source} holds no weights of this model; it has {', '.join(list(file.weights)[:5])} ..."
        )
    _drop_decoder(state, target, report)
    _drop_other_head(state, target, report)
    _check_decoder_heads(state, model, file)
    _join_two_tables(state, model, file)
    _inflate(state, target, model, report)
    _resize_pos_embeds(state, target, model, source_grid or file.tokens_grid, pos_embed_resize, report)
    _check_values(state, target, model, file)
    report.loaded = [name for name in target if name in state]
    report.missing = [name for name in target if name not in state]
    report.unexpected = [name for name in state if name not in target]
    if not allow_partial:
        _check_share(target, report, model, file)

    model.load_state_dict(state, strict=False)
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


def _check_decoder_heads(state: dict[str, Tensor], model: HieraEncoder, file: CheckpointFile) -> None:
    """Another number of heads gives other predictions from the same shapes, without any sign of it."""
    if not isinstance(model, HieraMAE) or "mask_token" not in state:
        return
    if file.decoder_num_heads is None:
        _logger.warning(
            "%s does not say how many heads its decoder has; the model takes %d (MAE.DECODER_NUM_HEADS). The released "
            "code has 16, the paper says 8 for video; `hiera-video check-mae-heads` decides by the loss on your videos",
            file.source,
            model.decoder_num_heads,
        )
    elif file.decoder_num_heads != model.decoder_num_heads:
        raise ValueError(
            f"{file.source} has a decoder of {file.decoder_num_heads} heads, the model one of {model.decoder_num_heads}"
            f"; set MAE.DECODER_NUM_HEADS {file.decoder_num_heads}"
        )


def _join_two_tables(state: dict[str, Tensor], model: HieraEncoder, file: CheckpointFile) -> None:
    """Fits embeddings that were trained in two parts to a model with one table."""
    has_two_parts = "pos_embed_window" in state
    if file.format == "sam2":
        _check_sam2_size(state, model, file)
    if has_two_parts == model.has_window_table:
        return
    if not has_two_parts:
        raise ValueError(
            f"{file.source} has position embeddings in one table, which cannot be parted exactly into the two of a "
            "model with HIERA.POS_EMBED_WINDOW; leave that off, and set MODEL.POS_EMBED_RESIZE absolute_win"
        )
    table, pattern = state.pop("pos_embed_global"), state.pop("pos_embed_window")
    side = math.isqrt(table.shape[1])
    name = "pos_embed_spatial" if "pos_embed_temporal" in state else "pos_embed"
    state[name] = join_windows(
        table,
        pattern,
        table_grid=(side, side),
        grid=model.tokens_grid[-2:],
        window=model.mask_unit_size[-2:],
        antialias=file.format != "sam2",
    )


def _check_sam2_size(state: dict[str, Tensor], model: HieraEncoder, file: CheckpointFile) -> None:
    """SAM2 attends in windows: the model does too, or one window covers all of it."""
    units = 8 if len(state["patch_embed.proj.weight"]) == 144 else 7  # per side of a window; of SAM2-L 8
    grid = model.mask_units_grid[-2:]
    if model.attn_window_units == (units, units) or (grid == (units, units) and not model.attn_window_units):
        return
    raise ValueError(
        f"{file.source} is SAM2's: its attention in stages 3 and 4 stays inside windows of {units} x {units} mask "
        f"units. That is global attention only at {32 * units} x {32 * units} px; the model has input_size "
        f"{model.input_size} and attn_window_units {model.attn_window_units}. Set that crop size, or, for multiples of "
        f"it, HIERA.ATTN_WINDOW_UNITS [{units}, {units}] and HIERA.GLOBAL_BLOCKS as SAM2 has them (T 5 7 9, S 7 10 13, "
        "B+ 12 16 20, L 23 33 43)"
    )


def _inflate(state: dict[str, Tensor], target: dict[str, Tensor], model: HieraEncoder, report: LoadReport) -> None:
    """Makes weights of an image model those of a video model."""
    name = "patch_embed.proj.weight"
    if name not in state or name not in target or state[name].ndim != 4 or target[name].ndim != 5:
        return
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
        report.inflated.append("pos_embed_spatial")
    if model.sep_pos_embed and "pos_embed_temporal" in target:
        state["pos_embed_temporal"] = torch.zeros_like(target["pos_embed_temporal"], device="cpu")
        report.inflated.append("pos_embed_temporal")
    if isinstance(model, HieraMAE):
        _inflate_decoder(state, target, model, report)


def _inflate_decoder(state: dict[str, Tensor], target: dict[str, Tensor], model: HieraMAE, report: LoadReport) -> None:
    inflated = {}
    for name in [name for name in state if name.startswith("multi_scale_fusion_heads.") and state[name].ndim == 4]:
        num_frames = target[name].shape[2] if name in target else 1
        inflated[name] = state[name][:, :, None].expand(-1, -1, num_frames, -1, -1) / num_frames
    if "decoder_pos_embed" in state:  # the same in each frame
        inflated["decoder_pos_embed"] = state["decoder_pos_embed"].repeat(1, model.pred_grid[0], 1)
    if model.target == "pixel":  # values of a patch are in the order (c, h, w) for images, (h, w, c) for videos
        for name in [name for name in ("decoder_pred.weight", "decoder_pred.bias") if name in state]:
            sides = (model.in_chans, *model.pred_stride[-2:])
            if len(state[name]) == math.prod(sides):
                inflated[name] = state[name].unflatten(0, sides).movedim(0, 2).flatten(0, 2)
    state |= inflated
    report.inflated += inflated


def _resize_pos_embeds(
    state: dict[str, Tensor],
    target: dict[str, Tensor],
    model: HieraEncoder,
    source_grid: Sequence[int] | None,
    kind: str,
    report: LoadReport,
) -> None:
    """Interpolates the tables of state whose grid is not the model's.

    Args:
        source_grid: tokens per side before any pooling, where it is known.
        kind: see `load_weights`.
    """
    num_frames = state["pos_embed_temporal"].shape[1] if "pos_embed_temporal" in state else None
    grids = model.pos_embed_grids | ({"decoder_pos_embed": model.pred_grid} if isinstance(model, HieraMAE) else {})
    for name, new in grids.items():
        is_temporal = name == "pos_embed_temporal"
        if name not in state or name not in target or (is_temporal and name in report.inflated):
            continue
        if state[name].ndim != 3 or state[name].shape[-1] != target[name].shape[-1]:
            continue  # another width: the comparison of shapes will name it
        given = source_grid
        if name == "decoder_pos_embed" and isinstance(model, HieraMAE) and source_grid is not None:
            pooled = [n // s**model.q_pool for n, s in zip(source_grid[-2:], model.q_stride[-2:], strict=True)]
            frames = [num_frames] if num_frames else list(source_grid[:-2])
            given = (*frames, *pooled) if len(new) == 3 else pooled
        old = _compute_source_grid(name, state[name].shape[1], new, given, report.source, num_frames)
        if old == new:
            continue
        is_windowed = kind == "absolute_win" and name in ("pos_embed", "pos_embed_spatial") and len(new) == 2
        if is_windowed:
            state[name] = resize_by_windows(state[name], old, new, model.mask_unit_size[-2:])
        else:
            state[name] = resize_table(state[name], old, new)
        report.resized.append(name)


def _compute_source_grid(
    name: str,
    num_tokens: int,
    new: tuple[int, ...],
    given: Sequence[int] | None,
    source: str,
    num_frames: int | None,
) -> tuple[int, ...]:
    """The grid of a table of the file; ``num_frames`` tokens in time, where it is known."""
    if given is not None and name not in ("pos_embed_global", "pos_embed_window"):  # of the same size everywhere
        grid = tuple(given[:1]) if name == "pos_embed_temporal" else tuple(given[-len(new) :])
    elif num_tokens == math.prod(new) and (len(new) < 3 or num_frames in (None, new[0])):
        grid = new
    elif len(new) == 1:
        grid = (num_tokens,)
    else:
        frames = (num_frames,) if len(new) == 3 and num_frames else ()
        side = math.isqrt(num_tokens // math.prod(frames))
        grid = (*frames, side, side)
    if math.prod(grid) != num_tokens or len(grid) != len(new):
        hint = "pass source_grid" if given is None else f"source_grid {tuple(given)} does not fit"
        raise ValueError(f"{source}: {name} has {num_tokens} tokens of an unknown grid, the model's is {new}; {hint}")
    return grid


def _check_values(
    state: dict[str, Tensor], target: dict[str, Tensor], model: HieraEncoder, file: CheckpointFile
) -> None:
    for name in target:
        if name in state and state[name].shape != target[name].shape:
            raise ValueError(
                f"{file.source}: {name} has shape {tuple(state[name].shape)}, the model needs "
                f"{tuple(target[name].shape)}; {_compare(file, model)}"
            )
        if name in state and not state[name].isfinite().all():
            raise ValueError(
                f"{file.source}: {name} has values that are not finite: training had gone astray before it"
            )


def _check_share(target: dict[str, Tensor], report: LoadReport, model: HieraEncoder, file: CheckpointFile) -> None:
    sizes = {name: value.numel() for name, value in target.items() if name.startswith(_ENCODER_PREFIXES)}
    share = sum(sizes[name] for name in report.loaded if name in sizes) / max(sum(sizes.values()), 1)
    if share < _MIN_ENCODER_SHARE:
        missing = [name for name in report.missing if name in sizes]
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise ValueError(
            f"{file.source} fills {share:.1%} of the encoder, less than {_MIN_ENCODER_SHARE:.0%}: missing "
            f"{', '.join(missing[:4])}{more}; {_compare(file, model)}. To train from it all the same, set "
            "TRAIN.ALLOW_PARTIAL True (allow_partial=True)"
        )


def _compare(file: CheckpointFile, model: HieraEncoder) -> str:
    return f"the file seems to be {describe_weights(file.weights)}, the model is {describe_weights(model.state_dict())}"
