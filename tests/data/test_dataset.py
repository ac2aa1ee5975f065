"""Samples: what is in them, that they depend on (seed, epoch, index, view) alone, and what becomes of broken videos."""

import numpy as np
import pytest
import torch
from pytorchvideo.data.clip_sampling import RandomClipSampler as PtvRandomClipSampler
from torch.utils.data import DataLoader
from video_factory import read_number, write_video

from hiera_video.data.clip_sampling import PytorchVideoClipSampler, RandomClipSampler, UniformClipSampler
from hiera_video.data.dataset import VideoDataset
from hiera_video.data.lists import VideoList
from hiera_video.data.loader import EpochSampler
from hiera_video.data.transforms import ClipTransform, EvalTransform, RandomResizedCrop, TrainTransform
from hiera_video.utils.rng import seeded
from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video import manifest as manifest_module


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six videos of 30 frames, labels 0 to 5; frames show their number."""
    folder = tmp_path_factory.mktemp("numbered")
    paths = [write_video(folder / f"{i}.mp4", num_frames=30) for i in range(6)]
    return VideoList(paths=np.array([str(path) for path in paths]), labels=np.arange(6))


@pytest.fixture
def with_broken(videos, tmp_path):
    """The same list with a file of no bytes at position 2 and a missing one at position 4."""
    paths = videos.paths.astype(object)
    (tmp_path / "empty.mp4").write_bytes(b"")
    paths[2], paths[4] = str(tmp_path / "empty.mp4"), str(tmp_path / "missing.mp4")
    return VideoList(paths=paths.astype(str), labels=videos.labels)


def augment():
    return TrainTransform(RandomResizedCrop(32), color_jitter=(0.4, 0.4, 0.4), rand_augment="rand-m7-n2-mstd0.5-inc1")


def train_set(videos, **changes):
    arguments = {
        "clip_sampler": RandomClipSampler(4, 2, 25),
        "transform": augment(),
        "num_samples": 2,
        "seed": 7,
    }
    return VideoDataset(videos, **(arguments | changes))


class KeepPixels(ClipTransform):
    """Whole frames, squeezed to squares."""

    size_px = 64

    def prepare(self, frames):
        return frames[:, :, torch.arange(64) * frames.shape[2] // 64]

    def write_views(self, frames, views):
        views.copy_(torch.stack(frames).permute(3, 0, 1, 2)[None])  # (1, C, T, H, W)


def numbers(clip):
    """Painted frame numbers of a clip (C, T, H, W)."""
    return [read_number(frame) for frame in clip.permute(1, 2, 3, 0)]


def load_epochs(dataset, num_workers, epochs=(0, 1)):
    sampler = EpochSampler(len(dataset), num_samples=1, batch_videos=2, seed=7)
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=VideoDataset.collate,
        persistent_workers=num_workers > 0,
    )
    batches = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_the_same_batches_with_no_and_two_workers(videos):
    """Persistent workers included: they must learn of the new epoch, and must not share or repeat random numbers."""
    alone, together = (load_epochs(train_set(videos), workers) for workers in (0, 2))
    assert len(alone) == len(together) == 6
    for first, second in zip(alone, together, strict=True):
        assert torch.equal(first["video"], second["video"]) and torch.equal(first["index"], second["index"])
    clips = torch.cat([batch["video"].flatten(0, 1) for batch in alone])  # all views of both epochs
    assert len({clip.numpy().tobytes() for clip in clips}) == len(clips) == 24, "every clip is drawn anew"


def test_a_sample_does_not_depend_on_what_was_drawn_before(videos):
    dataset = train_set(videos)
    first = dataset[3, 5]["video"]
    torch.rand(10), np.random.rand(3), dataset[0, 1]
    assert torch.equal(dataset[3, 5]["video"], first)
    assert not torch.equal(dataset[4, 5]["video"], first)
    assert not torch.equal(train_set(videos, seed=8)[3, 5]["video"], first)
    assert not torch.equal(first[0], first[1])


def test_loading_leaves_the_global_generators_alone(videos):
    dataset = train_set(videos)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    dataset[0]
    assert torch.equal(torch.rand(2), expected)


def test_views_of_a_test_sample(videos):
    """Views are clips x crops, clips first, and hold exactly the frames that the sampler names."""
    sampler = UniformClipSampler(4, 2, 25, 3, use_offset_sampling=True)
    crops = EvalTransform(num_crops=3, short_side_px=64, crop_size_px=64)
    dataset = VideoDataset(videos, clip_sampler=sampler, transform=crops, bad_view_shape=(9, 3, 4, 64, 64))
    sample = dataset[1]
    assert sample["video"].shape == (9, 3, 4, 64, 64) and sample["video"].dtype == torch.uint8
    assert (sample["label"], sample["index"], sample["bad"]) == (1, 1, [])
    indices = sampler.get_frame_indices(30, 25.0)
    frames = VideoReader(videos.paths[1]).get_frames(range(30))
    for clip in range(3):
        expected = crops(frames[torch.from_numpy(indices[clip])])
        assert torch.equal(sample["video"][3 * clip : 3 * clip + 3], expected)


def test_training_views_are_those_of_each_clip_alone(videos):
    """Clips that share decoded frames, against the plain way: each clip by itself, under the view's own seed."""
    dataset = train_set(videos, num_samples=3, clip_sampler=RandomClipSampler(16, 1, 25))
    sample = dataset[2, 1]["video"]
    frames = VideoReader(videos.paths[1]).get_frames(range(30))
    for view in range(3):
        with seeded(7, 2, 1, view, 0):
            indices = dataset.clip_sampler.get_frame_indices(30, 25.0)[0]
        with seeded(7, 2, 1, view, 1):
            expected = augment()(frames[torch.from_numpy(indices)])
        assert torch.equal(sample[view], expected[0])


