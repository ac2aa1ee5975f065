"""Lists are divided into parts with equal shares of each class, and no group is on both sides."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from hiera_video.data.folds import divide, find_strata, load_groups, match_groups
from hiera_video.data.label_sets import LabelSets
from hiera_video.data.lists import make_list

STRATA = np.array([0] * 10 + [1] * 6 + [2] * 5)


def test_parts_are_scikit_learns_and_have_equal_shares_of_each_class():
    parts = divide(STRATA, num_parts=5, seed=3)
    for part in range(5):
        counts = np.bincount(STRATA[parts == part], minlength=3)
        assert counts[0] == 2 and counts[1] in (1, 2) and counts[2] == 1
    kfold = StratifiedKFold(5, shuffle=True, random_state=3).split(STRATA, STRATA)
    assert [np.flatnonzero(parts == part).tolist() for part in range(5)] == [test.tolist() for _, test in kfold]
    assert (divide(STRATA, num_parts=5, seed=3) == parts).all() and (divide(STRATA, num_parts=5, seed=4) != parts).any()


def test_groups_stay_together():
    groups = [f"person {i // 2}" for i in range(len(STRATA))]
    parts = divide(STRATA, num_parts=3, seed=0, groups=groups)
    for group in set(groups):
        assert len({part for part, name in zip(parts, groups, strict=True) if name == group}) == 1
    kfold = StratifiedGroupKFold(3, shuffle=True, random_state=0).split(STRATA, STRATA, groups)
    assert [np.flatnonzero(parts == part).tolist() for part in range(3)] == [test.tolist() for _, test in kfold]


def test_classes_with_fewer_videos_than_parts_are_divided_all_the_same():
    assert sorted(np.bincount(divide(np.arange(7), num_parts=3, seed=0))) == [2, 2, 3]
    parts = divide(np.array([0] * 9 + [1]), num_parts=5, seed=0)
    assert sorted(np.bincount(parts)) == [2] * 5


@pytest.mark.parametrize(
    ("count", "groups", "named"),
    [
        (3, None, "3 videos cannot be divided into 4 parts; at least 2, and at most 3"),
        (6, list("aabbcc"), "3 groups of videos cannot be divided into 4 parts"),
    ],
)
def test_too_few_videos_or_groups_are_refused(count, groups, named):
    with pytest.raises(ValueError, match=named):
        divide(np.zeros(count, dtype=np.int64), num_parts=4, seed=0, groups=groups)


def test_of_several_classes_the_rarest_counts():
    videos = make_list(list("abcde"), [-1] * 5, None)
    assert find_strata(make_list(list("abc"), [2, 0, 1], None)).tolist() == [2, 0, 1]
    sets = LabelSets.from_lists([[0, 1], [0], [0, 2], [], [0, 1, 2]], num_classes=4)
    several = type(videos)(videos.paths, videos.labels, None, sets)
    assert find_strata(several).tolist() == [1, 0, 2, 4, 1]  # of equally rare ones the first; 4: no class


def test_groups_come_from_a_csv_by_paths_or_their_ends(tmp_path):
    table = tmp_path / "people.csv"
    table.write_text('path,group\nrun/a.mp4,anna\n/data/jump/a.mp4,ben\n"c, d.mp4",anna\n')
    paths = ["/data/run/a.mp4", "/data/jump/a.mp4", "/data/jump/c, d.mp4"]
    assert load_groups(str(table), paths) == ["anna", "ben", "anna"]
    with pytest.raises(ValueError, match=r"people.csv has no line for 1 of 2 videos, such as /data/run/b.mp4"):
        load_groups(str(table), [paths[0], "/data/run/b.mp4"])
    table.write_text("path,person\na.mp4,anna\n")
    with pytest.raises(ValueError, match=r"people.csv has no column group; its heading is 'path,person'"):
        load_groups(str(table), paths)
    table.write_text("path,group\na.mp4,anna\na.mp4,ben\n")
    with pytest.raises(ValueError, match=r"people.csv:3: a.mp4 is in group 'ben' and in 'anna'"):
        load_groups(str(table), paths)
    table.write_text("path,group\na.mp4,\n")
    with pytest.raises(ValueError, match=r"people.csv:2: expected a path and a group"):
        load_groups(str(table), paths)


def test_groups_come_from_a_pattern():
    paths = ["/data/anna_01.mp4", "/data/anna_02.mp4", "/data/ben_01.mp4"]
    assert match_groups(r"([a-z]+)_\d", paths) == ["anna", "anna", "ben"]
    assert match_groups(r"anna|ben", paths) == ["anna", "anna", "ben"]
    with pytest.raises(ValueError, match="the pattern 'anna' finds nothing in 1 of 3 videos, such as /data/ben_01.mp4"):
        match_groups("anna", paths)
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        match_groups("(", paths)
