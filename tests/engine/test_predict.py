"""Predictions are those of a naive loop over the decoded frames, from a file and live."""

import itertools
import json
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_checkpoint import CLASS_NAMES, write_tiny_checkpoint
from torchvision.transforms.v2 import functional as F
from video_factory import decode_plainly

import hiera_video as hv
from hiera_video.data.transforms import normalize_video
from hiera_video.engine import predict as predict_module
from hiera_video.engine.predict import Predictor, Tally, predict
from hiera_video.engine.trained import load_trained
from hiera_video.video import FramesChangedError, VideoDecodeError, VideoReader
from hiera_video.video.live import LiveVideo


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pyth")


@pytest.fixture(scope="module")
def trained(checkpoint):
    return load_trained(checkpoint)


@pytest.fixture(scope="module")
def video(painted_video):
    """90 frames of 96 x 64 at 25 frames a second."""
    return str(painted_video("to_predict.mp4", num_frames=90))


def cut_crops(frames, num_crops):
    """uint8 (T, H, W, C), wider than high -> (num_crops, C, T, 32, 32), cut at short side 36 or, for three, 32."""
    height, width = frames.shape[1:3]
    short = 36 if num_crops == 1 else 32
    size = [short, width * short // height]
    resized = F.resize(frames.permute(0, 3, 1, 2), size, antialias=False)  # (T, C, h, w)
    top, spare = (short - 32 + 1) // 2, size[1] - 32
    lefts = [(spare + 1) // 2] if num_crops == 1 else [0, (spare + 1) // 2, spare]
    return torch.stack([resized[:, :, top : top + 32, x : x + 32].transpose(0, 1) for x in lefts])


def predict_naively(trained, path, *, window_frames, stride_frames, num_crops=1):
    """Probabilities (n, K) of the windows: everything is decoded, one window at a time is classified."""
    frames = torch.from_numpy(np.stack(decode_plainly(path)))
    last, probs = len(frames) - 1, []
    for start in itertools.count(0, stride_frames):
        places = [min(int(start + i * (window_frames - 1) / 3 + 1e-9), last) for i in range(4)]
        views = cut_crops(frames[places], num_crops)
        clips = normalize_video(views, mean=trained.cfg.DATA.MEAN, std=trained.cfg.DATA.STD)
        with torch.no_grad():
            probs.append(trained.model(clips).softmax(dim=1).mean(dim=0))
        if start + window_frames > last or start + stride_frames > last:
            return torch.stack(probs)


def check(result, expected):
    """Classes and probabilities of each window, and of the whole."""
    assert len(result.windows) == len(expected)
    rows = [*result.windows.itertuples(index=False), result]
    for row, probs in zip(rows, [*expected, expected.mean(dim=0)], strict=True):
        top = probs.sort(descending=True)
        assert list(row.classes) == [CLASS_NAMES[k] for k in top.indices]
        np.testing.assert_allclose(row.probabilities, top.values, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "naive"),
    [
        ({}, {"window_frames": 8, "stride_frames": 8}),
        ({"batch_size": 1}, {"window_frames": 8, "stride_frames": 8}),
        ({"window_sec": 1.0, "stride_sec": 0.4}, {"window_frames": 25, "stride_frames": 10}),
        ({"num_crops": 3, "batch_size": 4}, {"window_frames": 8, "stride_frames": 8, "num_crops": 3}),
        ({"window_sec": 99}, {"window_frames": 2475, "stride_frames": 2475}),
    ],
    ids=str,
)
def test_predictions_are_those_of_a_naive_loop(trained, video, options, naive):
    expected = predict_naively(trained, video, **naive)
    assert len(expected) == 1 or expected.std(dim=0).max() > 0.01, "windows must differ, or the test says nothing"
    result = predict(video, checkpoint=trained, top_k=5, **options)
    check(result, expected)
    starts = np.arange(len(expected)) * naive["stride_frames"] / 25
    np.testing.assert_allclose(result.windows.start_sec, starts)
    np.testing.assert_allclose(result.windows.end_sec, np.minimum(starts + naive["window_frames"] / 25, 3.6))


def test_a_live_source_is_predicted_as_the_file(trained, video):
    expected = predict(video, checkpoint=trained, window_sec=1.0, stride_sec=0.4, num_crops=3)
    predictor, tally = Predictor(trained, window_sec=1.0, stride_sec=0.4, num_crops=3), Tally(trained, 5)
    with LiveVideo(video) as source:
        windows = list(predictor.predict_live(source, tally))
    result = tally.summarize(video)
    assert [window.classes for window in windows] == expected.windows.classes.tolist()
    np.testing.assert_allclose([window.start_sec for window in windows], expected.windows.start_sec)
    np.testing.assert_allclose([window.end_sec for window in windows], expected.windows.end_sec)
    np.testing.assert_allclose(
        result.windows.probabilities.tolist(), expected.windows.probabilities.tolist(), atol=1e-6
    )
    np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=1e-6)


