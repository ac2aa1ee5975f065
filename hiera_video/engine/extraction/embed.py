"""Embeddings from Python, without a config: `hiera_video.embed`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch

from hiera_video.config import load_config
from hiera_video.embeddings.reading import Embeddings, read_embeddings
from hiera_video.engine.extraction.averaging import Average, Averager
from hiera_video.engine.extraction.batching import build_compute
from hiera_video.engine.extraction.job import build_extraction_reader, run_extraction
from hiera_video.engine.extraction.settings import get_unused_parameters
from hiera_video.engine.trained import NO_JOBS, compute_file_sha256, compute_model_sha256, load_model, load_trained
from hiera_video.models.encoder import HieraEncoder
from hiera_video.streams.chunk import OpenVideos
from hiera_video.streams.collect import collect_paths
from hiera_video.streams.windows import ClipPlanner, ClipsWithin, build_clip_planner
from hiera_video.utils.distributed import get_device


def embed(
    videos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    model: str | HieraEncoder = "",
    checkpoint: str = "",
    output_dir: str | os.PathLike[str] | None = None,
    window_sec: float | None = None,
    stride_sec: float | None = None,
    window_frames: float | None = None,
    stride_frames: float | None = None,
    num_clips: int | None = None,
    num_crops: Literal[1, 3] | None = None,
    layer: str | None = None,
    average: Average | None = None,
    l2_normalize: bool | None = None,
    dtype: Literal["float32", "float16"] | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    cfg_files: Sequence[str] = (),
    opts: Sequence[Any] = (),
) -> Embeddings:
    """Embeds videos: by default windows as long as the model's clips, one after the other, over the whole of each.

    Where a keyword is None, the config decides.

    Args:
        videos: a path, a folder, a glob, a list file, a manifest, or several of these.
        model: a name such as "hiera_base_16x224", or a model, which keeps its weights. A checkpoint of ours knows its
            model.
        checkpoint: weights, path or URL.
        output_dir: keeps the embeddings there, see `hiera_video.embeddings.store`; what is done there is not done
            again. None keeps nothing on disk.
        window_sec: length of a window in seconds.
        stride_sec: seconds from one window's start to the next; by default the length of a window.
        window_frames: length of a window in frames of the video.
        stride_frames: frames from one window's start to the next; by default the length of a window.
        num_clips: so many clips spread over each video, instead of windows.
        num_crops: 1 at the center of each clip, or 3 along its longer side.
        layer: "pooled", "stage1" to "stage4", or a feature map "map1" to "map4".
        average: "none" keeps a row for each crop, "crops" gives one for each clip, "video" one for each video.
        l2_normalize: scale embeddings to length 1, after averaging.
        dtype: how embeddings are stored.
        precision: arithmetic of the model.
        batch_size: crops per forward pass.
        num_workers: processes that decode.
        cfg_files: configs to start from.
        opts: further config keys and values, alternating.

    Returns:
        the embeddings of all videos in ``output_dir``. Videos that cannot be decoded have none: its
        ``failures.parquet`` and the log name them.

    Raises:
        ValueError: keywords that contradict each other, an illegal value, or ``output_dir`` has embeddings with other
            settings.
        FileNotFoundError: no such videos or weights.
    """
    clips = {
        "window_sec": window_sec,
        "stride_sec": stride_sec,
        "window_frames": window_frames,
        "stride_frames": stride_frames,
        "num_clips": num_clips,
    }
    settings = {
        "EXTRACT.NUM_CROPS": num_crops,
        "EXTRACT.LAYER": layer,
        "EXTRACT.AVERAGE": average,
        "EXTRACT.L2_NORMALIZE": l2_normalize,
        "EXTRACT.DTYPE": dtype,
        "EXTRACT.PRECISION": precision,
        "EXTRACT.BATCH_SIZE": batch_size,
        "DATA_LOADER.NUM_WORKERS": num_workers,
    }
    words = [*_make_words({**_choose_clips(clips), **settings}), *map(str, opts)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = os.fspath(output_dir or temporary)
        _embed_into(folder, videos, model, checkpoint, cfg_files, [*words, "OUTPUT_DIR", folder])
        return read_embeddings(folder)


def _embed_into(
    folder: str,
    videos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    model: str | HieraEncoder,
    checkpoint: str,
    cfg_files: Sequence[str],
    words: list[str],
) -> None:
    collection = collect_paths(videos)
    if isinstance(model, HieraEncoder):
        cfg = load_config(cfg_files, [*_describe_model(model), *NO_JOBS, *words])
        was_training = model.training
        try:
            run_extraction(cfg, model, collection, checkpoint="a model in memory", sha256=compute_model_sha256(model))
        finally:
            model.train(was_training)
        return
    if not checkpoint:
        raise ValueError("checkpoint is missing: name weights, or give a model that has them")
    words = [*(("MODEL.MODEL_NAME", model) if model else ()), *words]
    trained = load_trained(checkpoint, cfg_files=cfg_files, opts=words, optional=get_unused_parameters)
    run_extraction(trained.cfg, trained.model, collection, checkpoint=checkpoint, sha256=trained.sha256)


def embed_query(
    info: dict[str, Any],
    path: str,
    *,
    start_sec: float | None = None,
    end_sec: float | None = None,
    checkpoint: str = "",
) -> torch.Tensor:
    """One embedding (D,) of a video or a part of it, made as those of a folder: the mean over its views.

    Args:
        info: side-car of the folder.
        path: of the video.
        start_sec: start of the part, since the first frame; None for the video's.
        end_sec: its end; None for the video's.
        checkpoint: where the weights are now; empty: where they were.

    Raises:
        ValueError: these are other weights, or the part is empty.
        FileNotFoundError: no such weights or video.
        VideoDecodeError: the video cannot be decoded.
    """
    cfg = load_config((), NO_JOBS, stored=info["config"])
    checkpoint = checkpoint or info["checkpoint"]
    sha256, expected = compute_file_sha256(checkpoint), info["settings"]["weights_sha256"]
    if sha256 != expected:
        raise ValueError(f"{checkpoint} has SHA-256 {sha256}, the embeddings were made with weights of {expected}")
    model = load_model(cfg, checkpoint, optional=get_unused_parameters(cfg)).to(get_device()).eval()
    planner: ClipPlanner = build_clip_planner(cfg)
    if start_sec is not None or end_sec is not None:
        planner = ClipsWithin(planner, start_sec=start_sec or 0.0, end_sec=float("inf") if end_sec is None else end_sec)
    compute = build_compute(cfg, model)
    means = OpenVideos(lambda _: Averager("video", num_crops=cfg.EXTRACT.NUM_CROPS))
    for mean, chunk in means.follow(build_extraction_reader(cfg, planner=planner).read(path)):
        rows, _ = mean.add(compute(chunk.views).cpu(), chunk.spans_sec, is_last=chunk.is_last)
    return rows[0]


def _choose_clips(given: dict[str, float | int | None]) -> dict[str, Any]:
    """Config keys for the keywords that say which clips of a video are embedded.

    Raises:
        ValueError: keywords that contradict each other.
    """
    named = [name for name, value in given.items() if value is not None]
    units = {name.split("_")[1] for name in named}
    if len(units) > 1:
        raise ValueError(
            f"{' and '.join(named)} contradict each other: choose windows in seconds, windows in frames, or num_clips"
        )
    if not units:
        return {}
    unit = units.pop()
    if unit == "clips":
        return {"EXTRACT.CLIPS": "uniform", "EXTRACT.NUM_CLIPS": given["num_clips"]}
    lengths = {"EXTRACT.WINDOW": given[f"window_{unit}"], "EXTRACT.STRIDE": given[f"stride_{unit}"]}
    return {"EXTRACT.CLIPS": "windows", "EXTRACT.UNIT": unit, **lengths}


def _describe_model(model: HieraEncoder) -> list[str]:
    """Config words that fit a model in memory: its clips' size, and a short side to resize to in proportion."""
    if len(model.input_size) != 3 or model.input_size[1] != model.input_size[2]:
        raise ValueError(f"the model's input_size is {model.input_size}; videos need (T, side, side)")
    num_frames, side_px, _ = model.input_size
    short_side = [side_px * 256 // 224, side_px * 320 // 224]
    pairs = {"DATA.NUM_FRAMES": num_frames, "DATA.TEST_CROP_SIZE": side_px, "DATA.TRAIN_CROP_SIZE": side_px}
    return _make_words({**pairs, "DATA.TRAIN_JITTER_SCALES": short_side})


def _make_words(pairs: dict[str, Any]) -> list[str]:
    """Keys and values as on a command line, without those that are None."""
    return [str(word) for key, value in pairs.items() if value is not None for word in (key, value)]
