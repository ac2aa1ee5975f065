from fractions import Fraction

import pytest

from hiera_video.utils.fractions import to_fraction


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (30000 / 1001, Fraction(30000, 1001)),
        (29.97, Fraction(2997, 100)),
        (0.1, Fraction(1, 10)),
        (7, Fraction(7)),
        (Fraction(1, 3_000_001), Fraction(1, 3_000_001)),  # an exact number stays exact
    ],
)
def test_numbers_become_the_fractions_that_people_mean(value, expected):
    assert to_fraction(value) == expected
