"""Batches of a dataset for one process: which videos, in which order, decoded by which workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import cast

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import Sampler

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.class_balance import BalancedOrder
from hiera_video.data.clip_sampling import build_clip_sampler
from hiera_video.data.dataset import VideoDataset
from hiera_video.data.lists import VideoList
from hiera_video.data.oddities import find_oddities
from hiera_video.data.samples import SampleDataset
from hiera_video.data.transforms import build_eval_transform, build_train_transform
from hiera_video.utils.distributed import get_local_world_size, get_rank, get_world_size
from hiera_video.utils.logging import get_logger
from hiera_video.utils.machine import count_cores
from hiera_video.utils.rng import compute_seed
from hiera_video.video.file_cache import build_file_cache
from hiera_video.video.manifest import Manifest, load_manifest

_MAX_AUTO_WORKERS = 16
logger = get_logger(__name__)


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (epoch, index) of one rank's videos in an epoch of training.

    An epoch is ``num_videos`` clips. With V = ``num_samples`` clips per decoded video, V epochs go once through a
    permutation of all videos: "effective epochs", as the paper counts them. The ranks' batches together are the same
    videos whatever the number of ranks; an incomplete last batch is left out, so all ranks take the same steps.

    Args:
        num_videos: length of the list.
        num_samples: clips per decoded video.
        batch_videos: videos per optimizer step, over all ranks.
        balance: gives the orders in place of permutations.

    Raises:
        ValueError: an epoch holds fewer videos than one batch.
    """

    def __init__(
        self,
        num_videos: int,
        *,
        num_samples: int,
        batch_videos: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        balance: BalancedOrder | None = None,
    ) -> None:
        self.num_videos, self.num_samples, self.seed, self._balance = num_videos, num_samples, seed, balance
        self.rank, self.world_size = rank, world_size
        self.epoch, self._start_video, self._batch_videos = 0, 0, batch_videos
        self.steps_per_epoch = num_videos // num_samples // batch_videos
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"the training list has {num_videos} videos: an epoch of {num_videos // num_samples} decoded videos "
                f"(AUG.NUM_SAMPLE = {num_samples}) holds no batch of {batch_videos} videos "
                f"(TRAIN.BATCH_SIZE = {batch_videos * num_samples} clips); lower TRAIN.BATCH_SIZE"
            )
        self._epoch_videos = self.steps_per_epoch * batch_videos

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Chooses the epoch, counted from 0, and the optimizer step in it where the next iteration begins."""
        self.epoch, self._start_video = epoch, start_step * self._batch_videos

    def __len__(self) -> int:
        return (self._epoch_videos - self._start_video) // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        whole_pass, part = divmod(self.epoch, self.num_samples)
        order = self._draw_order(whole_pass)
        start = part * (self.num_videos // self.num_samples)
        videos = order[start + self._start_video : start + self._epoch_videos]
        return ((self.epoch, int(index)) for index in videos[self.rank :: self.world_size])

    def _draw_order(self, whole_pass: int) -> np.ndarray:
        if self._balance is not None:
            return self._balance.draw(whole_pass)
        return np.random.default_rng(compute_seed(self.seed, whole_pass)).permutation(self.num_videos)


class ShardSampler(Sampler[int]):
    """Indices rank, rank + world size, ...: together the ranks have each video exactly once, without padding.

    Args:
        leave_out: indices that nobody has.
    """

    def __init__(self, num_videos: int, *, rank: int = 0, world_size: int = 1, leave_out: Collection[int] = ()) -> None:
        mine = np.arange(rank, num_videos, world_size)
        self._indices = mine[~np.isin(mine, np.fromiter(leave_out, np.int64, len(leave_out)))]

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        return map(int, self._indices)  # one by one: a list of a million integers is many times as large


def build_train_loader(cfg: CfgNode, *, make_mask: Callable[[], torch.Tensor] | None = None) -> BatchLoader:
    """Loader of the training list, see `build_epoch_loader`.

    Args:
        make_mask: for pre-training, see `VideoDataset`; labels then do not matter.

    Raises:
        ValueError: DATA.MANIFEST names more broken videos than DATA.MAX_BAD_VIDEOS, or see `build_epoch_loader`.
    """
    videos = build_video_list(cfg, "train", require_labels=make_mask is None)
    manifest = build_manifest(cfg, videos.paths)
    if manifest is not None:
        videos = _leave_out_broken(videos, manifest, limit=cfg.DATA.MAX_BAD_VIDEOS)
    for finding in find_oddities(videos, num_classes=cfg.MODEL.NUM_CLASSES if make_mask is None else 0):
        logger.warning("the training list: %s", finding)
    return build_epoch_loader(cfg, build_train_dataset(cfg, videos, manifest=manifest, make_mask=make_mask))


def build_train_dataset(
    cfg: CfgNode,
    videos: VideoList,
    *,
    manifest: Manifest | None = None,
    make_mask: Callable[[], torch.Tensor] | None = None,
) -> VideoDataset:
    """Training's samples of a list of videos."""
    return VideoDataset(
        videos,
        clip_sampler=build_clip_sampler(cfg, num_clips=1, is_training=True),
        transform=build_train_transform(cfg),
        make_mask=make_mask,
        num_samples=cfg.AUG.NUM_SAMPLE,
        seed=cfg.RNG_SEED,
        decoding_backend=cfg.DATA.DECODING_BACKEND,
        max_short_side_px=cfg.DATA.MAX_SHORT_SIDE,
        manifest=manifest,
        cache=build_file_cache(cfg),
    )


