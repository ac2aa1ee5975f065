"""Compares our input path with those of PyAV, decord, torchcodec and PyTorchVideo, side by side on one core.

    python benchmarks/bench_input.py --video VIDEO.mp4 --runs 15

Each run takes another clip, the same one for all sides, and opens the file anew; sides alternate. Times are medians; a
ratio is the median of the ratios of neighboring runs (above 1 ours is faster). The process keeps to one core, except
for the loader, whose workers may use all. "manifest" is ours where the frames of the file are known beforehand.
The decoder's own time is a decode of the same packets with the same frames left out, nothing converted. Then come the
rows of bench_prepare.py: the same video, and the same enlarged to 1280x720, each as it is and as `hiera-video prepare`
writes it. The last line is one JSON object.
"""

import argparse
import importlib.metadata
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from pytorchvideo.data import LabeledVideoDataset
from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler, RandomClipSampler
from pytorchvideo.data.encoded_video import EncodedVideo
from torch.utils.data import DataLoader, SequentialSampler
from torchvision.transforms import Compose

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")

import common  # noqa: E402

from hiera_video.config.defaults import get_cfg  # noqa: E402
from hiera_video.data.clip_sampling import build_clip_sampler  # noqa: E402
from hiera_video.data.dataset import VideoDataset  # noqa: E402
from hiera_video.data.lists import VideoList  # noqa: E402
from hiera_video.data.transforms import build_eval_transform, build_train_transform  # noqa: E402
from hiera_video.utils import ptv_compat  # noqa: E402, F401
from hiera_video.video import VideoReader, available_backends  # noqa: E402
from hiera_video.video.pyav_backend import _plan_runs  # noqa: E402

# isort: split
from pytorchvideo import transforms as ptv  # noqa: E402
from pytorchvideo.transforms.functional import uniform_temporal_subsample  # noqa: E402

NUM_FRAMES, RATE, SIZE_PX = 16, 4, 224
NUM_CLIPS, NUM_CROPS = 5, 3
MEAN, STD = (0.45,) * 3, (0.225,) * 3


# ---- one clip as RGB, by each library: the sides of the first two rows


def read_ours(path: str, indices: list[int]) -> torch.Tensor:
    with VideoReader(path) as reader:
        return reader.get_frames(indices)


def read_with_manifest(index, path: str, indices: list[int]) -> torch.Tensor:
    with VideoReader(path, index=index) as reader:
        return reader.get_frames(indices)