def test_a_live_window_is_predicted_before_the_source_goes_on(trained):
    read = []

    def come():
        for position in range(30):
            read.append(position)
            yield position / 25, torch.full((40, 40, 3), position, dtype=torch.uint8)

    source = FakeSource(come())
    spans = [
        (len(read), round(window.end_sec * 25)) for window in Predictor(trained).predict_live(source, Tally(trained, 1))
    ]
    assert spans == [(9, 8), (17, 16), (25, 24), (30, 30)]  # 8 frames and the next one


class FakeSource:
    """Even frames at 25 a second."""

    def __init__(self, frames, *, is_realtime=False):
        self.frames, self.is_realtime, self.fps, self.time_base = frames, is_realtime, Fraction(25), Fraction(1, 25)

    def __iter__(self):
        return iter(self.frames)


def test_a_live_source_ends_at_max_sec(trained, video):
    tally = Tally(trained, 2)
    with LiveVideo(video) as source:
        list(Predictor(trained).predict_live(source, tally, max_sec=1.0))
    assert tally.summarize(video).windows.end_sec.iloc[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(("is_realtime", "left_out"), [(True, 2), (False, 0)])
def test_windows_are_left_out_to_keep_up_with_a_live_source_alone(trained, monkeypatch, is_realtime, left_out, caplog):
    def come():
        for position in range(80):
            if position == 24:
                clock["now"] += 1.7  # the model took its time
            clock["now"] += 0.02
            yield position / 25, torch.zeros((40, 40, 3), dtype=torch.uint8)

    clock = {"now": 100.0}
    monkeypatch.setattr(predict_module, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    tally = Tally(trained, 1)
    windows = list(Predictor(trained).predict_live(FakeSource(come(), is_realtime=is_realtime), tally))
    result = tally.summarize("camera")
    assert (len(windows), result.num_skipped) == (10 - left_out, left_out)
    assert json.loads(result.to_json())["num_skipped"] == left_out
    assert ("slower than the source" in caplog.text) == bool(left_out)


def test_a_source_without_frames_gives_no_classes(trained):
    tally = Tally(trained, 3)
    assert not list(Predictor(trained).predict_live(FakeSource([]), tally))
    result = tally.summarize("camera")
    assert len(result.windows) == 0 and result.classes == ()
    assert json.loads(result.to_json())["windows"] == []


def test_json_holds_everything(checkpoint, video):
    result = hv.predict(video, checkpoint=checkpoint, top_k=2)
    content = json.loads(result.to_json())
    assert content["video"] == video and content["checkpoint"] == checkpoint
    assert content["weights_sha256"] == load_trained(checkpoint).sha256
    assert content["classes"] == list(result.classes) and len(content["classes"]) == 2
    assert content["num_windows"] == len(content["windows"]) == 12
    assert content["windows"][3] == {
        "start_sec": pytest.approx(0.96),
        "end_sec": pytest.approx(1.28),
        "classes": list(result.windows.classes[3]),
        "probabilities": list(result.windows.probabilities[3]),
    }


def test_more_classes_than_there_are_means_all(trained, video):
    result = predict(video, checkpoint=trained, top_k=400)
    assert sorted(result.classes) == sorted(CLASS_NAMES)
    assert sum(result.probabilities) == pytest.approx(1)


def test_classes_without_names_get_their_numbers(tmp_path, video):
    unnamed = write_tiny_checkpoint(tmp_path / "unnamed.pyth", class_names=())
    assert sorted(predict(video, checkpoint=unnamed).classes) == ["0", "1", "2", "3", "4"]


def test_options_go_on_top_of_the_checkpoint(checkpoint, video):
    result = predict(video, checkpoint=checkpoint, opts=["DATA.SAMPLING_RATE", "5"])
    assert result.windows.end_sec[0] == pytest.approx(20 / 25)


def test_a_model_of_segments_gets_the_whole_video(tmp_path, video):
    segments = load_trained(write_tiny_checkpoint(tmp_path / "segments.pyth", DATA__SAMPLING="segment"))
    result = predict(video, checkpoint=segments)
    with VideoReader(video) as reader:
        frames = reader.get_frames([11, 33, 56, 78])  # the middles of four parts of 90 frames
    clip = normalize_video(cut_crops(frames, 1), mean=segments.cfg.DATA.MEAN, std=segments.cfg.DATA.STD)
    with torch.no_grad():
        probs = segments.model(clip).softmax(dim=1)
    check(result, probs)
    with pytest.raises(ValueError, match="window_sec"):
        list(Predictor(segments).predict_live(FakeSource([]), Tally(segments, 1)))


def test_pictures_without_times_are_predicted_by_segments(tmp_path):
    from PIL import Image

    segments = write_tiny_checkpoint(tmp_path / "segments.pyth", DATA__SAMPLING="segment")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (48, 40), (number * 40, 0, 0)).save(folder / f"{number}.png")
    result = predict(str(folder), checkpoint=segments)
    assert math.isnan(result.windows.start_sec[0])
    assert json.loads(result.to_json())["windows"][0]["start_sec"] is None


def test_a_video_that_is_started_over_counts_once(trained, video, monkeypatch):
    expected = predict(video, checkpoint=trained)
    iterate = VideoReader.iterate_frames
    calls = []

    def break_once(self, indices):
        calls.append(1)
        for count, item in enumerate(iterate(self, indices)):
            if len(calls) == 1 and count == 30:
                raise FramesChangedError(self.path)
            yield item

    monkeypatch.setattr(VideoReader, "iterate_frames", break_once)
    result = predict(video, checkpoint=trained, batch_size=2)
    assert len(calls) == 2
    assert result.windows.start_sec.tolist() == expected.windows.start_sec.tolist()
    np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_crops": 2}, "num_crops is 2"),
        ({"num_crops": 0}, "num_crops is 0"),
        ({"window_sec": 0.0}, "window is 0"),
        ({"stride_sec": -1.0}, "stride is -1"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(trained, options, message):
    with pytest.raises(ValueError, match=message):
        predict("video.mp4", checkpoint=trained, **options)


def test_a_checkpoint_without_classifier_is_refused(tmp_path, video):
    mae = write_tiny_checkpoint(tmp_path / "mae.pyth", TASK="pretrain", MODEL__MODEL_NAME="mae_hiera_tiny_16x224")
    with pytest.raises(ValueError, match="mae.pyth has no classifier"):
        predict(video, checkpoint=mae)


def test_missing_and_broken_videos_are_named(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.mp4"):
        predict("nowhere.mp4", checkpoint=trained)
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        predict(str(tmp_path / "broken.mp4"), checkpoint=trained)
