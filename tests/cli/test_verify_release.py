"""A released model is tested by its recipe and compared with what was reported."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from hiera_video.cli.main import main
from hiera_video.cli.make_shape_dataset import CLASSES, draw_picture
from hiera_video.cli.verify_release import find_tested_recipe, format_comparison, is_inside
from hiera_video.models import build_model, model_names


def make_results(hits, count, interval):
    return {
        "model": "hiera_tiny_224",
        "top1": 100 * hits / count,
        "top1_interval": interval,
        "num_videos": count,
        "num_failed": 0,
        "checkpoint": "x.pth",
    }


def test_each_released_classifier_has_one_recipe_with_an_accuracy():
    released = [name for name in model_names() if not name.startswith("mae_")]
    small_videos = {"hiera_tiny_16x224", "hiera_small_16x224"}  # never released
    assert {name: find_tested_recipe(name).model for name in released if name not in small_videos} == {
        name: name for name in released if name not in small_videos
    }
    assert "84.5 % top-1" in find_tested_recipe("hiera_base_224").reported
    assert "84.0 % top-1" in find_tested_recipe("hiera_base_16x224").reported
    for name in [*small_videos, "mae_hiera_base_224"]:
        with pytest.raises(ValueError, match=f"MODEL is '{name}'; released with an accuracy are hiera_base_16x224, "):
            find_tested_recipe(name)


def test_the_reported_accuracy_lies_inside_the_interval_or_not():
    recipe = find_tested_recipe("hiera_tiny_224")
    near = make_results(41_380, 50_000, [82.4, 83.1])
    assert is_inside(near, 82.8) and "inside the interval" in format_comparison(near, recipe, 82.8)
    assert "82.76" in format_comparison(near, recipe, 82.8) and "-0.04" in format_comparison(near, recipe, 82.8)
    assert is_inside(make_results(0, 50_000, [82.84, 83.4]), 82.8), "the reported number is rounded"
    far = make_results(7, 400, [0.8, 3.6])
    text = format_comparison(far, recipe, 82.8)
    assert not is_inside(far, 82.8) and "OUTSIDE" in text and "has 50,000 pictures: this is another one" in text


@pytest.mark.slow
def test_random_weights_show_chance(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "val.tar", "w") as archive:
        for number in range(16):
            buffer = io.BytesIO()
            picture = draw_picture(np.random.default_rng(number), number % len(CLASSES), size_px=64)
            Image.fromarray(picture).save(buffer, "PNG")
            info = tarfile.TarInfo(f"{number}.png")
            info.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(info, buffer)
    (tmp_path / "data" / "val.txt").write_text("".join(f"{number}.png {number % 8}\n" for number in range(16)))
    torch.manual_seed(0)
    torch.save({"model_state": build_model("hiera_tiny_224").state_dict()}, tmp_path / "random.pth")
    words = ["verify-release", "hiera_tiny_224", "--data", str(tmp_path / "data")]
    words += ["--checkpoint", str(tmp_path / "random.pth"), "--output-dir", str(tmp_path / "out")]
    status = main([*words, "DATA_LOADER.NUM_WORKERS", "0", "TRAIN.PRECISION", "fp32"])
    printed = capsys.readouterr()
    print(printed.out)
    assert status == 1 and "OUTSIDE" in printed.out and "82.8" in printed.out, printed.err
