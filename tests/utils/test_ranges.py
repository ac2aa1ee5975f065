"""Named ranges: nothing without a profiler, and in the trace with one."""

import torch

from hiera_video.utils.ranges import named_range


def test_a_profiler_notes_the_name():
    with torch.profiler.profile() as profile, named_range("a part"):
        torch.ones(2)
    assert "a part" in {event.name for event in profile.events()}


def test_without_a_profiler_it_is_always_the_same_empty_block():
    assert named_range("a part") is named_range("another")
    with named_range("a part"), named_range("within it"):
        pass
