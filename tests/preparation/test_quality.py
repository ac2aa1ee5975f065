"""PSNR and SSIM are those of scikit-image."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from video_factory import paint_number, write_video

from hiera_video.preparation.quality import compare_samples, compute_psnr_db, compute_ssim

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("noise", [1, 20, 90])
def test_numbers_are_those_of_scikit_image(noise):
    draw = np.random.default_rng(noise)
    first = np.kron(draw.integers(0, 256, (6, 8, 3)), np.ones((9, 9, 1))).astype(np.uint8)
    second = np.clip(first + draw.normal(0, noise, first.shape), 0, 255).astype(np.uint8)
    assert compute_psnr_db(first, second) == pytest.approx(peak_signal_noise_ratio(first, second))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    assert compute_ssim(first, second) == pytest.approx(structural_similarity(first @ LUMA, second @ LUMA, **options))


def test_equal_pictures():
    picture = paint_number(5)
    assert compute_psnr_db(picture, picture) == 100 and compute_ssim(picture, picture) == pytest.approx(1)


def test_tiny_pictures_have_a_similarity_too():
    picture = paint_number(5)[:8, :20]
    assert compute_ssim(picture, picture) == pytest.approx(1) and compute_ssim(picture, 255 - picture) < 0.9


def test_samples_are_compared_at_the_size_of_the_video(tmp_path):
    """Frames of the source are scaled down; another frame of the same video is far from alike."""
    write_video(tmp_path / "a.mkv", codec="ffv1", pix_fmt="yuv444p", num_frames=4)
    large = {number: paint_number(number, width=192, height=128) for number in range(4)}
    psnr_db, ssim = compare_samples(str(tmp_path / "a.mkv"), {1: large[1], 3: large[3]})
    assert psnr_db > 30 and ssim > 0.9
    worse_db, worse = compare_samples(str(tmp_path / "a.mkv"), {1: large[2], 3: large[0]})
    assert worse_db < 20 and worse < ssim - 0.2
