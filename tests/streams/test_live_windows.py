"""What is read live gives the same frames and windows as the same video read as a file."""

import os
import socket
import threading
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from video_factory import decode_plainly, paint_number, read_number

from hiera_video.streams.live_windows import LiveWindows
from hiera_video.streams.windows import SlidingWindows
from hiera_video.video import FrameIndex, VideoDecodeError, VideoReader
from hiera_video.video.live import LiveVideo, _Clock, is_live


def make_index(times, fps, time_base):
    """The frames at multiples of the time base; the last one lasts as long as it should."""
    pts = [round(Fraction(time) / time_base) for time in times]
    step = pts[1] - pts[0] if len(pts) > 1 else 1
    even = range(pts[0], pts[0] + len(pts) * step, step)
    duration_sec = float((pts[-1] - pts[0]) * time_base + 1 / fps)
    return FrameIndex(len(pts), even if list(even) == pts else pts, time_base, duration_sec, float(fps))


def watch(index, fps, **options):
    """Positions of the frames, and spans, of the windows of frames that come at the index's times."""
    windows = LiveWindows(4, fps=fps, time_base=index.time_base, **options)
    clips = []
    for position, time_sec in enumerate(index.times_sec):
        clips += windows.push(time_sec, torch.tensor(position))
    clips += windows.finish()
    return [torch.stack(clip.frames).tolist() for clip in clips], [clip.span_sec for clip in clips]


@pytest.mark.parametrize("num_frames", [1, 3, 20, 101])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(12)], ids=str)
@pytest.mark.parametrize("time_base", [Fraction(1, 90000), Fraction(1, 1000)], ids=str)
@pytest.mark.parametrize(
    ("window", "stride"), [(0.32, 0.32), (64 / 30, 64 / 30), (0.3, 0.1), (0.1, 0.7), (0.01, 0.5), (0.26, 0.26)]
)
@pytest.mark.parametrize("is_segment", [False, True])
def test_windows_of_even_frames_are_those_of_the_file(num_frames, fps, time_base, window, stride, is_segment):
    index = make_index([position / fps for position in range(num_frames)], fps, time_base)
    plan = SlidingWindows(4, window=window, stride=stride, is_segment=is_segment).plan(index)
    frames, spans = watch(index, fps, window_sec=window, stride_sec=stride, is_segment=is_segment)
    assert frames == plan.frames.tolist()
    np.testing.assert_allclose(spans, plan.spans_sec, atol=1e-3)


def test_windows_of_uneven_frames_have_the_frames_shown_then():
    times = np.cumsum(np.random.default_rng(0).choice([1, 2, 5, 30], 200)) / Fraction(25)
    index = make_index(times, Fraction(25), Fraction(1, 1000))
    plan = SlidingWindows(4, window=1.3, stride=0.4).plan(index)
    frames, spans = watch(index, Fraction(25), window_sec=1.3, stride_sec=0.4)
    assert frames == plan.frames.tolist()
    np.testing.assert_allclose(spans, plan.spans_sec, atol=1e-3)


def test_a_window_is_given_out_with_the_frame_after_its_last_one():
    windows = LiveWindows(2, window_sec=0.4, stride_sec=0.4, fps=Fraction(10), time_base=Fraction(1, 1000))
    came = [len(windows.push(position / 10, torch.tensor(position))) for position in range(10)]
    assert came == [0, 0, 0, 0, 1, 0, 0, 0, 1, 0]  # frames 0 and 3 are known to be complete when 4 comes
    assert [clip.span_sec for clip in windows.finish()] == [pytest.approx((0.8, 1.0))]


