"""Which videos come in which order: epochs, ranks, and the three formats of lists."""

import multiprocessing
import os
import re
import shutil
from itertools import chain
from pathlib import Path

import pytest
from video_factory import write_video

from hiera_video.config import load_config
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.loader import EpochSampler, ShardSampler, build_train_loader


def epoch_of(epoch, **changes):
    sampler = EpochSampler(**({"num_videos": 20, "num_samples": 1, "batch_videos": 4, "seed": 3} | changes))
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler) and all(key[0] == epoch for key in keys)
    return [index for _, index in keys]


def join(lists):
    return sorted(chain.from_iterable(lists))


def test_an_epoch_has_every_video_once_in_a_new_order():
    first, second = epoch_of(0), epoch_of(1)
    assert sorted(first) == sorted(second) == list(range(20)) and first != second
    assert epoch_of(0) == first and epoch_of(0, seed=4) != first


def test_repeated_sampling_needs_several_epochs_for_all_videos():
    """Effective epochs: with 4 clips a video, 4 epochs of 5 videos each go once through the 20 videos."""
    epochs = [epoch_of(epoch, num_samples=4, batch_videos=5) for epoch in range(8)]
    assert all(len(epoch) == 5 for epoch in epochs)
    assert join(epochs[:4]) == join(epochs[4:]) == list(range(20))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_global_batches(world_size):
    shards = [epoch_of(5, num_videos=22, rank=rank, world_size=world_size) for rank in range(world_size)]
    share = 4 // world_size
    batches = [join(shard[step * share : (step + 1) * share] for shard in shards) for step in range(5)]
    whole = epoch_of(5, num_videos=22)
    assert batches == [sorted(whole[step * 4 : step * 4 + 4]) for step in range(5)]


def test_too_few_videos_for_a_batch():
    with pytest.raises(ValueError, match=r"20 videos.*AUG.NUM_SAMPLE = 3.*TRAIN.BATCH_SIZE = 21"):
        epoch_of(0, num_samples=3, batch_videos=7)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_shards_part_a_list(world_size):
    shards = [list(ShardSampler(7, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert join(shards) == list(range(7))


@pytest.fixture(scope="module")
def three_forms(tmp_path_factory):
    """The same six clips as a Kinetics csv, as SSv2 json files, and as class folders."""
    folder = tmp_path_factory.mktemp("forms")
    (folder / "clips").mkdir()
    names = ["Moving something up", "Tearing something"]
    for i in range(6):
        write_video(folder / "clips" / f"{i}.webm", codec="libvpx-vp9", num_frames=10)
        for split in ("train", "val"):
            target = folder / split / f"{i % 2}_{names[i % 2]}" / f"{i}.webm"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "clips" / f"{i}.webm", target)
    lines = [f"clips/{i}.webm {i % 2}" for i in range(6)]
    entries = [f'{{"id": "{i}", "template": "{names[i % 2].replace("something", "[something]")}"}}' for i in range(6)]
    for split, official in (("train", "train"), ("val", "validation")):
        (folder / f"{split}.csv").write_text("\n".join(lines))
        (folder / f"something-something-v2-{official}.json").write_text(f"[{', '.join(entries)}]")
    (folder / "something-something-v2-labels.json").write_text(f'{{"{names[0]}": "0", "{names[1]}": "1"}}')
    return folder


def make_cfg(folder, *pairs):
    small = [
        "DATA.PATH_TO_DATA_DIR",
        str(folder),
        "MODEL.NUM_CLASSES",
        "2",
        "TRAIN.BATCH_SIZE",
        "2",
        "DATA.NUM_FRAMES",
        "4",
        "DATA_LOADER.NUM_WORKERS",
        "0",
        "DATA.TRAIN_CROP_SIZE",
        "32",
        "DATA.TRAIN_JITTER_SCALES",
        "[32, 40]",
    ]
    return load_config([], [*small, *pairs])


@pytest.mark.parametrize(
    ("pairs", "has_names"),
    [
        (["DATA.FORMAT", "kinetics"], False),
        (["DATA.FORMAT", "ssv2", "DATA.PATH_PREFIX", "{folder}/clips", "DATA.SAMPLING", "segment"], True),
        (["DATA.FORMAT", "folders"], True),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_three_forms_of_one_data_set(three_forms, pairs, has_names, split):
    cfg = make_cfg(three_forms, *(pair.format(folder=three_forms) for pair in pairs))
    videos = build_video_list(cfg, split)
    assert sorted((path.rsplit("/", 1)[1], label) for path, label in zip(videos.paths, videos.labels, strict=True)) == [
        (f"{i}.webm", i % 2) for i in range(6)
    ]
    assert (videos.class_names is not None) == has_names
    if split == "train":
        batch = next(iter(build_train_loader(cfg)))
        assert batch["video"].shape == (2, 1, 3, 4, 32, 32) and batch["bad"] == []


def test_class_names_from_a_file(three_forms, tmp_path):
    (tmp_path / "names.txt").write_text("up\ntear\n")
    cfg = make_cfg(three_forms, "DATA.CLASS_NAMES_PATH", str(tmp_path / "names.txt"))
    assert build_video_list(cfg, "val").class_names == ("up", "tear")


def test_batch_must_divide_among_processes(three_forms, monkeypatch):
    monkeypatch.setattr("hiera_video.data.loader.get_world_size", lambda: 4)
    with pytest.raises(ValueError, match=r"TRAIN.BATCH_SIZE = 2 .*processes.* 4 x 1 x 1 = 4"):
        build_train_loader(make_cfg(three_forms))


def measure_resident_mib(processes):
    """Memory that is these processes' own, with their part of what they share (Linux)."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes]
    return sum(int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[1]) for text in texts) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's accounting of memory")
def test_memory_stays_flat_over_2000_samples(painted_video, tmp_path):
    paths = [painted_video("h264.mp4"), painted_video("flat.avi", codec="mpeg4"), painted_video("flat.mkv")]
    (tmp_path / "train.csv").write_text("".join(f"{paths[i % 3]} 0\n" for i in range(2000)))
    opts = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "TRAIN.BATCH_SIZE", "8", "DATA_LOADER.NUM_WORKERS", "2"]
    opts += ["DATA.TRAIN_JITTER_SCALES", "[64, 80]", "DATA.TRAIN_CROP_SIZE", "64", "MODEL.NUM_CLASSES", "2"]
    loader = build_train_loader(load_config([], [*opts, "AUG.AA_TYPE", "rand-m7-n2-mstd0.5-inc1"]))
    batches = iter(loader)
    next(batches)
    pids = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    assert len(pids) >= 3
    # not after the last batch, with which the workers end
    after_200, at_end = [measure_resident_mib(pids) for i, _ in enumerate(batches, start=2) if i in (25, 249)]
    assert at_end <= 1.05 * after_200


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_can_begin_at_any_step(world_size):
    of = {"num_videos": 20, "num_samples": 1, "batch_videos": 4, "seed": 3, "world_size": world_size}
    samplers = [EpochSampler(**of, rank=rank) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(3)
    whole = [list(sampler) for sampler in samplers]
    for step in range(samplers[0].steps_per_epoch + 1):
        for sampler, keys in zip(samplers, whole, strict=True):
            sampler.set_epoch(3, step)
            rest = keys[step * 4 // world_size :]
            assert list(sampler) == rest and len(sampler) == len(rest)