def build_val_loader(cfg: CfgNode) -> BatchLoader:
    """Loader of the validation list: one center view of each video, at the size of training."""
    dataset = _build_eval_dataset(cfg, "val", num_clips=1, num_crops=1, crop_size=cfg.DATA.TRAIN_CROP_SIZE)
    return build_eval_loader(cfg, dataset)


def build_test_loader(cfg: CfgNode, *, leave_out: Collection[int] = ()) -> BatchLoader:
    """Loader of TEST.SPLIT with TEST.NUM_ENSEMBLE_VIEWS x TEST.NUM_SPATIAL_CROPS views of each video.

    Args:
        leave_out: positions in the list that are not loaded.
    """
    dataset = _build_eval_dataset(
        cfg,
        cfg.TEST.SPLIT,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        num_crops=cfg.TEST.NUM_SPATIAL_CROPS,
        crop_size=cfg.DATA.TEST_CROP_SIZE,
    )
    num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
    return build_eval_loader(cfg, dataset, num_views=num_views, leave_out=leave_out)


def _build_eval_dataset(cfg: CfgNode, split: str, *, num_clips: int, num_crops: int, crop_size: int) -> VideoDataset:
    videos = build_video_list(cfg, split)
    return VideoDataset(
        videos,
        clip_sampler=build_clip_sampler(cfg, num_clips=num_clips, is_training=False),
        transform=build_eval_transform(cfg, num_crops=num_crops, crop_size_px=crop_size),
        bad_view_shape=(num_clips * num_crops, 3, cfg.DATA.NUM_FRAMES, crop_size, crop_size),
        seed=cfg.RNG_SEED,
        decoding_backend=cfg.DATA.DECODING_BACKEND,
        max_short_side_px=cfg.DATA.MAX_SHORT_SIDE,
        manifest=build_manifest(cfg, videos.paths),
        cache=build_file_cache(cfg),
    )


def build_manifest(cfg: CfgNode, paths: np.ndarray) -> Manifest | None:
    """The manifest that DATA.MANIFEST names, or None. Raises ValueError if it knows none of these videos."""
    path = cfg.DATA.MANIFEST
    if not path:
        return None
    manifest = load_manifest(path)
    num_known = manifest.count_known(paths)
    if num_known == 0:
        raise ValueError(
            f"DATA.MANIFEST = {path} knows none of the {len(paths)} videos of the list (the first is "
            f"{paths[0]}): it is of other lists or of another DATA.PATH_PREFIX. Run tools/check_dataset.py again"
        )
    logger.info("%s knows %d of %d videos; they are opened without a scan", path, num_known, len(paths))
    return manifest


