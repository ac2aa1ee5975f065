import itertools
import math

import numpy as np
import pytest
import torch

from hiera_video.models.targets import (
    compute_contrastive_loss,
    compute_hog,
    compute_hog_patches,
    normalize_patches,
    paint_patches,
    patchify,
    unnormalize_patches,
    unpatchify,
)

VIDEO_STRIDE, IMAGE_STRIDE = (2, 4, 6), (4, 6)


def make_video(seed=0, shape=(2, 3, 4, 8, 12)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_patches_of_a_video_are_of_first_frames_with_the_channel_last():
    video = make_video()
    patches = patchify(video, VIDEO_STRIDE)
    assert patches.shape == (2, 2, 2, 2, 4 * 6 * 3)
    for b, t, i, j in itertools.product(range(2), repeat=4):
        values = [video[b, c, 2 * t, 4 * i + h, 6 * j + w].item() for h in range(4) for w in range(6) for c in range(3)]
        assert patches[b, t, i, j].tolist() == values


def test_patches_of_an_image_have_the_channel_first():
    image = make_video()[:, :, 0]
    patches = patchify(image, IMAGE_STRIDE)
    assert patches.shape == (2, 2, 2, 3 * 4 * 6)
    for b, i, j in itertools.product(range(2), repeat=3):
        values = [image[b, c, 4 * i + h, 6 * j + w].item() for c in range(3) for h in range(4) for w in range(6)]
        assert patches[b, i, j].tolist() == values


def test_unpatchify_is_the_exact_inverse():
    video = make_video()
    assert torch.equal(unpatchify(patchify(video, VIDEO_STRIDE), VIDEO_STRIDE), video[:, :, ::2])
    image = video[:, :, 0]
    assert torch.equal(unpatchify(patchify(image, IMAGE_STRIDE), IMAGE_STRIDE), image)


def test_patches_are_normalized_by_their_own_unbiased_variance_and_back():
    patches = make_video(shape=(2, 3, 5)) * 7 + 3
    normed, mean, std = normalize_patches(patches)
    for b, n in itertools.product(range(2), range(3)):
        values = patches[b, n].tolist()
        m = sum(values) / 5
        deviation = math.sqrt(sum((v - m) ** 2 for v in values) / 4 + 1e-6)
        assert mean[b, n].item() == pytest.approx(m, rel=1e-5)
        assert std[b, n].item() == pytest.approx(deviation, rel=1e-5)
        assert normed[b, n].tolist() == pytest.approx([(v - m) / deviation for v in values], rel=1e-4, abs=1e-5)
    torch.testing.assert_close(unnormalize_patches(normed, mean, std), patches)
    flat, _, std = normalize_patches(torch.full((1, 5), 0.25))
    assert flat.abs().max() == 0 and std.item() == pytest.approx(1e-3)


@pytest.mark.parametrize("is_image", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_painting_puts_predictions_into_hidden_places_alone(is_image, normalized):
    video, stride = (make_video()[:, :, 0], IMAGE_STRIDE) if is_image else (make_video(), VIDEO_STRIDE)
    frames = video if is_image else video[:, :, ::2]
    patches = patchify(video, stride)
    hidden = torch.zeros(patches.shape[:-1], dtype=torch.bool)
    hidden[0, ..., 0, 1] = True
    truth = normalize_patches(patches)[0] if normalized else patches
    torch.testing.assert_close(paint_patches(video, truth, hidden, stride, normalized=normalized), frames)
    painted = paint_patches(video, torch.zeros_like(patches), hidden, stride, normalized=normalized)
    assert torch.equal(painted[1], frames[1])
    assert torch.equal(painted[0, ..., 4:, :], frames[0, ..., 4:, :])
    assert torch.equal(painted[0, ..., :4, :6], frames[0, ..., :4, :6])
    mean = patches[0, ..., 0, 1, :].mean(dim=-1)  # what 0 stands for in a normalized patch
    expected = (mean if normalized else torch.zeros_like(mean)).reshape(1, -1, 1, 1)
    got = painted[0, ..., :4, 6:].reshape(3, -1, 4, 6)
    torch.testing.assert_close(got, expected.expand_as(got))
    with pytest.raises(ValueError, match="pred must be pixels of shape"):
        paint_patches(video, patches[..., 1:], hidden, stride, normalized=normalized)


def compute_naive_hog(frame):
    """Pixel by pixel, with SlowFast's Sobel kernels: (H, W) -> {(cell row, cell column): nine values}."""
    height, width = frame.shape
    kernel = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
    cells = {(i, j): [0.0] * 9 for i in range(height // 8) for j in range(width // 8)}

    def reflect(place, size):
        return -place if place < 0 else 2 * (size - 1) - place if place >= size else place

    for y, x in itertools.product(range(height), range(width)):
        gx = gy = 0.0
        for i, j in itertools.product(range(3), range(3)):
            value = frame[reflect(y + i - 1, height), reflect(x + j - 1, width)].item()
            gx, gy = gx + kernel[i][j] * value, gy + kernel[j][i] * value
        cells[y // 8, x // 8][math.floor(math.atan2(gx, gy) / math.pi * 9) % 9] += math.hypot(gx, gy)
    return {key: [v / max(math.hypot(*values), 1e-12) for v in values] for key, values in cells.items()}


def test_hog_equals_a_loop_over_pixels():
    frame = make_video(shape=(16, 24))
    got = compute_hog(frame)
    assert got.shape == (2, 3, 9)
    for (i, j), values in compute_naive_hog(frame).items():
        assert got[i, j].tolist() == pytest.approx(values, abs=1e-5)


def test_hog_is_made_of_scikit_images_gradients():
    """scikit-image's own HOG has other gradients; its Sobel filter is a quarter of SlowFast's."""
    filters = pytest.importorskip("skimage.filters")
    frame = make_video(shape=(32, 24)).double()
    dy, dx = (filters.sobel(frame.numpy(), axis=axis, mode="mirror") for axis in (0, 1))
    bins = np.floor(np.arctan2(dx, dy) / np.pi * 9).astype(int) % 9
    got = compute_hog(frame)
    for i, j in itertools.product(range(4), range(3)):
        cell = np.s_[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
        counts = np.bincount(bins[cell].ravel(), weights=np.hypot(dx, dy)[cell].ravel(), minlength=9)
        assert got[i, j].tolist() == pytest.approx((counts / np.linalg.norm(counts)).tolist(), abs=1e-9)


def test_hog_knows_the_direction_but_not_the_sign_or_the_contrast():
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    for degrees in (5, 33, 97, 171):
        ramp = math.cos(math.radians(degrees)) * x + math.sin(math.radians(degrees)) * y
        expected = torch.zeros(9)
        expected[(90 - degrees) // 20 % 9] = 1  # counted from the vertical on
        for frame in (ramp, -ramp, ramp * 100):
            torch.testing.assert_close(compute_hog(frame)[1, 1], expected)
    assert compute_hog(torch.full((8, 8), 3.0)).abs().max() == 0


def test_hog_patches_hold_their_cells_bins_and_channels():
    video = make_video(shape=(1, 2, 4, 32, 32))
    patches = compute_hog_patches(video, (2, 16, 16))
    assert patches.shape == (1, 2, 2, 2, 2 * 2 * 9 * 2)
    image_patches = compute_hog_patches(video[:, :, 2], (16, 16))
    assert torch.equal(image_patches, patches[:, 1])
    values = patches.view(1, 2, 2, 2, 2, 2, 9, 2)
    for t, c in itertools.product(range(2), range(2)):
        for (i, j), expected in compute_naive_hog(video[0, c, 2 * t]).items():
            got = values[0, t, i // 2, j // 2, i % 2, j % 2, :, c]
            assert got.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_contrastive_loss_equals_a_loop_over_pairs(autocast):
    pred, label = make_video(1, (2, 5, 7)), make_video(2, (2, 5, 7))
    losses = []
    for b, i in itertools.product(range(2), range(5)):
        cosines = [torch.cosine_similarity(pred[b, i], label[b, j], dim=0).item() for j in range(5)]
        weights = [math.exp(cosine / 0.07) for cosine in cosines]
        losses.append(-math.log(weights[i] / sum(weights)))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = compute_contrastive_loss(pred, label, 0.07)
    assert got.item() == pytest.approx(sum(losses) / 10, rel=1e-5)
    assert compute_contrastive_loss(label, label, 0.07) < 0.1 * got
