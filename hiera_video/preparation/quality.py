"""How near the pictures of a prepared video are to those of its source."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from hiera_video.video import VideoReader

_PEAK = 255.0
_MAX_PSNR_DB = 100.0  # of equal pictures, whose PSNR is infinite
_SIGMA_PX, _TRUNCATE = 1.5, 3.5  # a window of 11 px
_LUMA = np.array([0.299, 0.587, 0.114])


def compute_psnr_db(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures, uint8 of the same shape, in dB; 100 if they are equal."""
    error = np.square(first.astype(np.float64) - second.astype(np.float64)).mean()
    return float(min(10 * np.log10(_PEAK**2 / error), _MAX_PSNR_DB)) if error else _MAX_PSNR_DB


def compute_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of the luma of two pictures, uint8 RGB (H, W, 3); 1 if equal.

    As in the original, only places whose whole window lies in the picture count; with a side below 11 px, all do.

    Follows: Wang et al., Image Quality Assessment (2004): Gaussian windows of 11 px with a deviation of 1.5 px, K1 =
        0.01, K2 = 0.03.
    """
    x, y = (picture.astype(np.float64) @ _LUMA for picture in (first, second))  # (H, W)

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, _SIGMA_PX, truncate=_TRUNCATE)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    border = int(_TRUNCATE * _SIGMA_PX + 0.5)
    if min(similarity.shape) <= 2 * border:
        return float(similarity.mean())
    return float(similarity[border:-border, border:-border].mean())


def compare_samples(path: str, samples: Mapping[int, np.ndarray]) -> tuple[float, float]:
    """Means of PSNR (dB) and SSIM of some frames of a prepared video.

    Args:
        path: of the prepared video.
        samples: position -> the same frame of the source, uint8 RGB (H, W, 3). A larger one is first scaled down by
            Pillow's bicubic filter, or cut where its sides are odd.
    """
    positions = sorted(samples)
    with VideoReader(path) as reader:
        frames = reader.get_frames(positions).numpy()
    pairs = [(_fit(samples[i], frame.shape), frame) for i, frame in zip(positions, frames, strict=True)]
    psnr_db = np.mean([compute_psnr_db(*pair) for pair in pairs])
    return float(psnr_db), float(np.mean([compute_ssim(*pair) for pair in pairs]))


def _fit(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape[:2]
    if abs(picture.shape[0] - height) <= 1 and abs(picture.shape[1] - width) <= 1:
        return picture[:height, :width]
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
