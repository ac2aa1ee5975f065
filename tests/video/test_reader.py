"""VideoReader gives exactly the frames that are asked for, on files that make this hard."""

import ctypes
import gc
import random
import sys

import av
import fsspec
import numpy as np
import pytest
import torch
import video_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_factory import decode_plainly, read_number

from hiera_video.video import VideoDecodeError, VideoReader, available_backends
from hiera_video.video import reader as reader_module
from hiera_video.video.index import KeyFrame
from hiera_video.video.pyav_backend import _plan_runs

NUM_FRAMES = 30
X264 = video_factory.DEFAULT_OPTIONS["libx264"]["x264-params"]
UNEVEN_PTS = [37 * i + (i * i * 7) % 31 for i in range(NUM_FRAMES)]  # milliseconds; steps of 8 to 65
X265_LAYERS = "log-level=none:bframes=7:rc-lookahead=20:b-adapt=0:temporal-layers=3:keyint=20:scenecut=0"
X265_OPEN = "log-level=none:bframes=3:open-gop=1:keyint=20:scenecut=0"
H264 = {"crf": "20", "preset": "veryfast"}
FORMATS = {
    "h264.mp4": {},
    "h264.mkv": {},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "one_key.mp4": {"options": {**H264, "x264-params": "keyint=1000:scenecut=0:bframes=3"}},
    "intra_only.mp4": {"options": {**H264, "x264-params": "keyint=1"}},
    "open_gop.mp4": {"options": {**H264, "x264-params": X264 + ":open-gop=1"}},
    "intra_refresh.mp4": {"options": {**H264, "x264-params": "keyint=10:intra-refresh=1"}},
    "pyramid.mp4": {"options": {**H264, "x264-params": X264 + ":b-pyramid=normal:bframes=7"}},
    "interlaced.mp4": {"options": {**H264, "x264-params": X264 + ":interlaced=1"}},
    "hevc.mp4": {"codec": "libx265"},
    "hevc_layers.mp4": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": X265_LAYERS}},
    "hevc_open.mkv": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": X265_OPEN}},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.avi": {},
    "h264.ts": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mkv": {"codec": "libsvtav1"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "uneven.mp4": {"pts": UNEVEN_PTS},
    "uneven.webm": {"codec": "libvpx-vp9", "pts": UNEVEN_PTS},
    "late_start.mp4": {"pts": [5000 + 40 * i for i in range(NUM_FRAMES)]},
    "rotated_90.mp4": {"rotation": 90},
    "rotated_180.mp4": {"rotation": 180},
    "rotated_270.mp4": {"rotation": 270},
    "odd_size.mp4": {"width": 97, "height": 65, "pix_fmt": "yuv444p"},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "gray.mp4": {"pix_fmt": "gray"},
    "a:b %d é.mp4": {},
}
# files that decord and torchcodec must decode themselves; all others they may leave to PyAV
READ_BY_ITSELF = ["h264.mp4", "h264.mkv", "one_key.mp4", "vp9.webm", "uneven.mp4", "late_start.mp4", "rotated_90.mp4"]


@pytest.fixture(params=["pyav", "decord", "torchcodec"])
def backend(request):
    if request.param not in available_backends():
        pytest.skip(f"{request.param} cannot be loaded here")
    return request.param


@pytest.mark.parametrize("name", FORMATS)
def test_each_position_gives_the_frame_with_its_number(painted_video, backend, name):
    with VideoReader(painted_video(name, **FORMATS[name]), backend) as reader:
        assert len(reader) == NUM_FRAMES
        frames = reader.get_frames(range(NUM_FRAMES))
        assert frames.dtype == torch.uint8
        assert (reader.height, reader.width) == frames.shape[1:3]
        assert [read_number(frame) for frame in frames] == list(range(NUM_FRAMES))
        draw = random.Random(name)
        for size in (1, 1, 2, 3, 8, 16):
            indices = draw.choices(range(NUM_FRAMES), k=size)
            assert [read_number(frame) for frame in reader.get_frames(indices)] == indices


@pytest.mark.parametrize("name", FORMATS)
def test_backends_agree_on_colors(painted_video, backend, name):
    expected = np.stack(decode_plainly(painted_video(name, **FORMATS[name]))).astype(int)
    with VideoReader(painted_video(name, **FORMATS[name]), backend) as reader:
        found = reader.get_frames(range(NUM_FRAMES)).numpy()
    # ten bits and interlaced chroma go through swscale's general path, which differs between FFmpeg's versions
    limit = 1.0 if name in ("ten_bit.mp4", "interlaced.mp4") and backend != "pyav" else 0.0
    assert np.abs(found - expected).mean() <= limit


