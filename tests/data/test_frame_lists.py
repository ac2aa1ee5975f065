"""SlowFast's lists of extracted frames become series of pictures."""

import json

import pytest

from hiera_video.config.defaults import get_cfg
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.frame_lists import find_series, load_frame_list

HEADER = "original_vido_id video_id frame_id path labels\n"


def make_lines(video_id, numbers, width=6):
    return "".join(f'{video_id} 0 {n} {video_id}/{video_id}_{n:0{width}d}.jpg ""\n' for n in numbers)


def write(path, text):
    path.write_text(text)
    return str(path)


def test_the_lines_of_a_video_become_a_series(tmp_path):
    text = HEADER + make_lines("78687", range(1, 118)) + make_lines("7", range(5)) + "\n"
    series = load_frame_list(write(tmp_path / "train.csv", text))
    assert series == {"78687": "78687/78687_%06d.jpg#1-117", "7": "7/7_%06d.jpg#0-4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path label\n", "line 1 must be 'original_vido_id"),
        (HEADER + "7 0 0 7/7_000001.jpg\n", "line 2 is .* 5 words"),
        (HEADER + make_lines("7", [1, 2, 4]), "line 4: '7/7_000004.jpg' does not follow"),
        (
            HEADER + make_lines("7", [1]) + make_lines("8", [1]) + make_lines("7", [2]),
            "of video 7 are not all together",
        ),
        (HEADER + '7 0 0 7/first.jpg ""\n', "line 2: '7/first.jpg' is no numbered picture"),
    ],
)
def test_what_is_no_such_list_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"train\.csv.*{message}"):
        load_frame_list(write(tmp_path / "train.csv", text))
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        load_frame_list(str(tmp_path / "none.csv"))


def make_cfg(tmp_path, ids):
    write(tmp_path / "labels.json", json.dumps({"Moving something up": "0", "Moving something down": "1"}))
    entries = [{"id": i, "template": "Moving [something] down"} for i in ids]
    write(tmp_path / "validation.json", json.dumps(entries))
    for i in ids:
        (tmp_path / "frames" / i).mkdir(parents=True)
    cfg = get_cfg()
    cfg.DATA.FORMAT, cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX = (
        "ssv2_frames",
        str(tmp_path),
        f"{tmp_path}/frames",
    )
    cfg.MODEL.NUM_CLASSES = 2
    return cfg


def test_labels_come_from_the_json_and_frames_from_the_list(tmp_path):
    cfg = make_cfg(tmp_path, ["7", "9"])
    write(tmp_path / "val.csv", HEADER + make_lines("9", range(1, 4)) + make_lines("7", range(1, 13)))
    videos = build_video_list(cfg, "val")
    assert videos.paths.tolist() == [f"{tmp_path}/frames/7/7_%06d.jpg#1-12", f"{tmp_path}/frames/9/9_%06d.jpg#1-3"]
    assert videos.labels.tolist() == [1, 1]
    write(tmp_path / "val.csv", HEADER + make_lines("9", range(1, 4)))
    with pytest.raises(ValueError, match=r"val\.csv has no frames of 1 videos of the split, such as 7"):
        build_video_list(cfg, "val")


@pytest.mark.parametrize(
    ("names", "series"),
    [
        (["x_000009.jpg", "x_000010.jpg", "x_000008.jpg"], "x_%06d.jpg#8-10"),
        (["00.png", "01.png"], "%02d.png#0-1"),
        (["9.jpg", "10.jpg"], "%01d.jpg#9-10"),  # widths grow with the numbers, as FFmpeg writes them
        (["09.jpg", "010.jpg"], ""),
        (["x_1.jpg", "x_3.jpg"], ""),
        (["x_1.jpg", "y_2.jpg"], ""),
        (["x_1.jpg", "notes.txt"], ""),
        ([], ""),
    ],
)
def test_a_folder_of_numbered_pictures_is_a_series(tmp_path, names, series):
    for name in names:
        (tmp_path / name).touch()
    expected = str(tmp_path / series) if series else str(tmp_path)
    assert find_series(str(tmp_path)) == expected
    assert find_series(str(tmp_path / "none")) == str(tmp_path / "none")