def test_frames_are_prepared_once_and_only_where_they_are_used():
    prepared = []
    windows = LiveWindows(
        2,
        window_sec=0.4,
        stride_sec=0.2,
        fps=Fraction(10),
        time_base=Fraction(1, 1000),
        prepare=lambda frame: prepared.append(int(frame)) or frame,
    )
    for position in range(12):
        windows.push(position / 10, torch.tensor(position))
    assert prepared == [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("options", [{"window_sec": 0.0}, {"stride_sec": -1.0}, {"window_sec": float("inf")}], ids=str)
def test_impossible_windows_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LiveWindows(2, **{"window_sec": 1, "stride_sec": 1, "fps": Fraction(5), "time_base": Fraction(1, 5), **options})


def test_a_file_read_live_gives_its_frames_and_times(painted_video):
    path = painted_video("live_turned.mp4", num_frames=40, rotation=90)
    with LiveVideo(str(path)) as video, VideoReader(path) as reader:
        times, frames = zip(*video, strict=True)
        assert video.fps == 25 and not video.is_realtime
        assert list(times) == pytest.approx(reader.times_sec)
        assert torch.equal(torch.stack(frames), reader.get_frames(range(40)))


def test_a_network_stream_is_read_as_it_comes(painted_video):
    content = painted_video("live_stream.ts", num_frames=50).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send():
            connection, _ = server.accept()
            with connection:
                connection.sendall(content)

        sender = threading.Thread(target=send)
        sender.start()
        with LiveVideo(f"tcp://127.0.0.1:{server.getsockname()[1]}") as video:
            assert video.is_realtime and is_live(video.path)
            times, frames = zip(*video, strict=True)
        sender.join(timeout=120)
    assert [read_number(frame) for frame in frames] == list(range(50))
    assert list(times) == pytest.approx([position / 25 for position in range(50)], abs=1e-4)


def test_a_stream_that_falls_silent_ends(painted_video):
    content = painted_video("live_stream.ts", num_frames=50).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def send():
            connections.append(server.accept()[0])
            connections[0].sendall(content)

        sender = threading.Thread(target=send)
        sender.start()
        with LiveVideo(f"tcp://127.0.0.1:{server.getsockname()[1]}", timeout_sec=3.0) as video:
            frames = [frame for _, frame in video]
        sender.join(timeout=120)
        connections[0].close()
    assert [read_number(frame) for frame in frames] == list(range(50))


def test_a_pipe_is_read_to_its_end(painted_video, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = painted_video("live_pipe.mkv", num_frames=30).read_bytes()
    sender = threading.Thread(target=pipe.write_bytes, args=(content,))
    sender.start()
    with LiveVideo(str(pipe)) as video:
        assert not video.is_realtime
        frames = [frame for _, frame in video]
    sender.join(timeout=120)
    assert [read_number(frame) for frame in frames] == list(range(30))


def test_a_source_that_breaks_off_ends(painted_video, tmp_path):
    content = painted_video("live_pipe.mkv", num_frames=30).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(content[: len(content) // 2])
    with LiveVideo(str(path)) as video:
        assert 0 < len(list(video)) == len(decode_plainly(path)) < 30


def test_frames_of_another_size_are_resized_to_the_first(tmp_path):
    path = tmp_path / "changes.ts"
    with open(path, "wb") as joined:
        for width in (96, 64):
            part = tmp_path / f"{width}.ts"
            with av.open(str(part), "w", format="mpegts") as sink:
                stream = sink.add_stream("mpeg2video", rate=25)
                stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p"
                for number in range(5):
                    picture = paint_number(number, width=width)
                    sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                sink.mux(stream.encode())
            joined.write(part.read_bytes())
    with LiveVideo(str(path)) as video:
        times, frames = zip(*video, strict=True)
    assert {tuple(frame.shape) for frame in frames} == {(64, 96, 3)}
    assert all(first < second for first, second in pairwise(times))  # the second part starts at 0


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([5.0, 5.04, 5.12], [0, 0.04, 0.12]),
        ([5.0, None, 5.08], [0, 0.04, 0.08]),
        ([5.0, 5.04, 1.0, 1.04], [0, 0.04, 0.08, 0.12]),  # the clock was set back
        ([5.0, 5.04, 9e5, 9e5 + 0.04], [0, 0.04, 0.08, 0.12]),  # and forward
        ([5.0, 5.0, 5.04], [0, 0.04, 0.08]),
        ([None, None, None], [0, 0.04, 0.08]),
        ([None, 5.0, 5.12], [0, 0.04, 0.16]),
        ([0.04, 0.08, 0.16, 0.12, 0.2, 0.28, 0.24, 0.32], [0, 0.04, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32]),  # as in AVI
    ],
)
def test_time_goes_on_whatever_the_time_stamps_do(stamps, expected):
    clock = _Clock(0.04)
    assert [clock.read(stamp) for stamp in stamps] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/video0", True),
        ("-", True),
        ("rtsp://user:word@camera:554/stream", True),
        ("udp://@239.0.0.1:1234", True),
        ("https://example.com/live/index.m3u8?token=1", True),
        ("https://example.com/video.mp4", False),
        ("s3://bucket/video.mp4", False),
        ("video.mp4", False),
    ],
)
def test_live_sources_are_known_by_their_names(path, expected):
    assert is_live(path) is expected


def test_a_pipe_is_known_as_live(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert is_live(str(tmp_path / "pipe.mp4"))


@pytest.mark.parametrize("path", ["/dev/video97", "tcp://127.0.0.1:9"])
def test_a_source_that_is_not_there_is_named(path):
    with pytest.raises(VideoDecodeError, match=path):
        LiveVideo(path)


def test_a_file_without_video_is_named(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(VideoDecodeError, match="text.mp4"):
        LiveVideo(str(path))