@pytest.mark.parametrize("name", READ_BY_ITSELF)
def test_other_backends_do_their_own_work_where_they_can(painted_video, backend, name):
    with VideoReader(painted_video(name, **FORMATS[name]), backend) as reader:
        reader.get_frames([0, NUM_FRAMES - 1])
        assert reader.backend == backend


def open_selective(path):
    return VideoReader(path)


def open_complete(path):
    reader = VideoReader(path)
    reader._main._leaves_out = False
    return reader


def open_threaded(path):
    return VideoReader(path, num_threads=2)


def open_indexed(path):
    with VideoReader(path) as reader:
        index = reader.index
    return VideoReader(path, index=index)


def open_remote(path):
    fsspec.filesystem("memory").pipe_file(f"/{path.name}", path.read_bytes())
    return VideoReader(f"memory://{path.name}")


@pytest.mark.parametrize("open_reader", [open_selective, open_complete, open_threaded, open_indexed, open_remote])
@pytest.mark.parametrize("name", FORMATS)
def test_any_set_of_indices_equals_a_full_decode(painted_video, name, open_reader):
    path = painted_video(name, **FORMATS[name])
    expected = torch.from_numpy(np.stack(decode_plainly(path)))
    with open_reader(path) as reader:
        assert len(reader) == len(expected)

        @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(st.lists(st.integers(0, NUM_FRAMES - 1), max_size=12))
        def check(indices):
            assert torch.equal(reader.get_frames(indices), expected[indices])

        check()


def count_decoded(reader, monkeypatch):
    """A list that grows by one with each frame that the decoder gives."""
    decoded = []
    check_order = reader._main._check_order
    monkeypatch.setattr(reader._main, "_check_order", lambda *a: (decoded.append(1), check_order(*a))[1])
    return decoded


@pytest.mark.parametrize("name", ["one_key.mp4", "pyramid.mp4", "hevc.mp4"])
def test_frames_that_nobody_needs_are_not_decoded(painted_video, monkeypatch, name):
    with VideoReader(painted_video(name, **FORMATS[name])) as reader:
        decoded = count_decoded(reader, monkeypatch)
        assert read_number(reader.get_frames([19])[0]) == 19
    assert 0 < len(decoded) <= 14  # of 20: no other frame refers to half of the B-frames, or more


def test_frames_of_higher_hevc_layers_may_refer_to_any(painted_video, monkeypatch):
    with VideoReader(painted_video("hevc_layers.mp4", **FORMATS["hevc_layers.mp4"])) as reader:
        decoded = count_decoded(reader, monkeypatch)
        reader.get_frames([19])
    assert len(decoded) >= 19


def test_a_wrong_index_is_noticed(painted_video, caplog):
    path = painted_video("h264.mp4")
    with VideoReader(painted_video("uneven.mp4", **FORMATS["uneven.mp4"])) as reader:
        other = reader.index
    with VideoReader(path, index=other) as reader:
        assert read_number(reader.get_frames([22])[0]) == 22
        assert reader.index != other
    assert "h264.mp4" in caplog.text


def test_frames_may_be_scaled_down_while_they_are_converted(painted_video):
    path = painted_video("large.mp4", width=192, height=128)
    with VideoReader(path, max_short_side_px=64) as small, VideoReader(path, max_short_side_px=128) as same:
        assert (small.height, small.width) == (64, 96)
        assert [read_number(frame) for frame in small.get_frames([3, 21])] == [3, 21]
        assert (same.height, same.width) == (128, 192)
        assert np.array_equal(same.get_frames([5])[0], decode_plainly(path)[5])
    with VideoReader(painted_video("rotated_90.mp4", rotation=90), max_short_side_px=32) as reader:
        assert (reader.height, reader.width) == (32, 48)


def test_timing_of_even_uneven_and_late_frames(painted_video):
    with VideoReader(painted_video("h264.mp4")) as reader:
        assert reader.fps == 25
        assert reader.duration_sec == pytest.approx(1.2)
        assert reader.times_sec == pytest.approx([i / 25 for i in range(NUM_FRAMES)])
    with VideoReader(painted_video("late_start.mp4", **FORMATS["late_start.mp4"])) as reader:
        assert reader.times_sec == pytest.approx([i / 25 for i in range(NUM_FRAMES)])
        assert reader.duration_sec == pytest.approx(1.2)
    with VideoReader(painted_video("uneven.mp4", **FORMATS["uneven.mp4"])) as reader:
        assert reader.times_sec == pytest.approx([pts / 1000 for pts in UNEVEN_PTS], abs=1e-3)
        assert reader.duration_sec >= UNEVEN_PTS[-1] / 1000
        assert reader.fps == pytest.approx(NUM_FRAMES / reader.duration_sec, rel=0.02)


