"""Pictures whose classes only form and relation tell apart."""

import numpy as np
import pytest
from PIL import Image

from hiera_video.cli.main import main
from hiera_video.cli.make_shape_dataset import CLASSES, Settings, draw_picture, make_dataset


def read(folder):
    return {str(p.relative_to(folder)): np.asarray(Image.open(p)) for p in sorted(folder.rglob("*.png"))}


def test_the_layout_is_imagenets_and_a_seed_gives_the_same_pictures(tmp_path):
    small = Settings(train=16, val=8, size_px=32)
    assert make_dataset(tmp_path / "a", small) and not make_dataset(tmp_path / "a", small)
    assert make_dataset(tmp_path / "b", small) and make_dataset(tmp_path / "c", Settings(16, 8, 32, seed=1))
    first, again, other = (read(tmp_path / name) for name in "abc")
    assert sorted({name.split("/")[1] for name in first}) == list(CLASSES) and len(first) == 24
    assert first.keys() == again.keys() and all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_an_interrupted_set_is_completed_and_other_folders_are_left_alone(tmp_path, capsys):
    make_dataset(tmp_path / "a", Settings(train=8, val=8, size_px=32))
    state = tmp_path / "a" / "dataset.json"
    state.write_text(state.read_text().replace("true", "false"))
    next((tmp_path / "a").rglob("7.png")).unlink()
    assert make_dataset(tmp_path / "a", Settings(train=8, val=8, size_px=32)) and len(read(tmp_path / "a")) == 16
    with pytest.raises(ValueError, match="holds pictures made with"):
        make_dataset(tmp_path / "a", Settings(train=9))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    assert main(["make-shape-dataset", "--output-dir", str(tmp_path / "mine")]) == 2
    assert "is not empty and holds no shape data set" in capsys.readouterr().err


@pytest.mark.parametrize("relation", ["inside", "outside"])
def test_a_dot_lies_where_its_class_says(relation):
    """The dot is the darkest; around an inner one is the bright shape, around an outer one the background."""
    for label in [label for label, name in enumerate(CLASSES) if name.endswith(f"_{relation}")]:
        for seed in range(20):
            picture = draw_picture(np.random.default_rng(seed), label, size_px=128).astype(float).mean(axis=2)
            rows, columns = np.nonzero(picture < 45)
            y, x = int(rows.mean()), int(columns.mean())
            ring = [picture[y + dy, x + dx] for dy in (-10, 0, 10) for dx in (-10, 0, 10) if (dy == 0) != (dx == 0)
                    and 0 <= y + dy < 128 and 0 <= x + dx < 128]  # fmt: skip
            share_bright = np.mean(np.array(ring) > 135)
            assert share_bright > 0.4 if relation == "inside" else share_bright == 0, (CLASSES[label], seed)


def test_color_and_brightness_say_little_about_the_class():
    """A linear classifier on the means of the channels, which are all that color says, stays near chance of 12.5 %."""
    from sklearn.linear_model import LogisticRegression

    labels = np.arange(800) % 8
    pictures = np.stack([draw_picture(np.random.default_rng(i), label, size_px=24) for i, label in enumerate(labels)])
    means = pictures.reshape(800, -1, 3).mean(axis=1)
    model = LogisticRegression(max_iter=1000).fit(means[:600], labels[:600])
    assert model.score(means[600:], labels[600:]) < 0.35
