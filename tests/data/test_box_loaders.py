"""Batches of key frames: every one once, the same with any number of processes."""

import pytest
import torch
from ava_factory import make_config, write_ava

from hiera_video.data.box_loaders import build_box_eval_loader, build_box_train_loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ava(tmp_path_factory.mktemp("ava") / "data")


def test_training_batches(folder):
    loaders = [build_box_train_loader(make_config(folder, "DATA_LOADER.NUM_WORKERS", n)) for n in ("0", "1")]
    seen = []
    for epoch in range(3):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        (first,), (second,) = loaders
        assert sorted(first["index"].tolist()) == [0, 1, 2] and not first["bad"]
        assert first["video"].shape == (3, 1, 3, 4, 32, 32) and not first["is_outside"].any()
        assert all(torch.equal(first[key], second[key]) for key in ("video", "boxes", "targets", "rows", "index"))
        seen.append(first["video"])
    assert not torch.equal(seen[0], seen[1])


def test_a_test_has_each_key_frame_once(folder):
    loader = build_box_eval_loader(make_config(folder, "TEST.BATCH_SIZE", "1"), "test")
    batches = list(loader)
    assert [batch["index"].tolist() for batch in batches] == [[0], [1]]
    assert torch.cat([batch["rows"] for batch in batches]).tolist() == [0, 1, 2]
    (left,) = build_box_eval_loader(make_config(folder), "test", leave_out=[0])
    assert left["index"].tolist() == [1] and torch.equal(left["video"], batches[1]["video"])


def test_batches_that_cannot_be_divided(folder):
    with pytest.raises(ValueError, match=r"TRAIN.BATCH_SIZE = 3 clips must be a multiple"):
        build_box_train_loader(make_config(folder, "TRAIN.ENABLE", "False", "TRAIN.GRAD_ACCUM_STEPS", "2"))
    with pytest.raises(ValueError, match=r"3 videos.*TRAIN.BATCH_SIZE"):
        build_box_train_loader(make_config(folder, "TRAIN.BATCH_SIZE", "4"))