def test_a_frame_is_prepared_once(videos):
    """Resizing is done for the frames that clips share, not for the clips."""
    prepared = []

    class Counting(EvalTransform):
        def prepare(self, frames):
            prepared.append(len(frames))
            return super().prepare(frames)

    transform = Counting(num_crops=3, short_side_px=48, crop_size_px=32)
    sampler = UniformClipSampler(16, 1, 25, 5, use_offset_sampling=True)
    sample = train_set(videos, clip_sampler=sampler, transform=transform, num_samples=1)[0]
    assert sample["video"].shape == (15, 3, 16, 32, 32) and sample["video"].is_contiguous()
    assert prepared == [len(np.unique(sampler.get_frame_indices(30, 25.0)))] and prepared[0] <= 30


def test_a_video_is_opened_and_decoded_once(videos, monkeypatch):
    opened, asked = [], []

    class Counting(VideoReader):
        def __init__(self, path, **options):
            opened.append(path)
            super().__init__(path, **options)

        def get_frames(self, indices):
            asked.append(list(indices))
            return super().get_frames(indices)

    monkeypatch.setattr(manifest_module, "VideoReader", Counting)
    sample = train_set(videos, num_samples=4, clip_sampler=RandomClipSampler(16, 1, 25), transform=KeepPixels())[0]
    assert opened == [videos.paths[0]] and len(asked) == 1
    assert asked[0] == sorted(set(asked[0])), "a frame that several clips share is decoded once"
    shown = [numbers(clip) for clip in sample["video"]]
    assert all(clip == list(range(clip[0], clip[0] + 16)) for clip in shown) and len({clip[0] for clip in shown}) > 1


def test_broken_videos_are_replaced_in_training(with_broken):
    dataset = train_set(with_broken)
    sample = dataset[0, 2]
    assert sample["index"] not in (2, 4) and sample["label"] == sample["index"]
    assert sample["bad"][0][:2] == (2, with_broken.paths[2]) and "empty.mp4" in sample["bad"][0][2]
    assert torch.equal(sample["video"], dataset[0, 2]["video"]), "by the same one each time"
    assert {dataset[epoch, 2]["index"] for epoch in range(8)} - {sample["index"]}, "by others in other epochs"
    assert "missing.mp4" in dataset[0, 4]["bad"][0][2]


def test_broken_videos_are_reported_in_testing(with_broken):
    dataset = train_set(with_broken, bad_view_shape=(2, 3, 4, 32, 32))
    sample = dataset[2]
    assert sample["index"] == sample["label"] == 2 and sample["bad"][0][0] == 2
    assert sample["video"].shape == (2, 3, 4, 32, 32) and not sample["video"].any()
    batch = VideoDataset.collate([dataset[i] for i in range(6)])
    assert batch["video"].shape == (6, 2, 3, 4, 32, 32) and [entry[0] for entry in batch["bad"]] == [2, 4]


def test_a_list_of_broken_videos_stops(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    broken = VideoList(paths=np.array([str(tmp_path / "empty.mp4")]), labels=np.array([0]))
    with pytest.raises(VideoDecodeError, match=r"11 videos in a row could not be decoded(.|\n)*empty.mp4"):
        train_set(broken)[0]


def test_pytorchvideos_sampler_can_be_plugged_in(videos):
    sampler = PytorchVideoClipSampler(PtvRandomClipSampler(clip_duration=0.4), num_frames=5, max_clips=1)
    dataset = train_set(videos, clip_sampler=sampler, transform=KeepPixels(), num_samples=3)
    first, again = dataset[0, 1]["video"], dataset[0, 1]["video"]
    assert torch.equal(first, again) and first.shape[:3] == (3, 3, 5)
    shown = [numbers(clip) for clip in first]
    assert (
        all(clip == sorted(clip) and clip[-1] - clip[0] < 10 for clip in shown) and len({clip[0] for clip in shown}) > 1
    )
