"""What differs between settings is named, and what JSON changes in them is no difference."""

from hiera_video.utils.side_car import describe_changes


def test_changes_are_named():
    old = {"a": 1, "gone": "x", "same": [1, 2]}
    assert describe_changes(old, {"a": 2, "same": (1, 2), "new": None, "z": 0}) == (
        "a: 1 there, 2 now; gone: 'x' there, None now; z: None there, 0 now"
    )
    assert describe_changes(old, {**old, "same": (1, 2)}) == ""
