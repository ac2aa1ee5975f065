"""Numbers get the unit that suits them."""

import pytest

from hiera_video.report.cost_plan import format_count


@pytest.mark.parametrize(("number", "text"), [(710.9e6, "710.9 M"), (8.466e20, "846.6 E"), (12_345, "12,345")])
def test_counts(number, text):
    assert format_count(number) == text
