"""Heat lies where it belongs and tells for, against and nothing apart."""

import numpy as np
import pytest

from hiera_video.report.heat import draw_box, enlarge, paint_heat, spread


def test_blocks_and_smooth_maps():
    heat = np.arange(8, dtype=float).reshape(2, 2, 2)
    blocks = spread(heat, (4, 6, 8))
    assert blocks.shape == (4, 6, 8)
    for t, row, column in np.ndindex(blocks.shape):
        assert blocks[t, row, column] == heat[t // 2, row // 3, column // 4]
    smooth = spread(heat, (4, 6, 8), smoothly=True)
    assert smooth[0, 0, 0] == 0 and smooth[-1, -1, -1] == 7 and smooth.mean() == pytest.approx(3.5)
    assert np.abs(np.diff(smooth, axis=2)).max() < 1


def test_colors():
    frames = np.full((1, 1, 4, 3), (90, 120, 150), dtype=np.uint8)
    heat = np.array([[[2.0, -2.0, 0.0, 9.0]]])
    for_it, against, nothing, beyond = paint_heat(frames, heat, limit=2.0)[0, 0].astype(int)
    assert for_it[0] > for_it[2] + 50 and against[2] > against[0] + 50
    assert nothing.tolist() == [72] * 3 and (beyond == for_it).all()
    assert (paint_heat(frames, heat * 0, limit=0.0) == 72).all()


def test_small_frames_are_enlarged_by_whole_numbers():
    frames = np.random.default_rng(0).integers(0, 255, (2, 96, 112, 3), dtype=np.uint8)
    large = enlarge(frames)
    assert large.shape == (2, 288, 336, 3) and (large[:, 1::3, 2::3] == frames).all()
    assert enlarge(large) is not None and enlarge(large).shape == large.shape


def test_a_box_is_drawn_inside_its_bounds():
    frame = np.full((20, 20, 3), 100, dtype=np.uint8)
    drawn = draw_box(frame, (5, 6, 15, 18))
    changed = (drawn != frame).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (5, 6, 14, 17)
    assert not changed[9:11, 10:14].any() and (frame == 100).all()
    assert drawn[5, 6].tolist() == [0] * 3 and drawn[7, 8].tolist() == [255] * 3