def read_pyav(times: list[Fraction], path: str, indices: list[int]) -> np.ndarray:
    """From the key frame before the first wanted frame, all frames to the last one; only wanted ones become RGB."""
    wanted = {times[i] for i in indices}
    frames = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(min(wanted) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.pts * stream.time_base in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == len(wanted):
                    break
    return np.stack(frames)


def read_decord(path: str, indices: list[int]) -> np.ndarray:
    import decord

    return decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


def read_torchcodec(path: str, indices: list[int]) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC").get_frames_at(indices).data


def read_pytorchvideo(times: list[Fraction], path: str, indices: list[int]) -> torch.Tensor:
    """The clip's interval, of which its frames are then taken."""
    video = EncodedVideo.from_path(path, decode_audio=False)
    clip = video.get_clip(times[min(indices)] - times[0], times[max(indices)] - times[0])["video"]  # (C, T, H, W)
    video.close()
    return uniform_temporal_subsample(clip, len(indices))


def make_readers(path: str) -> dict[str, Callable]:
    with VideoReader(path) as reader:
        index = reader.index
    times = [pts * index.time_base for pts in index.pts]
    readers = {"ours": read_ours, "manifest": partial(read_with_manifest, index), "PyAV": partial(read_pyav, times)}
    readers |= {"decord": read_decord} if "decord" in available_backends() else {}
    readers |= {"torchcodec": read_torchcodec} if "torchcodec" in available_backends() else {}
    return readers | {"PyTorchVideo": partial(read_pytorchvideo, times)}


# ---- samples of data sets


def make_cfg(num_samples: int = 1, rand_augment: bool = True):
    cfg = get_cfg()
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = NUM_FRAMES, RATE
    cfg.DATA.TRAIN_CROP_SIZE = cfg.DATA.TEST_CROP_SIZE = SIZE_PX
    cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE, cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE = [0.08, 1.0], [0.75, 1.3333]
    cfg.AUG.NUM_SAMPLE = num_samples
    cfg.AUG.AA_TYPE = "rand-m7-n2-mstd0.5-inc1" if rand_augment else ""
    return cfg


def make_training_set(path: str, length: int, **options) -> VideoDataset:
    cfg = make_cfg(**options)
    return VideoDataset(
        VideoList(np.array([path] * length), np.zeros(length, np.int64)),
        clip_sampler=build_clip_sampler(cfg, num_clips=1, is_training=True),
        transform=build_train_transform(cfg),
        num_samples=cfg.AUG.NUM_SAMPLE,
    )


def make_test_set(path: str) -> VideoDataset:
    cfg = make_cfg()
    return VideoDataset(
        VideoList(np.array([path]), np.zeros(1, np.int64)),
        clip_sampler=build_clip_sampler(cfg, num_clips=NUM_CLIPS, is_training=False),
        transform=build_eval_transform(cfg, num_crops=NUM_CROPS, crop_size_px=SIZE_PX),
    )


def iterate_pytorchvideo(path: str, sampler, transform: Callable):
    """PyTorchVideo's own data set, over the same video again and again."""
    return iter(
        LabeledVideoDataset([(path, {"label": 0})] * 10_000, sampler, SequentialSampler, transform, decode_audio=False)
    )


def make_pytorchvideo_training(path: str):
    augment = ptv.create_video_transform(
        mode="train",
        num_samples=None,
        crop_size=SIZE_PX,
        aug_type="randaug",
        aug_paras={"magnitude": 7, "num_layers": 2, "prob": 0.5, "sampling_hparas": {"sampling_std": 0.5}},
        random_resized_crop_paras={},
    )
    # its decoder gives floats, its RandAugment takes bytes
    steps = Compose([ptv.UniformTemporalSubsample(NUM_FRAMES), lambda clip: clip.to(torch.uint8), augment])
    sampler = RandomClipSampler(clip_duration=Fraction(NUM_FRAMES * RATE, 30))
    return iterate_pytorchvideo(path, sampler, ptv.ApplyTransformToKey("video", steps))


def make_pytorchvideo_test(path: str):
    steps = Compose(
        [ptv.UniformTemporalSubsample(NUM_FRAMES), ptv.Div255(), ptv.Normalize(MEAN, STD), ptv.ShortSideScale(SIZE_PX)]
    )
    sampler = ConstantClipsPerVideoSampler(Fraction(NUM_FRAMES * RATE, 30), NUM_CLIPS, NUM_CROPS)
    transform = Compose([ptv.ApplyTransformToKey("video", steps), ptv.UniformCropVideo(SIZE_PX)])
    return iterate_pytorchvideo(path, sampler, transform)


# ---- measuring


def compare(sides: dict[str, Callable], runs: int) -> dict:
    """Medians (s) by side, and the ratio of each to the first one."""
    seconds = {side: [] for side in sides}
    for run in range(runs + 1):
        for side in list(sides) if run % 2 else reversed(sides):
            seconds[side].append(common.time_run(sides[side], run))
    seconds = {side: values[1:] for side, values in seconds.items()}  # the first run warms up
    first = next(iter(seconds.values()))
    ratios = {
        side: statistics.median(b / a for a, b in zip(first, values, strict=True)) for side, values in seconds.items()
    }
    return {side: {"ms": statistics.median(v) * 1e3, "ratio": ratios[side]} for side, v in seconds.items()}


def print_row(title: str, row: dict, unit: str = "ms") -> None:
    print(f"\n{title}")
    for side, values in row.items():
        print(f"    {side:16}{values['ms']:9.1f} {unit}{values['ratio']:8.2f}x", flush=True)


def compare_clips(path: str, runs: int) -> dict:
    readers = make_readers(path)
    with VideoReader(path) as reader:
        length = len(reader)
    span = (NUM_FRAMES - 1) * RATE + 1

    def draw_clip(run: int) -> list[int]:
        start = random.Random(run).randrange(max(length - span, 1))
        return [min(start + i * RATE, length - 1) for i in range(NUM_FRAMES)]

    def draw_spread(run: int) -> list[int]:
        part, draw = length / NUM_FRAMES, random.Random(run)
        return [int((i + draw.random()) * part) for i in range(NUM_FRAMES)]

    results = {}
    for title, draw in ((f"{NUM_FRAMES}x{RATE} clip", draw_clip), (f"{NUM_FRAMES} frames spread", draw_spread)):
        sides = {name: lambda run, read=read, draw=draw: read(path, draw(run)) for name, read in readers.items()}
        results[title] = compare(sides, runs)
        print_row(f"{title}, RGB uint8", results[title])
    return results


def compare_test_samples(path: str, runs: int) -> dict:
    ours, theirs = make_test_set(path), make_pytorchvideo_test(path)
    num_views = NUM_CLIPS * NUM_CROPS
    row = compare(
        {"ours": lambda run: ours[0], "PyTorchVideo": lambda run: [next(theirs) for _ in range(num_views)]}, runs
    )
    print_row(f"test sample of {NUM_CLIPS} clips x {NUM_CROPS} crops", row)
    return row


def compare_training_clips(path: str, runs: int) -> dict:
    """Per clip; a side that cuts two clips from a decode counts half of its time."""
    one, two = make_training_set(path, 1), make_training_set(path, 1, num_samples=2)
    theirs = make_pytorchvideo_training(path)
    sides = {
        "ours": lambda run: one[run, 0],
        "PyTorchVideo": lambda run: next(theirs),
        "ours, 2 clips": lambda run: two[run, 0],
    }
    row = compare(sides, runs)
    for key in row["ours, 2 clips"]:
        row["ours, 2 clips"][key] /= 2
    print_row("training clip with RandAugment (7, 0.5), per clip", row)
    ratio = row["PyTorchVideo"]["ms"] / row["ours, 2 clips"]["ms"]
    print(f"    PyTorchVideo / ours with 2 clips per decode: {ratio:.2f}x")
    return row


def measure_share_outside_decoder(path: str, runs: int) -> dict:
    sets = {"no RandAugment": make_training_set(path, 1, rand_augment=False), "RandAugment": make_training_set(path, 1)}
    rows = {}
    for title, dataset in sets.items():
        sides = {"decoder": lambda run, dataset=dataset: decode_packets(path, dataset, run)}
        sides["clip"] = lambda run, dataset=dataset: dataset[run, 0]
        seconds = {side: [] for side in sides}
        for run in range(2 * runs + 1):
            seconds["decoder"].append(sides["decoder"](run))
            seconds["clip"].append(common.time_run(sides["clip"], run))
        decoder, clip = (sum(values[1:]) / (2 * runs) for values in seconds.values())
        rows[title] = {"decoder_ms": decoder * 1e3, "clip_ms": clip * 1e3, "on_top": clip / decoder - 1}
    print("\ntime outside the decoder, means")
    for title, row in rows.items():
        decoder, clip, on_top = row.values()
        print(f"    {title:16}decoder {decoder:.1f} ms, clip {clip:.1f} ms: {on_top:.0%} on top")
    return rows


def decode_packets(path: str, dataset: VideoDataset, epoch: int) -> float:
    """Seconds of decoding the packets of a sample's clip, with the same frames left out; nothing is converted."""
    with VideoReader(path) as reader:
        positions, _ = dataset._choose_frames(reader, epoch, 0)
        backend = reader._main
        start = time.perf_counter()
        for key, wanted in _plan_runs(reader.index.keys, positions):
            for packet in backend._choose_packets(key, frozenset(reader.index.pts[i] for i in wanted)):
                backend._stream.codec_context.decode(packet)
        return time.perf_counter() - start


def measure_prepared(path: str, runs: int) -> dict:
    """The rows of bench_prepare.py, which takes its samples from here."""
    import bench_prepare

    print("\nprepared videos (CPU time)")
    with tempfile.TemporaryDirectory() as folder:
        return bench_prepare.measure_prepared(path, Path(folder), runs, bench_prepare.Encoding())


def measure_loader(path: str, num_clips: int) -> dict:
    rows = {}
    print("\nDataLoader of training clips, batches of 8")
    for workers in (0, 1, 2):
        loader = DataLoader(
            make_training_set(path, num_clips + 16),
            batch_size=8,
            num_workers=workers,
            collate_fn=VideoDataset.collate,
            persistent_workers=False,
        )
        batches = iter(loader)
        next(batches), next(batches)  # starting the workers does not count
        start = time.perf_counter()
        count = sum(len(batch["label"]) for batch in batches)
        rows[workers] = count / (time.perf_counter() - start)
        print(f"    {workers} workers {rows[workers]:9.1f} clips/s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", default="../shared/videos/cleaning_pool_340x256.mp4")
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    path = str(Path(args.video).resolve())
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    with VideoReader(path) as reader:
        what = (
            f"{reader.codec}, {reader.width}x{reader.height}, {len(reader)} frames, {len(reader.index.keys)} key frames"
        )
    print(f"{Path(path).name}: {what}; one core")
    results = compare_clips(path, args.runs)
    results["test sample"] = compare_test_samples(path, max(args.runs // 2, 3))
    results["training clip"] = compare_training_clips(path, args.runs)
    results["outside the decoder"] = measure_share_outside_decoder(path, args.runs)
    results["prepared"] = measure_prepared(path, args.runs)
    os.sched_setaffinity(0, cores)
    results["loader (clips/s)"] = measure_loader(path, 96)
    names = ["torch", "av", "pytorchvideo", *(name for name in available_backends() if name != "pyav")]
    versions = {name: importlib.metadata.version(name) for name in names}
    machine = common.describe_run(argparse.Namespace(video=Path(path).name, runs=args.runs))
    print(json.dumps({"benchmark": "bench_input"} | machine | {"versions": versions, "results": results}))


if __name__ == "__main__":
    main()
