"""The grid of windows, against hand-worked cases and a naive loop over its rules."""

from fractions import Fraction

import numpy as np
import pytest

from hiera_video.streams.window_grid import WindowGrid, compute_tolerance_sec, find_shown


def make_grid(num_frames=4, *, window=16, stride=8, fps=1, is_segment=False):
    return WindowGrid.make(num_frames, window=window, stride=stride, fps=fps, is_segment=is_segment)


def count_naively(length, window, stride):
    """Windows are added as long as one begins before the end and the one before it does not reach the end."""
    end, number = length - Fraction(1, 2), 1
    while number * stride < end and (number - 1) * stride + window < end:
        number += 1
    return number


@pytest.mark.parametrize("length", [Fraction(1, 3), 1, 15, 16, Fraction(33, 2), Fraction(50, 3), 17, 24, 25, 100])
@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 16), (4, 9), (1, Fraction(1, 3)), (Fraction(5, 2), 7)])
def test_the_number_of_windows_is_that_of_a_naive_loop(length, window, stride):
    assert make_grid(window=window, stride=stride).count(Fraction(length)) == count_naively(length, window, stride)


def test_lengths_are_scaled_to_frames_and_a_window_is_at_least_a_frame():
    grid = make_grid(window=0.64, stride=0.32, fps=30000 / 1001)
    assert grid.window == Fraction(64, 100) * Fraction(30000, 1001) and grid.get_start(3) == Fraction(288000, 10010)
    assert make_grid(window=0.01, stride=0.2, fps=10).window == 1


@pytest.mark.parametrize("is_segment", [False, True])
@pytest.mark.parametrize(("window", "stride"), [(16, 8), (5, 3), (7, Fraction(5, 2))])
def test_both_ways_to_choose_frames_agree_where_frames_are_even(window, stride, is_segment):
    grid = make_grid(window=window, stride=stride, is_segment=is_segment)
    times_sec = [position / 10 for position in range(40)]
    tolerance_sec = compute_tolerance_sec(Fraction(1, 1000), fps=10, frame_ticks=Fraction(100))
    for number in range(grid.count(Fraction(40))):
        start = np.array([float(grid.get_start(number))])
        latest_sec = grid.compute_latest_sec(start, fps=10.0, tolerance_sec=tolerance_sec)
        assert find_shown(times_sec, latest_sec)[0].tolist() == grid.choose_even_frames(number, 40).tolist()


def test_moments_run_from_the_first_frame_to_the_last_or_are_middles_of_parts():
    starts = np.array([0.0, 8.0])
    plain = make_grid().compute_latest_sec(starts, fps=2.0, tolerance_sec=0.25)
    np.testing.assert_allclose(plain, [[0.25, 2.75, 5.25, 7.75], [4.25, 6.75, 9.25, 11.75]])
    middles = make_grid(is_segment=True).compute_latest_sec(starts, fps=1.0, tolerance_sec=0.0)
    np.testing.assert_allclose(middles, [[2, 6, 10, 14], [10, 14, 18, 22]])


def test_the_frame_shown_is_the_last_that_has_begun():
    shown = find_shown([0.0, 0.4, 1.0], np.array([[-1.0, 0.0, 0.39], [0.4, 0.99, 7.0]]))
    assert shown.tolist() == [[0, 0, 0], [1, 1, 2]]


@pytest.mark.parametrize(
    ("time_base", "fps", "frame_ticks", "expected"),
    [
        (Fraction(1, 1000), 30.0, Fraction(100, 3), 0.001),  # stamps are rounded to milliseconds
        (Fraction(1, 1000), 25.0, Fraction(40), 1e-6 / 25),  # every frame lasts 40 of them: nothing is rounded
        (Fraction(1, 1000), 25.0, None, 0.001),
        (Fraction(1, 2), 2.0, None, 0.125),  # a tick is as long as a frame
    ],
)
def test_the_tolerance_is_a_tick_a_quarter_of_a_frame_or_next_to_nothing(time_base, fps, frame_ticks, expected):
    assert compute_tolerance_sec(time_base, fps=fps, frame_ticks=frame_ticks) == pytest.approx(expected)
