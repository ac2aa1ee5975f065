"""Files that are wrong in every way that files are wrong: they are named, and nothing crashes, hangs or leaks."""

import collections
import json
import os
import random
import resource
import struct
import time
from pathlib import Path

import av
import ava_factory
import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler
from video_factory import write_video

from hiera_video.data.action_lists import load_ava_persons, load_ava_truth, load_exclusions, load_label_map
from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.box_checks import find_bad_boxes
from hiera_video.data.box_tables import Facts, load_box_csv, load_box_json
from hiera_video.data.clip_sampling import UniformClipSampler
from hiera_video.data.dataset import VideoDataset
from hiera_video.data.lists import VideoList
from hiera_video.data.transforms import EvalTransform
from hiera_video.video import VideoDecodeError

BOXES = (b"moov", b"mvhd", b"trak", b"tkhd", b"mdhd", b"stsd", b"stts", b"stsz", b"stco", b"stsc", b"stss", b"elst")
HTML = b"<!DOCTYPE html><html><head><title>429 Too Many Requests</title></head><body>slow down</body></html>"


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Whole files of several kinds."""
    folder = tmp_path_factory.mktemp("sources")
    paths = [
        write_video(folder / "plain.mp4", num_frames=12),
        write_video(folder / "one_frame.mp4", num_frames=1),
        write_video(folder / "fast.mp4", num_frames=24, fps=240),
        write_video(folder / "plain.mkv", num_frames=12),
        write_audio(folder / "audio_only.mp4"),
    ]
    return [Path(path).read_bytes() for path in paths]


def mutate(draw, content, others):
    """One random way to spoil a file."""
    kind = draw.choice(["cut", "flip", "box", "box", "claim", "html", "noise", "mix", "zeros", "repeat"])
    data = bytearray(content)
    if kind == "cut":
        return bytes(data[: draw.randrange(len(data))])
    if kind == "flip":
        for _ in range(draw.choice([1, 10, 200])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    if kind in ("box", "claim"):
        places = [place for box in BOXES if (place := bytes(data).find(box)) >= 4]
        if places:
            place = draw.choice(places)
            # The size before the name; or, behind it, the counts and durations that the box claims.
            at = place - 4 if kind == "box" else place + 4 + 4 * draw.randrange(1, 8)
            value = draw.choice([0, 1, 7, 8, 2**31 - 1, 2**31, 2**32 - 1, draw.randrange(2**32)])
            data[at : at + 4] = struct.pack(">I", value)
    if kind == "html":
        return HTML + bytes(data[: draw.choice([0, 1000])])
    if kind == "noise":
        return draw.randbytes(draw.choice([0, 1, 8, 1000]))
    if kind == "mix":
        other, cut = draw.choice(others), draw.randrange(len(data))
        return bytes(data[:cut] + other[min(cut, len(other)) :])
    if kind == "zeros":
        start = draw.randrange(len(data))
        end = min(start + draw.choice([16, 500, 10**6]), len(data))
        data[start:end] = bytes(end - start)
    if kind == "repeat":
        return bytes(data + data)
    return bytes(data)


NAMES = ("a b", "it's", 'say "x"', "new\nline", "tab\there", "percent%20d", "dash-", "ünï", "#1-3")
NAMES += ("?x=1", "a:b", "[x]", "{0}")


def write_odd_places(folder, content):
    """Paths that are no plain files, or have names that trouble programs."""
    paths = []
    for name in NAMES:
        paths.append(folder / f"{name}.mp4")
        paths[-1].write_bytes(content)
    (folder / "folder.mp4").mkdir()
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "to_nothing.mp4").symlink_to(folder / "nothing")
    (folder / "forbidden.mp4").write_bytes(content)
    (folder / "forbidden.mp4").chmod(0)
    paths += [folder / f"{name}.mp4" for name in ("folder", "loop", "to_nothing", "forbidden", "n" * 300)]
    return paths


def make_dataset(paths):
    return VideoDataset(
        VideoList(np.array([str(path) for path in paths]), np.zeros(len(paths), np.int64), None),
        clip_sampler=UniformClipSampler(num_frames=4, sampling_rate=1, target_fps=30, num_clips=2),
        transform=EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32),
        bad_view_shape=(2, 3, 4, 32, 32),
    )


@pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_named(tmp_path, sources, count):
    draw = random.Random(0)
    paths = write_odd_places(tmp_path, sources[0])
    for number in range(count):
        paths.append(tmp_path / f"{number}.mp4")
        paths[-1].write_bytes(mutate(draw, draw.choice(sources), sources))
    dataset = make_dataset(paths)
    num_files, peak_kib = len(os.listdir("/proc/self/fd")), 0
    num_bad, slowest_sec = 0, 0.0
    for index in range(len(dataset)):
        begin = time.monotonic()
        sample = dataset[index]
        slowest_sec = max(slowest_sec, time.monotonic() - begin)
        assert sample["video"].shape == (2, 3, 4, 32, 32)
        for entry in sample["bad"]:
            num_bad += 1
            assert entry.position == index and str(paths[index]) in entry.reason, entry
        if index == 100:
            peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib) / 1024
    print(
        f"{len(dataset)} files: {num_bad} named as bad, slowest {slowest_sec:.2f} s, memory grew by {grown_mib:.0f} MiB"
    )
    assert count / 4 < num_bad < len(dataset)
    assert len(os.listdir("/proc/self/fd")) <= num_files + 1, "a file stays open"
    assert slowest_sec < 60 and grown_mib < 500


def test_odd_names_are_read_and_odd_places_are_named(tmp_path, sources):
    paths = write_odd_places(tmp_path, sources[0])
    dataset = make_dataset(paths)
    bad = {index for index in range(len(paths)) if dataset[index]["bad"]}
    found = {paths[index].name for index in bad}
    assert found - {"forbidden.mp4"} == {"folder.mp4", "loop.mp4", "to_nothing.mp4", "n" * 300 + ".mp4"}
    assert os.geteuid() == 0 or "forbidden.mp4" in found  # nothing is forbidden to root


def test_sizes_from_one_pixel_to_8k(tmp_path):
    sizes = [(2, 2), (16, 7680), (7680, 4320)]
    paths = []
    for width, height in sizes:
        path = tmp_path / f"{width}x{height}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=30)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for _ in range(2):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 128, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        paths.append(path)
    dataset = make_dataset(paths)
    for index in range(len(paths)):
        assert dataset[index]["bad"] == [], paths[index]


@pytest.mark.slow
def test_a_loader_with_workers_gets_through_them(tmp_path, sources):
    draw = random.Random(1)
    paths = []
    for number in range(200):
        paths.append(tmp_path / f"{number}.mp4")
        paths[-1].write_bytes(mutate(draw, draw.choice(sources), sources))
    dataset = make_dataset(paths)
    loader = BatchLoader(dataset, sampler=SequentialSampler(dataset), batch_size=8, num_workers=2, timeout_sec=30)
    batches = list(loader)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(200))
    assert not dataset.given_up


def test_errors_are_of_the_promised_kinds(tmp_path, sources):
    draw = random.Random(2)
    dataset = make_dataset([tmp_path / "x.mp4"])
    outcomes = collections.Counter()
    for _ in range(60):
        (tmp_path / "x.mp4").write_bytes(mutate(draw, draw.choice(sources), sources))
        try:
            dataset._read_views(0, 0)
            outcomes["decoded"] += 1
        except (VideoDecodeError, OSError) as error:  # any other kind ends the test
            assert "x.mp4" in str(error)
            outcomes["refused"] += 1
    assert min(outcomes["decoded"], outcomes["refused"]) > 5, outcomes


OWN_BOXES = "video,time_sec,x1,y1,x2,y2,label,person\na,1.5,20,10,100,90,run,4\nb,2,32,12,64,48,jump,\n"
COCO_BOXES = {
    "videos": [{"id": 7, "name": "b"}],
    "images": [
        {"id": 1, "video": "a", "time_sec": 1.5, "width": 20, "height": 10},
        {"id": 2, "video_id": 7, "frame_id": 4},
    ],
    "annotations": [
        {"id": 10, "image_id": 1, "bbox": [2, 1, 8, 8], "category_id": 3, "person": 4},
        {"id": 11, "image_id": 2, "bbox": [2, 1, 8, 8], "category_id": 2, "track_id": 4, "score": 0.5},
    ],
    "categories": [{"id": 3, "name": "run"}, {"id": 2, "name": "jump"}],
}


def mutate_text(draw, text):
    """A text with a few bytes changed, put in, left out or repeated."""
    data = bytearray(text.encode())
    for _ in range(draw.choice([1, 1, 1, 5, 20])):
        place, kind = draw.randrange(len(data) + 1), draw.randrange(4)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            words = (b",", b"\n", b'"', b"\0", b"nan", b"-", b"\r", b"}", b"1e400", b"\xff", b",,,,,")
            data[place:place] = draw.choice(words)
        elif kind == 2:
            del data[place : place + draw.choice([1, 3, 30])]
        else:
            data[place:place] = data[draw.randrange(len(data) + 1) :][: draw.choice([1, 8, 60])]
    return bytes(data)


def mutate_tree(draw, tree):
    """An object of json with some values replaced or left out."""
    if draw.random() < 0.03:
        return draw.choice([None, True, -1, 0, 1e400, float("nan"), "x", "", [], {}, [1, 2], {"a": 1}, 10**400, 2**60])
    if isinstance(tree, dict):
        return {key: mutate_tree(draw, value) for key, value in tree.items() if draw.random() > 0.02}
    return [mutate_tree(draw, value) for value in tree] if isinstance(tree, list) else tree


def test_mutated_lists_of_boxes_are_read_or_named(tmp_path):
    draw, facts, outcomes = random.Random(0), Facts(lambda video: (10, 10), lambda video, frame: frame / 10), set()
    readers = {
        "truth": (load_ava_truth, "\n".join(ava_factory.TRAIN)),
        "persons": (load_ava_persons, "\n".join(ava_factory.PERSONS)),
        "exclusions": (load_exclusions, "a,0903\nb,0904\n"),
        "map": (load_label_map, ava_factory.CLASSES),
        "csv": (lambda path: load_box_csv(path, facts)[0], OWN_BOXES),
        "text of json": (lambda path: load_box_json(path, facts)[0], json.dumps(COCO_BOXES)),
        "json": (lambda path: load_box_json(path, facts)[0], None),
    }
    path = tmp_path / "list.txt"
    for _ in range(60):
        for name, (read, text) in readers.items():
            if text is None:
                path.write_text(json.dumps(mutate_tree(draw, COCO_BOXES)))
            else:
                path.write_bytes(mutate_text(draw, text))
            try:
                table = read(str(path))
            except ValueError as error:  # any other kind ends the test
                assert "list.txt" in str(error)
                outcomes.add((name, "refused"))
            else:
                outcomes.add((name, "read"))
                if name not in ("exclusions", "map"):
                    find_bad_boxes(table)
    wanted = {(name, kind) for name in readers for kind in ("read", "refused")}
    assert outcomes >= wanted - {("text of json", "read")}  # next to no change leaves json json
