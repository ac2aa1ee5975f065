import pytest

from hiera_video.utils.tables import format_bytes, format_table


def test_columns_are_aligned_without_trailing_blanks():
    assert format_table([("name", "n"), ("a", "10"), ("", "")], "<>") == "name   n\na     10\n"


def test_a_name_cannot_control_the_terminal():
    assert format_table([["a\x1b[31m\n\u202eb", "é"]], "<<") == "a\\x1b[31m\\n\\u202eb  é"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (950, "950 B"),
        (1000, "1.0 kB"),
        (1500, "1.5 kB"),
        (203.4e6, "203.4 MB"),
        (8.53e9, "8.5 GB"),
        (1.5e15, "1500.0 TB"),
    ],
)
def test_bytes_get_the_unit_that_suits_them(count, text):
    assert format_bytes(count) == text
