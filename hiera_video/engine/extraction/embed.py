"""Embeddings from Python, without a config: `hiera_video.embed`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch

from hiera_video.config import load_config
from hiera_video.data.transforms import build_eval_transform
from hiera_video.embeddings.reading import Embeddings, read_embeddings
from hiera_video.engine.extraction.job import build_compute, get_unused_parameters, run_extraction
from hiera_video.engine.trained import NO_JOBS, compute_file_sha256, compute_model_sha256, load_model, load_trained
from hiera_video.models.encoder import HieraEncoder
from hiera_video.streams.clip_stream import stream_clips
from hiera_video.streams.collect import collect_paths
from hiera_video.streams.windows import ClipsWithin, build_clip_planner
from hiera_video.utils.distributed import get_device
from hiera_video.video.manifest import open_video

_VIEWS_PER_BATCH = 8
# Keyword of `embed` -> the config keys that it sets, with what else it implies.
_KEYWORDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "window_sec": ("EXTRACT.WINDOW", ("EXTRACT.CLIPS", "windows", "EXTRACT.UNIT", "sec")),
    "stride_sec": ("EXTRACT.STRIDE", ("EXTRACT.CLIPS", "windows", "EXTRACT.UNIT", "sec")),
    "window_frames": ("EXTRACT.WINDOW", ("EXTRACT.CLIPS", "windows", "EXTRACT.UNIT", "frames")),
    "stride_frames": ("EXTRACT.STRIDE", ("EXTRACT.CLIPS", "windows", "EXTRACT.UNIT", "frames")),
    "num_clips": ("EXTRACT.NUM_CLIPS", ("EXTRACT.CLIPS", "uniform")),
    "num_crops": ("EXTRACT.NUM_CROPS", ()),
    "layer": ("EXTRACT.LAYER", ()),
    "average": ("EXTRACT.AVERAGE", ()),
    "l2_normalize": ("EXTRACT.L2_NORMALIZE", ()),
    "dtype": ("EXTRACT.DTYPE", ()),
    "precision": ("EXTRACT.PRECISION", ()),
    "batch_size": ("EXTRACT.BATCH_SIZE", ()),
    "num_workers": ("DATA_LOADER.NUM_WORKERS", ()),
}


def embed(
    videos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    model: str | HieraEncoder = "",
    checkpoint: str = "",
    output_dir: str | os.PathLike[str] | None = None,
    cfg_files: Sequence[str] = (),
    opts: Sequence[Any] = (),
    **settings: Any,
) -> Embeddings:
    """Embeds videos: by default windows as long as the model's clips, one after the other, over the whole of each.

    Args:
        videos: a path, a folder, a glob, a list file, a manifest, or several of these.
        model: a name such as "hiera_base_16x224", or a model, whose weights are then taken as they are. May be left out
            for a checkpoint of ours, which knows its own.
        checkpoint: weights, path or URL.
        output_dir: keeps the embeddings there, see `hiera_video.embeddings.store`; done ones are not done again. None
            keeps nothing on disk.
        cfg_files: configs to start from.
        opts: further config keys and values, alternating.
        **settings: ``window_sec``, ``stride_sec`` (or ``_frames``), or ``num_clips`` for clips spread over each video;
            ``num_crops``, ``layer``, ``average``, ``l2_normalize``, ``dtype``, ``precision``, ``batch_size``,
            ``num_workers``: see the EXTRACT keys of the config.

    Returns:
        the embeddings of all videos in ``output_dir``. Videos that cannot be decoded have none: they are in its
        ``failures.parquet``, and in the log.

    Raises:
        ValueError: an unknown keyword, an illegal value, or ``output_dir`` has embeddings with other settings.
        FileNotFoundError: no such videos or weights.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = os.fspath(output_dir or temporary)
        words = [*_make_opts(settings), *map(str, opts), "OUTPUT_DIR", folder]
        collection = collect_paths(videos)
        if isinstance(model, HieraEncoder):
            cfg = load_config(cfg_files, [*_describe_model(model), *NO_JOBS, *words])
            found, source, sha256 = model, "a model in memory", compute_model_sha256(model)
        else:
            if not checkpoint:
                raise ValueError("checkpoint is missing: name weights, or give a model that has them")
            words = [*(("MODEL.MODEL_NAME", model) if model else ()), *words]
            trained = load_trained(checkpoint, cfg_files=cfg_files, opts=words, optional=get_unused_parameters)
            cfg, found, source, sha256 = trained.cfg, trained.model, checkpoint, trained.sha256
        was_training = found.training
        try:
            run_extraction(cfg, found, collection, checkpoint=source, sha256=sha256)
        finally:
            found.train(was_training)
        return read_embeddings(folder)


def embed_query(
    info: dict[str, Any],
    path: str,
    *,
    start_sec: float | None = None,
    end_sec: float | None = None,
    checkpoint: str = "",
) -> torch.Tensor:
    """One embedding (D,) of a video or a part of it, made as those of a folder: the mean over its clips.

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
    planner = build_clip_planner(cfg)
    if start_sec is not None or end_sec is not None:
        planner = ClipsWithin(planner, start_sec=start_sec or 0.0, end_sec=float("inf") if end_sec is None else end_sec)
    chunks = stream_clips(
        path,
        planner=planner,
        transform=build_eval_transform(cfg, num_crops=cfg.EXTRACT.NUM_CROPS, crop_size_px=cfg.DATA.TEST_CROP_SIZE),
        clips_per_chunk=max(_VIEWS_PER_BATCH // cfg.EXTRACT.NUM_CROPS, 1),
        open_reader=partial(open_video, backend=cfg.DATA.DECODING_BACKEND, max_short_side_px=cfg.DATA.MAX_SHORT_SIDE),
    )
    compute, attempt, features = build_compute(cfg, model), 0, []
    for chunk in chunks:
        if chunk["attempt"] > attempt:
            attempt, features = chunk["attempt"], []
        features.append(compute(chunk["views"]).cpu())
    return torch.cat(features).double().mean(dim=0).float().flatten()


def _make_opts(settings: dict[str, Any]) -> list[str]:
    opts: list[str] = []
    for name, value in settings.items():
        if name not in _KEYWORDS:
            raise ValueError(f"{name!r} is no setting of embed; legal are {', '.join(_KEYWORDS)}; others go into opts")
        key, implied = _KEYWORDS[name]
        opts += [key, str(value), *implied]
    return opts


def _describe_model(model: HieraEncoder) -> list[str]:
    """Config keys that fit a model in memory: its clips' size, and a short side to resize to in proportion."""
    if len(model.input_size) != 3 or model.input_size[1] != model.input_size[2]:
        raise ValueError(f"the model's input_size is {model.input_size}; videos need (T, side, side)")
    num_frames, side_px, _ = model.input_size
    short_side = [side_px * 256 // 224, side_px * 320 // 224]
    pairs = {"DATA.NUM_FRAMES": num_frames, "DATA.TEST_CROP_SIZE": side_px, "DATA.TRAIN_CROP_SIZE": side_px}
    return [str(word) for pair in {**pairs, "DATA.TRAIN_JITTER_SCALES": short_side}.items() for word in pair]
