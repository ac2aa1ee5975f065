"""The command: its table, its files, and clips of several classes in groups."""

import pandas as pd
import pytest
import simplejson

from hiera_video.cli.crossval import main, parse_args


def test_options_and_pairs_may_be_mixed():
    args = parse_args(["--lists", "train", "val", "RNG_SEED", "1", "--folds", "3"])
    assert (args.lists, args.folds, args.opts) == (["train", "val"], 3, ["RNG_SEED", "1"])
    assert parse_args([]).lists == ["train"]


@pytest.mark.parametrize(
    "words",
    [
        ["--folds", "1"],
        ["--val-share", "0.7"],
        ["--lists", "train", "train"],
        ["--lists", "tests"],
        ["--groups", "a.csv", "--group-pattern", "b"],
    ],
)
def test_a_wrong_command_line_is_refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        parse_args(words)
    assert end.value.code == 2 and words[0] in capsys.readouterr().err


def test_clips_of_several_classes_in_groups(options, motion_dir, tmp_path, capfd):
    lines = (motion_dir / "train.csv").read_text().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.csv").write_text("".join(f"{path} {label},7\n" for path, label in pairs))
    groups = "".join(f"{path},person {number // 2}\n" for number, (path, _) in enumerate(pairs))
    (tmp_path / "people.csv").write_text("path,group\n" + groups)
    changes = {
        "DATA.PATH_TO_DATA_DIR": lists,
        "DATA.PATH_PREFIX": motion_dir,
        "MODEL.LOSS_FUNC": "bce_logit",
        "SOLVER.MAX_EPOCH": 1,
        "TRAIN.BATCH_SIZE": 4,
        "TEST.NUM_SPATIAL_CROPS": 1,
    }
    words = [str(word) for pair in {**options, **changes}.items() for word in pair]
    assert main(["--folds", "2", "--groups", str(tmp_path / "people.csv"), *words]) == 0
    out = capfd.readouterr().out
    assert "mAP" in out and "over 2 folds: mean" in out and "12 groups, none of them on both sides" in out
    table = pd.read_parquet(tmp_path / "out" / "crossval_predictions.parquet")
    assert [path.endswith(pair[0]) for path, pair in zip(table["path"], pairs, strict=True)] == [True] * 24
    assert table["fold"][::2].tolist() == table["fold"][1::2].tolist(), "two of one person are tested together"
    found = simplejson.loads((tmp_path / "out" / "crossval.json").read_text())
    assert found["num_groups"] == 12 and set(found["mean"]) == {"map", "f1_micro", "f1_macro"}


def test_an_error_is_one_line(options, capfd):
    words = [word for pair in options.items() for word in pair]
    assert main(["--group-pattern", "nobody", *words]) == 1
    assert "error: the pattern 'nobody' finds nothing in 24 of 24 videos" in capfd.readouterr().err
