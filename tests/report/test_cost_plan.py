"""Numbers get the unit that suits them."""

import pytest

from hiera_video.report.cost_plan import format_bytes, format_count


@pytest.mark.parametrize(
    ("number", "text"), [(8_530_000_000, "8.5 GB"), (1.5e12, "1.5 TB"), (203.4e6, "203.4 MB"), (1500, "1.5 kB")]
)
def test_bytes(number, text):
    assert format_bytes(number) == text


@pytest.mark.parametrize(("number", "text"), [(710.9e6, "710.9 M"), (8.466e20, "846.6 E"), (12_345, "12,345")])
def test_counts(number, text):
    assert format_count(number) == text
