from hiera_video.utils.tables import format_table


def test_columns_are_aligned_without_trailing_blanks():
    assert format_table([("name", "n"), ("a", "10"), ("", "")], "<>") == "name   n\na     10\n"


def test_a_name_cannot_control_the_terminal():
    assert format_table([["a\x1b[31m\n\u202eb", "é"]], "<<") == "a\\x1b[31m\\n\\u202eb  é"
