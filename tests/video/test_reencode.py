"""A video that is written anew has the same pictures at the same times, and is cheap to read where one likes."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from video_factory import TICKS_PER_SEC, cut_file, decode_plainly, paint_number, read_number, write_video

from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video.reencode import Encoding, compute_size, reencode

UNEVEN = [0, 40, 90, 200, 230, 235, 400, 1000, 1001, 1033, 1500, 1540]
SMALL = Encoding(short_side_px=48, key_distance_frames=8, preset="veryfast")


def read_all(path):
    with VideoReader(path) as reader:
        return [read_number(frame) for frame in reader.get_frames(range(len(reader)))], reader.index


def find_boxes(path):
    """Types of the outermost boxes of an MP4 file, in their order."""
    data, start, types = path.read_bytes(), 0, []
    while start < len(data):
        types.append(data[start + 4 : start + 8].decode())
        start += int.from_bytes(data[start : start + 4], "big")
    return types


@pytest.mark.parametrize(
    ("name", "options"),
    {
        "h264.mp4": {},
        "open.mkv": {"options": {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}},
        "uneven.mp4": {"pts": UNEVEN, "num_frames": len(UNEVEN)},
        "uneven.mkv": {"pts": UNEVEN, "num_frames": len(UNEVEN)},
        "mpeg4.avi": {"codec": "mpeg4"},
        "vp9.webm": {"codec": "libvpx-vp9"},
        "hevc.mp4": {"codec": "libx265"},
        "turned.mp4": {"rotation": 90},
        "upside_down.mp4": {"rotation": 180},
        "edit_list.mp4": {"packet_shift": 120},
        "ten_bits.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
        "fine_colors.mkv": {"pix_fmt": "yuv444p"},
        "one.mp4": {"num_frames": 1},
        "a #%03d: [1] ü.mp4": {},
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_frames_and_times_are_those_of_the_source(tmp_path, name, options):
    source = write_video(tmp_path / name, **options)
    target = tmp_path / "new ü#%02d.mp4"
    made = reencode(str(source), target, SMALL)
    numbers, index = read_all(target)
    expected, before = read_all(source)
    assert numbers == expected == [read_number(frame) for frame in decode_plainly(source)]
    assert made.num_frames == index.num_frames == before.num_frames and made.notes == ""
    assert [Fraction(tick) * made.time_base for tick in made.ticks] == [
        (pts - index.pts[0]) * index.time_base for pts in index.pts
    ]
    assert index.times_sec == before.times_sec
    assert (made.fps, made.duration_sec) == (before.fps, pytest.approx(before.duration_sec, abs=1e-3))
    if "pts" not in options:
        assert (index.fps, index.duration_sec) == pytest.approx((made.fps, made.duration_sec), rel=1e-3)
    with VideoReader(target) as reader:
        assert (reader.width, reader.height, reader.codec) == (72, 48, "h264")


def test_a_seek_needs_few_packets(tmp_path):
    """Key frames exactly where they are asked for, from which nothing before is needed, and frames to leave out."""
    source = write_video(tmp_path / "a.mp4", num_frames=50)
    reencode(str(source), tmp_path / "b.mp4", SMALL)
    with VideoReader(tmp_path / "b.mp4") as reader:
        assert [key.position for key in reader.index.keys] == list(range(0, 50, 8)) and reader.index.is_seek_safe
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        kept = [round(frame.pts * stream.time_base * 25) for frame in container.decode(stream)]
    assert kept[:8] == [0, 4, 7, 8, 12, 15, 16, 20], "three of four frames may be left out"
    assert find_boxes(tmp_path / "b.mp4")[:2] == ["ftyp", "moov"], "the index stands in front"


def test_sound_is_dropped(tmp_path):
    with av.open(str(tmp_path / "loud.mp4"), "w") as container:
        video, audio = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(paint_number(number), format="rgb24")
            container.mux(video.encode(frame))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 6400), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux([*video.encode(), *audio.encode(sound), *audio.encode()])
    reencode(str(tmp_path / "loud.mp4"), tmp_path / "quiet.mp4", SMALL)
    with av.open(str(tmp_path / "quiet.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert read_all(tmp_path / "quiet.mp4")[0] == list(range(10))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1280, 720), (456, 256)),
        ((720, 1280), (256, 456)),
        ((340, 256), (340, 256)),
        ((200, 112), (200, 112)),
        ((321, 241), (320, 240)),
        ((3000, 300), (2560, 256)),
        ((1, 1), (2, 2)),
    ],
)
def test_sizes_are_even_and_never_larger(size, expected):
    assert compute_size(*size, 256) == expected


def test_an_odd_size_loses_a_row_and_a_column(tmp_path):
    """Pictures that are not scaled stay where they are, pixel by pixel."""
    source = write_video(tmp_path / "odd.mkv", codec="ffv1", pix_fmt="yuv444p", width=97, height=65, num_frames=3)
    made = reencode(str(source), tmp_path / "even.mp4", Encoding(crf=1))
    with VideoReader(tmp_path / "even.mp4") as reader:
        frame = reader.get_frames([2])[0].numpy()
    assert frame.shape == (64, 96, 3) and set(made.samples) == {0, 2}
    difference = np.abs(frame.astype(int) - made.samples[2][:64, :96])
    assert made.samples[2].shape == (65, 97, 3) and difference.mean() < 3


@pytest.mark.parametrize(
    ("pix_fmt", "colorspace", "color_range"),
    [("yuv420p", 1, 1), ("yuv420p", 5, 1), ("yuv420p", 2, 0), ("yuv420p", 1, 2), ("yuvj420p", 5, 2)],
    ids=str,
)
def test_colors_stay(tmp_path, pix_fmt, colorspace, color_range):
    """Whatever matrix and range the source names: what a reader makes of the new file looks the same."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :32], picture[:, 32:64], picture[:, 64:] = [200, 30, 30], [30, 200, 30], [250, 250, 250]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1" if pix_fmt == "yuv420p" else "mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        options = {"dst_colorspace": colorspace, "dst_color_range": color_range or None}
        container.mux(stream.encode(frame.reformat(format=pix_fmt, **options)))
        container.mux(stream.encode())
    reencode(str(tmp_path / "a.mkv"), tmp_path / "b.mp4", Encoding(crf=4))
    before, after = (VideoReader(tmp_path / name).get_frames([0])[0].numpy().astype(int) for name in ("a.mkv", "b.mp4"))
    middles = np.s_[32, [16, 48, 80]]  # away from the edges, where chroma is coarse
    assert np.abs(before[middles] - after[middles]).max() <= 3


