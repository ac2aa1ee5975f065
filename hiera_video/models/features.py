"""Features of clips from any depth of a model."""

from __future__ import annotations

from torch import Tensor

from hiera_video.models.encoder import HieraEncoder

POOLED = "pooled"


def compute_features(model: HieraEncoder, video: Tensor, layer: str = POOLED) -> Tensor:
    """Features of one layer.

    Args:
        model: a classifier or a `HieraMAE`.
        video: (B, C, T, H, W) float, normalized.
        layer: "pooled", the normed mean over the last stage's tokens, as the head sees it: (B, D); "stageN", the mean
            over the tokens of stage N = 1, 2, ...: (B, D of that stage); "mapN", its feature map in spatial order:
            (B, T', H', W', D of that stage).

    Raises:
        ValueError: no such layer.
    """
    if layer == POOLED:
        return model.forward_features(video)
    kind, stage = _parse(model, layer)
    feature_map = model.forward_maps(video)[stage]  # (B, T', H', W', D)
    return feature_map.flatten(1, -2).mean(dim=1) if kind == "stage" else feature_map


def get_feature_shape(model: HieraEncoder, layer: str = POOLED) -> tuple[int, ...]:
    """Shape of `compute_features` without the batch: (D,) or (T', H', W', D).

    Raises:
        ValueError: no such layer.
    """
    if layer == POOLED:
        return (model.widths[-1],)
    kind, stage = _parse(model, layer)
    pools = min(stage, model.q_pool)
    grid = tuple(tokens // stride**pools for tokens, stride in zip(model.tokens_grid, model.q_stride, strict=True))
    return (model.widths[stage],) if kind == "stage" else (*grid, model.widths[stage])


def _parse(model: HieraEncoder, layer: str) -> tuple[str, int]:
    kinds = {f"{kind}{stage + 1}": (kind, stage) for kind in ("stage", "map") for stage in range(len(model.stage_ends))}
    if layer not in kinds:
        raise ValueError(f"layer is {layer!r}; legal are {POOLED}, {', '.join(kinds)}")
    return kinds[layer]
