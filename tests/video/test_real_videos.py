"""Real files from other people: the reader finds as many frames as listed here, the same as a plain full decode."""

import random

import numpy as np
import pytest
import torch
from video_factory import decode_plainly

from hiera_video.video import VideoReader, available_backends

NUM_DECODABLE = {
    "apply_eye_makeup_320x240.avi": 164,
    "arm_wrestling_340x256.mp4": 280,
    "av1_video.mkv": 125,
    "cleaning_pool_340x256.mp4": 300,
    "daily_vfr_15fps_640x480.mp4": 109,
    "discard_first_keyframe.mp4": 25,
    "dog.mp4": 150,
    "fall_vfr_640x480.mp4": 89,
    "goat.mp4": 150,
    "nasa_13013.mp4": 325,
    "nasa_13013_rotated.mp4": 17,
    "sign_again_640x480.mkv": 77,
    "sign_book_640x480.mkv": 109,
    "test_non_zero_start.mp4": 12,
    "testsrc2_vp9.webm": 30,
}


@pytest.mark.parametrize("name", NUM_DECODABLE)
def test_frames_equal_a_full_decode(shared_videos, name):
    path = shared_videos / name
    expected = decode_plainly(path)
    assert len(expected) == NUM_DECODABLE[name]
    draw = random.Random(name)
    with VideoReader(path) as reader, VideoReader(path, index=reader.index) as indexed, VideoReader(path) as complete:
        complete._main._leaves_out = False
        assert len(reader) == NUM_DECODABLE[name]
        assert len(reader.times_sec) == len(reader)
        for size in (1, 4, 16):
            indices = draw.choices(range(len(reader)), k=size)
            for way in (reader, indexed, complete):
                assert np.array_equal(way.get_frames(indices).numpy(), np.stack([expected[i] for i in indices]))


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", NUM_DECODABLE)
def test_other_backends_give_the_same_frames(shared_videos, name, backend):
    if backend not in available_backends():
        pytest.skip(f"{backend} cannot be loaded here")
    draw = random.Random(name)
    indices = draw.choices(range(NUM_DECODABLE[name]), k=12)
    with VideoReader(shared_videos / name) as reader:
        expected = reader.get_frames(indices)
    with VideoReader(shared_videos / name, backend) as reader:
        assert len(reader) == NUM_DECODABLE[name]
        found = reader.get_frames(indices)
    assert (found.float() - expected.float()).abs().mean(dim=(1, 2, 3)).max() < 1  # levels of 255


def test_the_other_stream_of_a_file_can_be_chosen(shared_videos):
    with VideoReader(shared_videos / "nasa_13013.mp4", stream_index=3) as reader:
        assert len(reader) == 390
        assert (reader.height, reader.width) == (270, 480)


def test_rotated_video_stands_upright(shared_videos):
    with VideoReader(shared_videos / "nasa_13013_rotated.mp4") as reader:
        assert (reader.height, reader.width) == (480, 270)
        assert reader.get_frames([0]).dtype == torch.uint8
