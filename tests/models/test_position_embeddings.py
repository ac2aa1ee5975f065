"""Position embeddings at another size, against planes and patterns whose resizing is known."""

import pytest
import torch

from hiera_video.models.position_embeddings import (
    compute_window_pattern,
    join_windows,
    resize_by_windows,
    resize_table,
    tile_windows,
)

WINDOW = (8, 8)


def make_plane(side, slope_y=3.0, slope_x=-2.0):
    """(1, side * side, 1), linear over the image, whatever its size."""
    centers = (torch.arange(side) + 0.5) / side
    return (slope_y * centers[:, None] + slope_x * centers[None]).reshape(1, -1, 1)


def get_inner(table, side, margin):
    return table.view(side, side)[margin:-margin, margin:-margin]


def compute_correlation(one, two):
    one, two = (x - x.mean(dim=1, keepdim=True) for x in (one, two))
    return (one * two).sum() / (one.norm() * two.norm())


@pytest.mark.parametrize("kind", ["bicubic", "absolute_win"])
@pytest.mark.parametrize("new", [64, 72, 128, 256])
def test_a_plane_stays_a_plane(kind, new):
    """Exactly so away from the border, beyond which interpolation knows nothing."""
    plane = make_plane(56)
    resize = resize_table if kind == "bicubic" else lambda *args: resize_by_windows(*args, WINDOW)
    got = resize(plane, (56, 56), (new, new))
    margin = 4 * new // 56
    torch.testing.assert_close(get_inner(got, new, margin), get_inner(make_plane(new), new, margin), atol=2e-5, rtol=0)


@pytest.mark.parametrize("new", [64, 72, 128, 256])
def test_the_pattern_of_windows_stays_aligned_with_them(new, capsys):
    torch.manual_seed(0)
    pattern = torch.randn(1, 64, 12)
    smooth = resize_table(torch.randn(1, 16, 12), (4, 4), (56, 56))
    table = smooth + tile_windows(pattern, (56, 56), WINDOW)
    tiled = tile_windows(pattern, (new, new), WINDOW)
    results = {
        "absolute_win": resize_by_windows(table, (56, 56), (new, new), WINDOW),
        "bicubic": resize_table(table, (56, 56), (new, new)),
    }
    patterns = {k: tile_windows(compute_window_pattern(v, (new, new), WINDOW), (new, new), WINDOW)
                for k, v in results.items()}  # fmt: skip
    found = {kind: compute_correlation(value, tiled).item() for kind, value in patterns.items()}
    print(f"\n56 -> {new} tokens: correlation of the window part with right tiling: {found}")
    assert found["absolute_win"] >= 0.99
    assert abs(found["bicubic"]) < 0.5


def test_windows_by_hand():
    """Two windows of 2 tokens a side: the pattern is what is left of the table without its slope."""
    pattern = torch.tensor([[1.0, -1.0], [2.0, -2.0]]).reshape(1, 4, 1)
    table = tile_windows(pattern, (6, 6), (2, 2)) + 10 * make_plane(6)
    torch.testing.assert_close(compute_window_pattern(table, (6, 6), (2, 2)), pattern, atol=1e-5, rtol=0)
    rows = tile_windows(pattern, (4, 4), (2, 2)).view(4, 4)
    assert rows.tolist() == [[1, -1, 1, -1], [2, -2, 2, -2], [1, -1, 1, -1], [2, -2, 2, -2]]


@pytest.mark.parametrize("side", [56, 64])
def test_nothing_changes_at_the_trained_size(side):
    table = torch.randn(1, side * side, 3)
    torch.testing.assert_close(resize_table(table, (side, side), (side, side)), table, atol=0, rtol=0)
    got = resize_by_windows(table, (side, side), (side, side), WINDOW)
    torch.testing.assert_close(got, table, atol=1e-5, rtol=0)


def test_a_table_of_one_window_has_no_pattern():
    table = torch.randn(1, 64, 3)
    assert not compute_window_pattern(table, (8, 8), WINDOW).any()
    assert torch.equal(resize_by_windows(table, (8, 8), (16, 16), WINDOW), resize_table(table, (8, 8), (16, 16)))


def test_two_tables_are_joined_window_by_window():
    pattern, table = torch.randn(1, 64, 2), torch.full((1, 49, 2), 5.0)
    joined = join_windows(table, pattern, table_grid=(7, 7), grid=(16, 24), window=WINDOW).view(16, 24, 2)
    for top in (0, 8):
        for left in (0, 8, 16):
            window = joined[top : top + 8, left : left + 8].reshape(1, 64, 2)
            torch.testing.assert_close(window, pattern + 5)