def _leave_out_broken(videos: VideoList, manifest: Manifest, *, limit: int) -> VideoList:
    """The list without the videos that the manifest knows to be broken."""
    broken = manifest.find_broken(videos.paths)
    if not broken:
        return videos
    counts = Counter(record.status for record in broken.values())
    reasons = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    if len(broken) > limit:
        raise ValueError(
            f"{len(broken)} videos of the training list are known to be broken ({reasons}), more than "
            f"DATA.MAX_BAD_VIDEOS = {limit}. Repair or remove them, or raise the limit"
        )
    logger.warning("left out of training: %d of %d videos (%s)", len(broken), len(videos), reasons)
    is_kept = np.ones(len(videos), dtype=bool)
    is_kept[list(broken)] = False
    return videos.select(is_kept)


def get_epoch_sampler(loader: BatchLoader) -> EpochSampler:
    """The sampler of a loader from `build_train_loader`."""
    return cast(EpochSampler, loader.sampler)


def build_epoch_loader(cfg: CfgNode, dataset: SampleDataset) -> BatchLoader:
    """Loader of a training set; its ``sampler`` is an `EpochSampler`. A batch is one accumulation step of one rank.

    Raises:
        ValueError: TRAIN.BATCH_SIZE cannot be divided among the processes, or is more than an epoch holds.
    """
    world_size, num_samples = get_world_size(), dataset.num_samples
    parts = world_size * cfg.TRAIN.GRAD_ACCUM_STEPS * num_samples
    if cfg.TRAIN.BATCH_SIZE % parts:
        raise ValueError(
            f"TRAIN.BATCH_SIZE = {cfg.TRAIN.BATCH_SIZE} clips must be a multiple of processes x TRAIN.GRAD_ACCUM_STEPS "
            f"x AUG.NUM_SAMPLE = {world_size} x {cfg.TRAIN.GRAD_ACCUM_STEPS} x {num_samples} = {parts}"
        )
    balance = None
    if cfg.TRAIN.CLASS_SAMPLING:
        balance = BalancedOrder(dataset.videos.labels, strength=cfg.TRAIN.CLASS_SAMPLING, seed=cfg.RNG_SEED)
    sampler = EpochSampler(
        len(dataset),
        num_samples=num_samples,
        batch_videos=cfg.TRAIN.BATCH_SIZE // num_samples,
        seed=cfg.RNG_SEED,
        rank=get_rank(),
        world_size=world_size,
        balance=balance,
    )
    return build_loader(cfg, dataset, sampler, batch_size=cfg.TRAIN.BATCH_SIZE // parts)


def build_eval_loader(
    cfg: CfgNode, dataset: SampleDataset, *, num_views: int = 1, leave_out: Collection[int] = ()
) -> BatchLoader:
    """Loader of samples that come once each over all processes, TEST.BATCH_SIZE views at a time.

    Args:
        num_views: of a sample.
        leave_out: positions in the list that are not loaded.
    """
    sampler = ShardSampler(len(dataset), rank=get_rank(), world_size=get_world_size(), leave_out=leave_out)
    clips_per_process = max(cfg.TEST.BATCH_SIZE // get_world_size(), 1)
    return build_loader(cfg, dataset, sampler, batch_size=max(clips_per_process // num_views, 1))


def build_loader(cfg: CfgNode, dataset: SampleDataset, sampler: Sampler, *, batch_size: int) -> BatchLoader:
    """Batches of any data set, by as many decoding processes as DATA_LOADER says.

    Args:
        sampler: keys of the data set, in their order.
        batch_size: samples of a batch of this process.
    """
    return BatchLoader(
        dataset,
        sampler=sampler,
        batch_size=batch_size,
        num_workers=count_workers(cfg.DATA_LOADER.NUM_WORKERS),
        prefetch_factor=cfg.DATA_LOADER.PREFETCH_FACTOR,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and torch.cuda.is_available(),
        timeout_sec=cfg.DATA.TIMEOUT_SEC,
    )


def count_workers(wanted: int) -> int:
    """Decoding processes of this process, for DATA_LOADER.NUM_WORKERS."""
    if wanted >= 0:
        return wanted
    return min(max(count_cores() // get_local_world_size(), 1), _MAX_AUTO_WORKERS)
