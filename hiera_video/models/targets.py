"""What MAE pre-training predicts for each token, and what it costs to be wrong: patches of pixels, HOG, losses.

A token stands for stride = (frames, height, width) of a video, or (height, width) of an image. Of a video only the
first frame of each token is predicted. P is the number of values of a patch.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

HOG_BINS = 9
HOG_CELL_PX = 8


def patchify(video: Tensor, stride: Sequence[int]) -> Tensor:
    """Cuts the first frame of each token into patches.

    Args:
        video: (B, C, T, H, W), or (B, C, H, W) for images; multiples of stride.
        stride: (frames, height, width) of a token, for images without frames.

    Returns:
        (B, T', H', W', P), for images (B, H', W', P). The P = height * width * C values of a patch are in the order
        (h, w, c) for a video and (c, h, w) for an image.

    Follows: the released code, whose weights know these two orders.
    """
    ph, pw = stride[-2:]
    if len(stride) == 2:
        x = video.unflatten(3, (-1, pw)).unflatten(2, (-1, ph))  # (B, C, H', ph, W', pw)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, H', W', C * ph * pw)
    x = video[:, :, :: stride[0]].unflatten(4, (-1, pw)).unflatten(3, (-1, ph))  # (B, C, T', H', ph, W', pw)
    return x.permute(0, 2, 3, 5, 4, 6, 1).flatten(4)  # (B, T', H', W', ph * pw * C)


def unpatchify(patches: Tensor, stride: Sequence[int]) -> Tensor:
    """Undoes `patchify`: (B, T', H', W', P) -> (B, C, T', H, W), one frame a token; (B, H', W', P) -> (B, C, H, W)."""
    ph, pw = stride[-2:]
    if len(stride) == 2:
        x = patches.unflatten(3, (-1, ph, pw)).permute(0, 3, 1, 4, 2, 5)  # (B, C, H', ph, W', pw)
        return x.flatten(4, 5).flatten(2, 3)  # (B, C, H, W)
    x = patches.unflatten(4, (ph, pw, -1)).permute(0, 6, 1, 2, 4, 3, 5)  # (B, C, T', H', ph, W', pw)
    return x.flatten(5, 6).flatten(3, 4)  # (B, C, T', H, W)


def normalize_patches(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gives each patch mean 0 and variance 1: (..., P) -> (..., P), its mean and its deviation, both (..., 1)."""
    mean = patches.mean(dim=-1, keepdim=True)
    std = (patches.var(dim=-1, keepdim=True) + 1e-6) ** 0.5
    return (patches - mean) / std, mean, std


def unnormalize_patches(patches: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Undoes `normalize_patches`."""
    return patches * std + mean


def paint_patches(video: Tensor, pred: Tensor, hidden: Tensor, stride: Sequence[int], *, normalized: bool) -> Tensor:
    """Puts predicted pixels into a video, in the place of hidden ones.

    Args:
        video: (B, C, T, H, W), or (B, C, H, W) for images; the true one.
        pred: (B, T', H', W', P), or without T', predicted pixels.
        hidden: (B, T', H', W') bool, or without T', where the predictions go.
        stride: see `patchify`.
        normalized: the predictions are of normalized patches; they get their true patch's mean and deviation.

    Returns:
        (B, C, T', H, W), the first frame of each token; (B, C, H, W) for images.

    Raises:
        ValueError: the predictions are not pixels of such patches.
    """
    patches = patchify(video, stride)
    if pred.shape != patches.shape:
        raise ValueError(f"pred must be pixels of shape {tuple(patches.shape)}, got {tuple(pred.shape)}")
    if normalized:
        _, mean, std = normalize_patches(patches)
        pred = unnormalize_patches(pred, mean, std)
    return unpatchify(torch.where(hidden[..., None], pred, patches), stride)


def compute_hog(frames: Tensor) -> Tensor:
    """Histograms of oriented gradients of single-channel frames.

    Gradients are Sobel's, of a frame that is reflected at its border. A cell's histogram adds up the lengths of its
    pixels' gradients by their direction, without sign, in 9 bins of 20 degrees from the vertical on, and is divided by
    its L2 norm.

    Args:
        frames: (..., H, W) float, multiples of 8.

    Returns:
        (..., H / 8, W / 8, 9).

    Follows: MaskFeat (arXiv 2112.09133) as SlowFast computes it, the paper's target in its table 3c: Dalal & Triggs'
        histograms (2005) without blocks of cells and without a Gaussian window.
    """
    height, width = frames.shape[-2:]
    padded = F.pad(frames.reshape(-1, 1, height, width), (1, 1, 1, 1), mode="reflect")
    padded = padded.view(*frames.shape[:-2], height + 2, width + 2)
    across = padded[..., 2:] - padded[..., :-2]  # (..., H + 2, W)
    down = padded[..., 2:, :] - padded[..., :-2, :]  # (..., H, W + 2)
    dx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    dy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    length = torch.hypot(dx, dy)
    bins = (torch.atan2(dx, dy) * (HOG_BINS / math.pi)).floor().remainder(HOG_BINS)
    cells = []
    for i in range(HOG_BINS):  # one bin at a time: no tensor of nine times the size, no sum in a random order
        x = torch.where(bins == i, length, 0)
        x = x.unflatten(-1, (-1, HOG_CELL_PX)).unflatten(-3, (-1, HOG_CELL_PX))  # (..., H / 8, 8, W / 8, 8)
        cells.append(x.sum(dim=(-3, -1)))
    return F.normalize(torch.stack(cells, dim=-1), dim=-1)


def compute_hog_patches(video: Tensor, stride: Sequence[int]) -> Tensor:
    """HOG of the first frame of each token, channel by channel, by patch.

    Args:
        video: (B, C, T, H, W), or (B, C, H, W) for images; multiples of stride.
        stride: see `patchify`; height and width multiples of 8.

    Returns:
        (B, T', H', W', P), for images (B, H', W', P), with P = cells down * cells across * 9 * C in this order.
    """
    is_image = len(stride) == 2
    frames = video[:, :, None] if is_image else video[:, :, :: stride[0]]  # (B, C, T', H, W)
    cells = compute_hog(frames)  # (B, C, T', H / 8, W / 8, 9)
    kh, kw = (size // HOG_CELL_PX for size in stride[-2:])
    x = cells.unflatten(4, (-1, kw)).unflatten(3, (-1, kh))  # (B, C, T', H', kh, W', kw, 9)
    x = x.permute(0, 2, 3, 5, 4, 6, 7, 1).flatten(4)  # (B, T', H', W', kh * kw * 9 * C)
    return x[:, 0] if is_image else x


def compute_contrastive_loss(pred: Tensor, label: Tensor, temperature: float) -> Tensor:
    """InfoNCE: each predicted patch should be nearer to its own true patch than to the clip's others.

    Args:
        pred: (B, n, P).
        label: (B, n, P), the true patches of the same places, each patch the negative of its clip's others.
        temperature: divides the cosine similarities.

    Returns:
        The mean cross entropy, a scalar.

    Differs: the paper does not use such a loss.
    """
    with torch.autocast(pred.device.type, enabled=False):  # bfloat16 similarities over 0.07 would be steps of 0.1
        similarity = F.normalize(pred.float(), dim=-1) @ F.normalize(label.float(), dim=-1).transpose(1, 2)  # (B, n, n)
        own = torch.arange(pred.shape[1], device=pred.device).expand(pred.shape[:2])  # (B, n)
        return F.cross_entropy((similarity / temperature).transpose(1, 2), own)
