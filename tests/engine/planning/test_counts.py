"""Cases counted by hand, and the same counts as the loader and the writer of checkpoints have."""

import pytest

from hiera_video.data.loader import EpochSampler
from hiera_video.engine.checkpoint import get_best_path, get_checkpoint_path, list_checkpoints, remove_old_checkpoints
from hiera_video.engine.planning.counts import compute_counts, compute_hours, count_checkpoints, count_cores_needed


def test_pre_training_of_kinetics_by_hand():
    counts = compute_counts(num_videos=240_436, num_epochs=3200, batch_clips=512, clips_per_video=4)
    assert counts.steps_per_epoch == 469  # 240,436 / 4 = 60,109 videos in batches of 128
    assert counts.steps == 469 * 3200 == 1_500_800
    assert counts.clips == 1_500_800 * 512 == 768_409_600
    assert counts.decoded_videos == 192_102_400
    assert counts.passes_over_videos == pytest.approx(799.0, abs=0.05)  # 800, but for incomplete batches


@pytest.mark.parametrize(("num_videos", "batch_clips", "per_video"), [(1000, 64, 1), (1000, 64, 4), (77, 6, 2)])
def test_steps_are_those_of_the_loader(num_videos, batch_clips, per_video):
    counts = compute_counts(num_videos=num_videos, num_epochs=3, batch_clips=batch_clips, clips_per_video=per_video)
    sampler = EpochSampler(num_videos, num_samples=per_video, batch_videos=batch_clips // per_video, seed=0)
    assert counts.steps_per_epoch == sampler.steps_per_epoch
    assert counts.decoded_videos == 3 * len(sampler)


def test_a_list_without_a_whole_batch_is_refused():
    with pytest.raises(ValueError, match="100 videos make an epoch of 25 decoded ones .* lower TRAIN.BATCH_SIZE = 128"):
        compute_counts(num_videos=100, num_epochs=1, batch_clips=128, clips_per_video=4)


def test_hours_and_cores_by_hand():
    assert compute_hours(3_600_000, num_gpus=10, gpu_clips_per_sec=100) == 1.0
    assert count_cores_needed(300, clips_per_sec_per_core=20) == 15
    assert count_cores_needed(301, clips_per_sec_per_core=20) == 16


@pytest.mark.parametrize("keep_last", [0, 1, 2, 5])
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("has_best", [False, True])
def test_as_many_checkpoints_lie_on_the_disk_as_the_writer_leaves(tmp_path, keep_last, within, has_best):
    num_epochs, period, most = 6, 2, 0
    (tmp_path / "checkpoints").mkdir()

    def save(path):
        nonlocal most
        path.touch()
        most = max(most, len(list_checkpoints(tmp_path)) + get_best_path(tmp_path).exists())
        remove_old_checkpoints(tmp_path, keep_last=keep_last)

    if has_best:
        get_best_path(tmp_path).touch()
    for epoch in range(1, num_epochs + 1):
        for step in range(1, 5 if within else 1):
            save(get_checkpoint_path(tmp_path, epoch - 1, step))
        if epoch % period == 0:
            save(get_checkpoint_path(tmp_path, epoch))
    counted = count_checkpoints(
        num_epochs=num_epochs, period_epochs=period, keep_last=keep_last, has_best=has_best, saves_within_epoch=within
    )
    assert most <= counted <= most + 1
    if keep_last in (1, 2) and within:
        assert counted == most
