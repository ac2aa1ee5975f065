"""The command prints what `predict` finds, draws it on the right frames, and names what is wrong."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from tiny_checkpoint import CLASS_NAMES, write_tiny_checkpoint
from video_factory import read_number

import hiera_video as hv
from hiera_video.cli import predict as tool
from hiera_video.report import labeled_video
from hiera_video.video import FramesChangedError, VideoReader
from hiera_video.video.live import LiveVideo


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pyth")


@pytest.fixture(scope="module")
def video(painted_video):
    return str(painted_video("to_label.mp4", num_frames=50, width=192, height=128))


@pytest.fixture
def run(checkpoint, capsys):
    """Runs the command with these words; returns what it prints."""

    def call(*words):
        assert tool.main([*words, "--checkpoint", checkpoint]) == 0
        return capsys.readouterr().out

    return call


def read_video(path):
    """Frames (T, H, W, 3) and their times."""
    with av.open(str(path)) as container:
        pairs = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
    return np.stack([frame for frame, _ in pairs]), [time for _, time in pairs]


def test_a_table_over_time_and_the_whole_are_printed(run, checkpoint, video):
    result = hv.predict(video, checkpoint=checkpoint, top_k=2)
    lines = run(video, "--top-k", "2").splitlines()
    assert len(lines) == 7 + 1 + 2
    first, last = result.windows.iloc[0], result.windows.iloc[-1]
    assert lines[0].split() == f"0.00 - 0.32 s {describe(first)}".split()
    assert lines[6].split() == f"1.92 - 2.00 s {describe(last)}".split()
    assert lines[7] == f"{video}: mean of 7 windows"
    assert lines[8].split(maxsplit=1) == [f"{result.probabilities[0]:.1%}", result.classes[0]]


def describe(row):
    return ", ".join(f"{p:.1%} {name}" for name, p in zip(row.classes, row.probabilities, strict=True))


def test_json_goes_to_a_file_or_alone_to_standard_output(run, video, tmp_path):
    printed = run(video, "--json", str(tmp_path / "new" / "p.json"))
    assert "mean of 7 windows" in printed
    content = json.loads((tmp_path / "new" / "p.json").read_text())
    assert json.loads(run(video, "--json", "-")) == content
    assert sorted(content["classes"]) == sorted(CLASS_NAMES)


def test_all_classes_where_more_are_asked_for(run, video):
    assert len(json.loads(run(video, "--json", "-", "--top-k", "99"))["classes"]) == len(CLASS_NAMES)


def test_config_keys_may_follow(run, video):
    printed = run(video, "--json", "-", "DATA.SAMPLING_RATE", "5")
    assert json.loads(printed)["windows"][0]["end_sec"] == pytest.approx(0.8)


def test_live_and_file_say_the_same(run, video):
    from_file, live = run(video, "--stride-sec", "0.2"), run(video, "--stride-sec", "0.2", "--live")
    assert from_file == live and "mean of 10 windows" in live
    assert json.loads(run(video, "--live", "--json", "-"))["num_windows"] == 7


def test_live_stops_at_max_sec_and_at_ctrl_c(run, video, monkeypatch):
    assert "mean of 3 windows" in run(video, "--live", "--max-sec", "0.8")
    frames = LiveVideo.__iter__

    def interrupt(self):
        for count, item in enumerate(frames(self)):
            if count == 20:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(LiveVideo, "__iter__", interrupt)
    lines = run(video, "--live").splitlines()
    assert len(lines) == 2 + 1 + len(CLASS_NAMES) and "mean of 2 windows" in lines[2]


def test_the_labeled_video_has_all_frames_at_their_times(run, video, tmp_path):
    run(video, "--output-video", str(tmp_path / "new" / "out.mp4"))
    frames, times = read_video(tmp_path / "new" / "out.mp4")
    originals, original_times = read_video(video)
    assert frames.shape == originals.shape
    assert times == pytest.approx(original_times)
    difference = np.abs(frames.astype(int) - originals).mean(axis=-1)  # (T, H, W)
    assert (difference[:, 8:60, 8:100].mean(axis=(1, 2)) > 30).all()
    assert difference[:, :, 180:].mean() < 6  # compressed again
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out.mp4"]
    with av.open(str(tmp_path / "new" / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 25


def test_labels_change_with_the_windows(run, video, tmp_path, monkeypatch):
    shown = []

    class Recorder:
        def __init__(self, width, height, **options):
            pass

        def paint(self, frame, lines):
            shown.append((read_number(frame), tuple(lines)))

    monkeypatch.setattr(labeled_video, "LabelPainter", Recorder)
    printed = run(video, "--output-video", str(tmp_path / "out.mp4"), "--top-k", "1").splitlines()
    assert [number for number, _ in shown] == list(range(50))
    assert [label for _, (label,) in shown] == [printed[number // 8].split("s  ")[1] for number in range(50)]


def test_uneven_times_and_odd_sizes_are_kept(run, painted_video, tmp_path):
    pts = [0, 40, 200, 240, 1000, 1033, 1500]
    path = painted_video("odd.webm", num_frames=7, pts=pts, width=97, height=65, codec="libvpx-vp9")
    run(str(path), "--output-video", str(tmp_path / "out.mp4"))
    frames, times = read_video(tmp_path / "out.mp4")
    assert frames.shape == (7, 64, 96, 3)
    assert times == pytest.approx([stamp / 1000 for stamp in pts], abs=1e-4)


def test_the_video_is_started_over_when_its_frames_change(run, video, tmp_path, monkeypatch):
    iterate, calls = VideoReader.iterate_frames, []

    def break_late(self, indices):
        calls.append(len(indices))
        for count, item in enumerate(iterate(self, indices)):
            if len(calls) == 2 and count == 20:  # the second: what is drawn on
                raise FramesChangedError(self.path)
            yield item

    monkeypatch.setattr(VideoReader, "iterate_frames", break_late)
    run(video, "--output-video", str(tmp_path / "out.mp4"))
    assert calls == [calls[0], 50, 50]
    assert len(read_video(tmp_path / "out.mp4")[0]) == 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4"], "error: nowhere.mp4: no such file"),
        (["{video}", "--top-k", "0"], "error: top_k is 0"),
        (["{video}", "--checkpoint", "nowhere.pyth"], "error: nowhere.pyth"),
        (["{video}", "--output-video", "{video}"], "is the video itself"),
        (["{video}", "--output-video", "{folder}/out.mp4", "--font", "nowhere.ttf"], "error: font nowhere.ttf"),
        (["{video}", "DATA.NUM_FRAME", "3"], "did you mean DATA.NUM_FRAMES"),
        (["/dev/video97"], "error: /dev/video97"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(checkpoint, video, tmp_path, capsys, words, message):
    words = [word.format(video=video, folder=tmp_path) for word in words]
    before = Path(video).read_bytes()
    assert tool.main(["--checkpoint", checkpoint, *words]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir()) and Path(video).read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [["-", "--output-video", "out.mp4"], ["video.mp4", "--max-sec", "3"], ["video.mp4", "--topk", "3"]],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main([*words, "--checkpoint", "tiny.pyth"])
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err


def test_a_checkpoint_of_pre_training_is_refused(tmp_path, video, capsys):
    mae = write_tiny_checkpoint(tmp_path / "mae.pyth", TASK="pretrain", MODEL__MODEL_NAME="mae_hiera_tiny_16x224")
    assert tool.main([video, "--checkpoint", mae]) == 1
    assert "has no classifier" in capsys.readouterr().err
