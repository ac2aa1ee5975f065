import pytest

from hiera_video.video import FramesChangedError, VideoDecodeError
from hiera_video.video.attempts import start_over


def test_reading_begins_again_when_the_frames_change():
    calls = []

    def read_items():
        calls.append("begin")
        for number in range(3):
            if len(calls) == 1 and number == 2:
                raise FramesChangedError
            yield number

    assert list(start_over("a.mp4", read_items)) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_frames_that_change_each_time_are_an_error():
    def read_items():
        yield 0
        raise FramesChangedError

    given = []
    with pytest.raises(VideoDecodeError, match="a.mp4: its frames change each time"):
        given.extend(start_over("a.mp4", read_items))