def test_frames_hidden_by_an_edit_list_do_not_count(painted_video, backend):
    path = painted_video("edit_list.mp4", packet_shift=200)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == NUM_FRAMES
    with VideoReader(path, backend) as reader:
        assert len(reader) == NUM_FRAMES - 5
        assert [read_number(frame) for frame in reader.get_frames(range(25))] == list(range(5, NUM_FRAMES))
        assert [read_number(frame) for frame in reader.get_frames([24, 3, 17])] == [29, 8, 22]
        assert reader.duration_sec == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["faststart.mp4", "fragments.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi", "h264.ts"])
def test_what_decodes_of_a_truncated_file_is_the_video(painted_video, tmp_path, name):
    options = {"container_options": {"movflags": "faststart"}} if name == "faststart.mp4" else FORMATS[name]
    path = painted_video(name, **options)
    num_shorter = 0
    for percent in range(3, 100, 4):
        cut = video_factory.cut_file(path, tmp_path / name, num_bytes=path.stat().st_size * percent // 100)
        try:
            expected = decode_plainly(cut)
        except av.FFmpegError:
            expected = []
        if not expected:
            with pytest.raises(VideoDecodeError, match=name):
                VideoReader(cut)
            continue
        with VideoReader(cut) as reader:
            assert len(reader) == len(expected)
            assert np.array_equal(reader.get_frames(range(len(reader))).numpy(), np.stack(expected))
            num_shorter += len(reader) < NUM_FRAMES
    assert num_shorter >= 5


def test_damage_that_only_decoding_shows_is_an_error_and_corrects_the_length(painted_video, tmp_path, caplog):
    path = painted_video("vp9.webm", **FORMATS["vp9.webm"])
    with av.open(str(path)) as container:
        positions = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    start, size = positions[8]
    data[start + 4 : start + size] = b"\xff" * (size - 4)  # after the block's own header
    damaged = tmp_path / "damaged.webm"
    damaged.write_bytes(data)
    num_decodable = len(decode_plainly(damaged))
    assert num_decodable < NUM_FRAMES
    with VideoReader(damaged) as reader:
        assert read_number(reader.get_frames([3])[0]) == 3
        with pytest.raises(VideoDecodeError, match=r"damaged.webm: frame \d+ cannot be decoded"):
            reader.get_frames(range(NUM_FRAMES))
        assert len(reader) == num_decodable
        assert np.array_equal(reader.get_frames(range(num_decodable)), np.stack(decode_plainly(damaged)))
    assert "damaged.webm" in caplog.text


def test_a_change_of_size_keeps_the_size_of_the_first_frame(painted_video, tmp_path):
    small, large = painted_video("h264.ts"), painted_video("large.ts", width=192, height=128)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    with VideoReader(joined) as reader:
        assert len(reader) == 2 * NUM_FRAMES
        assert reader.get_frames([NUM_FRAMES + 7]).shape == (1, 64, 96, 3)
        frames = reader.get_frames([0, NUM_FRAMES - 1, NUM_FRAMES, 2 * NUM_FRAMES - 1])
        assert [read_number(frame) for frame in frames] == [0, 29, 0, 29]


def test_no_index_gives_no_frame_of_the_right_shape(painted_video):
    with VideoReader(painted_video("rotated_90.mp4", rotation=90)) as reader:
        assert reader.get_frames([]).shape == (0, 64, 96, 3)


@pytest.mark.parametrize("index", [-1, NUM_FRAMES])
def test_index_out_of_range(painted_video, backend, index):
    with (
        VideoReader(painted_video("h264.mp4"), backend) as reader,
        pytest.raises(ValueError, match=rf"h264.mp4: frame index is {index}; legal values: 0 to 29"),
    ):
        reader.get_frames([0, index])


def test_indices_may_be_arrays_but_not_fractions(painted_video):
    with VideoReader(painted_video("h264.mp4")) as reader:
        for indices in (np.array([4, 2]), torch.tensor([4, 2]), (4, 2)):
            assert [read_number(frame) for frame in reader.get_frames(indices)] == [4, 2]
        with pytest.raises(TypeError):
            reader.get_frames([1.5])


def test_missing_file(tmp_path, backend):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none.mp4")):
        VideoReader(tmp_path / "none.mp4", backend)


@pytest.mark.parametrize("content", [b"", b"some text, not a video\n" * 50, bytes(5000)])
def test_files_that_are_no_videos(tmp_path, backend, content):
    path = tmp_path / "wrong.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match=r"wrong\.mp4: (cannot be opened as a video: \w+|the file is empty)"):
        VideoReader(path, backend)
    with pytest.raises(VideoDecodeError) as error:
        VideoReader(path, backend)
    assert ("0 bytes" in str(error.value)) == (content == b"")


def test_sound_without_pictures(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoDecodeError, match=r"sound.mp4: no video stream"):
        VideoReader(path)


def test_wrong_stream_index(painted_video):
    with pytest.raises(VideoDecodeError, match=r"h264.mp4: no video stream with index 3"):
        VideoReader(painted_video("h264.mp4"), stream_index=3)


def test_unknown_codec(painted_video, tmp_path):
    path = tmp_path / "unknown.mp4"
    path.write_bytes(painted_video("h264.mp4").read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoDecodeError, match=r"unknown.mp4: no decoder"):
        VideoReader(path)


def test_unknown_backend(painted_video):
    with pytest.raises(ValueError, match=r"backend is 'opencv'; legal values: 'pyav', 'decord', 'torchcodec'"):
        VideoReader(painted_video("h264.mp4"), "opencv")


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_backend_that_cannot_be_loaded_names_what_to_install(painted_video, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"'{name}' cannot be loaded: pip install {name}"):
        VideoReader(painted_video("h264.mp4"), name)
    assert name not in available_backends()
    assert "pyav" in available_backends()


def test_handing_over_to_pyav_is_logged_once_for_each_reason(painted_video, backend, caplog, monkeypatch):
    if backend == "pyav":
        pytest.skip("PyAV leaves no file to another decoder")
    monkeypatch.setattr(reader_module, "_warned", set())
    for _ in range(2):
        with VideoReader(painted_video("mpeg4.avi", codec="mpeg4"), backend) as reader:
            assert reader.backend == "pyav"
    assert caplog.text.count(f"mpeg4.avi: read by PyAV instead of {backend}") == 1


def test_closed_reader(painted_video):
    with VideoReader(painted_video("h264.mp4")) as reader:
        pass
    assert len(reader) == NUM_FRAMES
    with pytest.raises(ValueError, match=r"h264.mp4: the reader is closed"):
        reader.get_frames([0])
    reader.close()


def test_decoding_starts_at_the_nearest_key_frame_only_where_that_saves_work():
    keys = [KeyFrame(position, position, position) for position in (0, 20, 40)]
    assert _plan_runs(keys, [3]) == [(keys[0], [3])]
    assert _plan_runs(keys, [25, 39]) == [(keys[1], [25, 39])]
    assert _plan_runs(keys, [3, 25, 50]) == [(keys[0], [3]), (keys[1], [25]), (keys[2], [50])]
    assert _plan_runs(keys, [15, 25, 35, 41]) == [(keys[0], [15, 25, 35, 41])]  # jumps would save only 5 frames each


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9.webm", "av1.mkv"])
def test_a_late_frame_is_reached_without_decoding_from_the_start(painted_video, monkeypatch, name):
    with VideoReader(painted_video(name, **FORMATS[name])) as reader:
        decoded = count_decoded(reader, monkeypatch)
        assert read_number(reader.get_frames([22])[0]) == 22
    assert 0 < len(decoded) <= 3


def test_labeled_video_dataset_of_pytorchvideo(painted_video):
    from pytorchvideo.data import LabeledVideoDataset, UniformClipSampler

    from hiera_video.video.ptv import PytorchVideoPathHandler

    names = ["h264.mp4", "vp9.webm"]
    paths = [(str(painted_video(name, **FORMATS[name])), {"label": label}) for label, name in enumerate(names)]

    def load(handler):
        dataset = LabeledVideoDataset(
            paths, UniformClipSampler(clip_duration=0.25), torch.utils.data.SequentialSampler, decode_audio=False
        )
        if handler is not None:
            dataset.video_path_handler = handler
        return list(dataset)

    ours, theirs = load(PytorchVideoPathHandler()), load(None)
    assert len(ours) == len(theirs) == 8
    for our, their in zip(ours, theirs, strict=True):
        assert {k: v for k, v in our.items() if k != "video"} == {k: v for k, v in their.items() if k != "video"}
        assert torch.equal(our["video"], their["video"])
    frames = torch.cat([sample["video"] for sample in ours[:4]], dim=1).permute(1, 2, 3, 0)  # (T, H, W, C)
    assert [read_number(frame) for frame in frames] == list(range(25))


def count_bytes_in_use():
    """What the C library has handed out and not got back (glibc)."""
    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    info = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("only glibc says how much memory is in use")
    library.mallinfo2.restype = info
    gc.collect()
    return library.mallinfo2().uordblks + library.mallinfo2().hblkhd


def test_opening_and_reading_keeps_no_memory(tmp_path):
    """150 bytes for each video that is opened would be gigabytes in a run of many epochs."""
    video_factory.write_video(tmp_path / "a.mp4", num_frames=12)
    for count in (200, 400):
        before = count_bytes_in_use()
        for _ in range(count):
            with VideoReader(tmp_path / "a.mp4") as reader:
                reader.get_frames([0, 5])  # the packets behind the sixth frame are never read
    assert (count_bytes_in_use() - before) / count < 50