def test_only_a_range(tmp_path):
    source = write_video(tmp_path / "a.mp4", pts=UNEVEN, num_frames=len(UNEVEN))
    made = reencode(str(source), tmp_path / "b.mp4", SMALL, range_sec=(0.09, 1.033))
    numbers, index = read_all(tmp_path / "b.mp4")
    assert numbers == [2, 3, 4, 5, 6, 7, 8] and made.num_frames == 7
    assert index.times_sec == pytest.approx([(stamp - 90) / TICKS_PER_SEC for stamp in UNEVEN[2:9]])
    assert made.duration_sec == pytest.approx((1033 - 90) / TICKS_PER_SEC), "its last frame is as long as it was"
    assert made.fps == pytest.approx(7 / made.duration_sec)
    with pytest.raises(VideoDecodeError, match=r"a.mp4: no frame begins in \[7, 8\) s; it lasts 1.5"):
        reencode(str(source), tmp_path / "c.mp4", SMALL, range_sec=(7, 8))


def test_what_decodes_of_a_damaged_video(tmp_path):
    """Damage that only decoding shows: the frames are those of a full decode, and the notes say so."""
    source = write_video(tmp_path / "a.mkv", num_frames=60)
    content = bytearray(source.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    source.write_bytes(content)
    made = reencode(str(source), tmp_path / "b.mp4", SMALL)
    assert made.num_frames == len(decode_plainly(source)) == len(VideoReader(tmp_path / "b.mp4")) and made.notes
    cut = cut_file(write_video(tmp_path / "c.mkv", num_frames=60), tmp_path / "d.mkv", num_bytes=4000)
    made = reencode(str(cut), tmp_path / "e.mp4", SMALL)
    assert 0 < made.num_frames == len(decode_plainly(cut)) < 60


def test_pictures_become_a_video(tmp_path):
    from PIL import Image

    for number in range(5):
        Image.fromarray(paint_number(number)).save(tmp_path / f"{number}.png")
    made = reencode(str(tmp_path / "%01d.png#0-4"), tmp_path / "b.mp4", SMALL, pictures_fps=10)
    numbers, index = read_all(tmp_path / "b.mp4")
    assert numbers == [0, 1, 2, 3, 4] and index.fps == 10 and made.fps == 10
    assert {round((b - a) * 10, 6) for a, b in pairwise(index.times_sec)} == {1}


def test_what_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_text("no video" * 100)
    with pytest.raises(VideoDecodeError, match=r"a.mp4: cannot be opened as a video"):
        reencode(str(tmp_path / "a.mp4"), tmp_path / "b.mp4", SMALL)
    assert not (tmp_path / "b.mp4").exists()
