"""Each clip is tested once, by a model that has seen neither it nor its group; a stop changes nothing."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejson

from hiera_video.config import load_config
from hiera_video.data.build_lists import build_unchecked_video_list, build_video_list
from hiera_video.data.label_sets import LabelSets
from hiera_video.data.lists import VideoList, make_list
from hiera_video.engine import crossval
from hiera_video.engine.checkpoint import find_last_checkpoint
from hiera_video.engine.crossval import cross_validate, join_lists, make_plan, write_lists
from hiera_video.engine.crossval_results import write_results
from hiera_video.engine.training import loop
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.utils.interrupt import Interrupted

JOBS = {"TRAIN.BATCH_SIZE": 4, "TEST.ENABLE": True, "TEST.CHECKPOINT_FILE_PATH": "best", "TEST.NUM_SPATIAL_CROPS": 1}


def test_every_clip_is_tested_once_and_no_group_is_on_two_sides():
    videos = make_list([f"{i}.mp4" for i in range(40)], [i % 4 for i in range(40)], None)
    groups = [str(i // 3) for i in range(40)]
    plan = make_plan(videos, num_folds=4, seed=1, groups=groups, val_share=0.25)
    assert plan.num_groups == 14 and set(plan.fold_of.tolist()) == {0, 1, 2, 3}
    names = np.array(groups)
    for fold in range(4):
        parts = plan.get_parts(fold)
        assert (sum(part.astype(int) for part in parts.values()) == 1).all()
        assert (parts["test"] == (plan.fold_of == fold)).all()
        assert 5 <= parts["val"].sum() <= 10, "about a quarter of the 30 that are not tested"
        sides = [set(names[part]) for part in parts.values()]
        assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert (
        make_plan(videos, num_folds=4, seed=1, groups=groups, val_share=0.25).compute_digest() == plan.compute_digest()
    )
    assert (
        make_plan(videos, num_folds=4, seed=2, groups=groups, val_share=0.25).compute_digest() != plan.compute_digest()
    )
    assert not make_plan(videos, num_folds=4, seed=1, val_share=0).is_validation.any()


def test_where_one_group_is_left_nothing_can_be_set_aside_for_validation():
    videos = make_list([f"{i}.mp4" for i in range(8)], [0, 1] * 4, None)
    plan = make_plan(videos, num_folds=3, seed=0, groups=list("aaabbbcc"))
    assert all(0 < plan.is_validation[fold].sum() < 6 for fold in range(3)), "one of the two groups that are left"
    with pytest.raises(ValueError, match="the clips that fold 1 does not test are one group.*TRAIN.EVAL_PERIOD 0"):
        make_plan(videos, num_folds=2, seed=0, groups=list("aaaabbbb"))
    assert make_plan(videos, num_folds=2, seed=0, groups=list("aaaabbbb"), val_share=0).num_groups == 2


def test_written_lists_give_the_same_paths_and_labels(tmp_path):
    paths = ["data/my clips/a b.mp4", "/elsewhere/c.mp4", "s3://bucket/d.mp4", 'data/"e".mp4', "data/ f.mp4"]
    videos = make_list(paths, [0, 1, 2, 1, 0], None)
    write_lists(tmp_path, videos, {"train": np.ones(5, dtype=bool), "val": np.zeros(5, dtype=bool)}, prefix="data")
    assert not (tmp_path / "val.csv").exists()
    pairs = {"DATA.PATH_TO_DATA_DIR": tmp_path, "DATA.PATH_PREFIX": "data"}
    cfg = load_config([], [str(word) for pair in pairs.items() for word in pair])
    read, _ = build_unchecked_video_list(cfg, "train")
    assert read.paths.tolist() == paths and read.labels.tolist() == [0, 1, 2, 1, 0]
    sets = LabelSets.from_lists([[0, 3], [], [2], [1], [3]], num_classes=4)
    several = VideoList(videos.paths, np.full(5, -1), None, sets)
    write_lists(tmp_path, several, {"train": np.ones(5, dtype=bool)}, prefix="data")
    more = {**pairs, "MODEL.LOSS_FUNC": "bce_logit", "MODEL.NUM_CLASSES": 4}
    cfg = load_config([], [str(word) for pair in more.items() for word in pair])
    read, _ = build_unchecked_video_list(cfg, "train")
    assert read.paths.tolist() == paths
    assert [read.label_sets.get(i).tolist() for i in range(5)] == [[0, 3], [], [2], [1], [3]]


def test_a_clip_that_is_listed_twice_is_refused(make_cfg, motion_dir, tmp_path):
    for name in ("train", "val"):
        shutil.copy(motion_dir / "train.csv", tmp_path / f"{name}.csv")
    cfg = make_cfg({"DATA.PATH_TO_DATA_DIR": tmp_path, "DATA.PATH_PREFIX": motion_dir})
    with pytest.raises(ValueError, match="24 clips are listed more than once in train and val, such as .*mp4"):
        join_lists(cfg, ["train", "val"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"TEST.CHECKPOINT_FILE_PATH": "a.pyth"}, "TEST.CHECKPOINT_FILE_PATH = a.pyth: each fold tests the model"),
        ({"DATA.FORMAT": "imagenet"}, "TASK = classify with DATA.FORMAT = imagenet"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(make_cfg, changes, named):
    with pytest.raises(ValueError, match=named):
        crossval.check_can_cross_validate(make_cfg(changes))


def read_table(output_dir):
    return pd.read_parquet(Path(output_dir) / "crossval_predictions.parquet")


def test_a_stopped_cross_validation_goes_on_and_ends_the_same(make_cfg, tmp_path, monkeypatch):
    whole, stopped = (make_cfg({**JOBS, "OUTPUT_DIR": tmp_path / name}) for name in ("whole", "stopped"))
    videos = join_lists(whole, ["train", "val"])
    plan = make_plan(videos, num_folds=2, seed=0)
    cross_validate(whole, plan)
    results = write_results(whole, plan)

    take_step, folders = loop.take_step, []

    def stop_in_the_second_fold(run, batches, meters, lr):
        folders.append(Path(run.cfg.OUTPUT_DIR).name)
        if folders.count("fold_2") == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(run, batches, meters, lr)

    monkeypatch.setattr(loop, "take_step", stop_in_the_second_fold)
    with pytest.raises(Interrupted):
        cross_validate(stopped, plan)
    seen, first = len(folders), tmp_path / "stopped" / "fold_1" / "test_results.json"
    written = first.stat().st_mtime_ns
    cross_validate(stopped, plan)
    assert set(folders[seen:]) == {"fold_2"}, "the first fold is not trained again"
    assert first.stat().st_mtime_ns == written, "nor tested"
    assert len(folders) == 2 * 2 * 3, "two folds of two epochs with three steps: the second fold goes on"
    assert write_results(stopped, plan)["pooled"] == results["pooled"]

    table = read_table(whole.OUTPUT_DIR)
    assert table["path"].tolist() == videos.paths.tolist() and table["label"].tolist() == videos.labels.tolist()
    assert (table["fold"] - 1).tolist() == plan.fold_of.tolist()
    again = read_table(stopped.OUTPUT_DIR)
    assert np.array_equal(np.stack(table["probs"]), np.stack(again["probs"]))
    hits = (table["label"] == table["prediction"]).to_numpy()
    assert results["pooled"]["top1"] == pytest.approx(100 * hits.mean())
    of_folds = [100 * hits[plan.fold_of == fold].mean() for fold in range(2)]
    assert [fold["top1"] for fold in results["folds"]] == pytest.approx(of_folds)
    assert results["mean"]["top1"] == pytest.approx(np.mean(of_folds))
    assert results["std"]["top1"] == pytest.approx(np.std(of_folds, ddof=1))
    assert simplejson.loads((Path(whole.OUTPUT_DIR) / "crossval.json").read_text())["num_clips"] == 32
    for fold in range(2):
        folder = crossval.get_fold_dir(whole.OUTPUT_DIR, fold)
        stored = read_checkpoint_file(find_last_checkpoint(folder))
        assert stored.class_names == (videos.class_names or ())
        trained = build_video_list(load_config([str(folder / "config.yaml")], []), "train")
        assert set(trained.paths) == set(videos.paths[plan.get_parts(fold)["train"]])

    with pytest.raises(ValueError, match="holds a cross-validation with other settings: SOLVER.BASE_LR: .* -> 0.5"):
        cross_validate(make_cfg({**JOBS, "OUTPUT_DIR": tmp_path / "whole", "SOLVER.BASE_LR": 0.5}), plan)
    with pytest.raises(ValueError, match="other clips, labels, groups or validation share"):
        cross_validate(whole, make_plan(videos, num_folds=2, seed=0, val_share=0.5))
    cross_validate(make_cfg({**JOBS, "OUTPUT_DIR": tmp_path / "whole", "LOG_PERIOD": 7}), plan)  # that may change
