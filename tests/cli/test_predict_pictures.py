"""`hiera-video predict` with a detector."""

import numpy as np
import pytest
import simplejson
import torch
from PIL import Image
from torchvision.transforms import v2

import hiera_video as hv
from hiera_video.cli.main import main
from hiera_video.cli.predict import parse_args
from hiera_video.config import dump_config
from hiera_video.data.detection_dataset import read_picture
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.engine.detections import to_detector_input
from hiera_video.engine.trained import load_trained
from hiera_video.models.build import build_detector_from_cfg


@pytest.fixture
def checkpoint(make_detection_cfg, tmp_path):
    """A detector that is sure of nonsense."""
    cfg = make_detection_cfg()
    torch.manual_seed(0)
    model = build_detector_from_cfg(cfg, crop_size=64)
    with torch.no_grad():
        model.heads.roi_heads.box_predictor.cls_score.weight.mul_(40)
    path = tmp_path / "detector.pth"
    names = ["circle", "cross", "square", "triangle"]
    save_checkpoint(path, {"model_state": model.state_dict(), "cfg": dump_config(cfg), "class_names": names})
    return str(path)


@pytest.fixture
def pictures(tmp_path):
    """One wide JPEG and one high PNG."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "wide.jpg", tmp_path / "high.png"]
    for path, size in zip(paths, [(120, 200), (90, 50)], strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


def test_things_are_drawn_and_written(checkpoint, pictures, tmp_path, capsys):
    words = ["--checkpoint", checkpoint, "--output-dir", str(tmp_path / "drawn"), "--json", str(tmp_path / "a/b.json")]
    assert main(["predict", *pictures, *words, "--min-score", "0.3"]) == 0
    content = simplejson.loads((tmp_path / "a/b.json").read_text())
    assert [row["path"] for row in content["pictures"]] == pictures
    out = capsys.readouterr().out
    assert all(f"{path}: " in out for path in pictures) and "drawn: " in out
    for row, path in zip(content["pictures"], ("wide.jpg", "high.png"), strict=True):
        before, after = (np.asarray(Image.open(folder / path)) for folder in (tmp_path, tmp_path / "drawn"))
        assert after.shape == before.shape == (row["height"], row["width"], 3)
        assert row["things"] and not np.array_equal(before, after)
        for thing in row["things"]:
            x1, y1, x2, y2 = thing["box"]
            assert 0 <= x1 < x2 <= row["width"] and 0 <= y1 < y2 <= row["height"] and thing["score"] >= 0.3
            assert thing["class"] in ("circle", "cross", "square", "triangle")


def test_remote_pictures_are_kept_on_a_disk(checkpoint, pictures, tmp_path, serve, capsys):
    pytest.importorskip("aiohttp")
    words = ["predict", "--checkpoint", checkpoint, "--json", "-"]
    url = f"{serve(tmp_path).address}/high.png"
    assert main([*words, url, "DATA.CACHE_DIR", str(tmp_path / "kept")]) == 0
    (kept,) = (path for path in (tmp_path / "kept").rglob("*") if path.is_file() and path.name != "lock")
    assert kept.stat().st_size == (tmp_path / "high.png").stat().st_size


def test_json_alone_goes_to_the_terminal(checkpoint, pictures, capsys):
    assert main(["predict", pictures[0], "--checkpoint", checkpoint, "--json", "-"]) == 0
    assert len(simplejson.loads(capsys.readouterr().out)["pictures"]) == 1


def test_pictures_are_not_written_over(checkpoint, pictures, tmp_path, capsys):
    assert main(["predict", pictures[0], "--checkpoint", checkpoint, "--output-dir", str(tmp_path)]) == 1
    assert "would be written over; take another folder" in capsys.readouterr().err
    assert main(["predict", pictures[0], pictures[0], "--checkpoint", checkpoint, "--output-dir", "x"]) == 1
    assert "two pictures would be written to x/wide.jpg" in capsys.readouterr().err


def test_other_commands_say_what_a_detector_cannot(checkpoint, pictures, tmp_path, capsys):
    assert main(["export", "--checkpoint", checkpoint, "--output-dir", str(tmp_path / "x"), "--formats", "torch"]) == 1
    assert "is a detector, and only classifiers and encoders are exported" in capsys.readouterr().err
    assert main(["predict", pictures[0], "--checkpoint", checkpoint, "--min-score", "2"]) == 1
    assert "min_score is 2.0; it must be in [0, 1]" in capsys.readouterr().err


def test_pairs_may_follow_the_pictures():
    args = parse_args(["a.jpg", "b.jpg", "RNG_SEED", "1", "--checkpoint", "c.pth", "TEST.BATCH_SIZE", "4"])
    assert args.sources == ["a.jpg", "b.jpg"] and args.opts == ["RNG_SEED", "1", "TEST.BATCH_SIZE", "4"]


def test_the_encoder_of_a_detector_is_extracted_and_pooled_features_are_refused(checkpoint, pictures, tmp_path, capsys):
    words = ["extract", pictures[1], "--checkpoint", checkpoint, "--output-dir"]
    size = ["DATA.TRAIN_JITTER_SCALES", "[64, 64]", "DATA_LOADER.NUM_WORKERS", "0"]
    assert main([*words, str(tmp_path / "pooled"), *size]) == 1
    assert "EXTRACT.LAYER stage4 or map4 gives its encoder's features" in capsys.readouterr().err
    one = ["EXTRACT.LAYER", "stage4", "EXTRACT.CLIPS", "uniform", "EXTRACT.NUM_CLIPS", "1"]
    assert main([*words, str(tmp_path / "features"), *one, *size]) == 0
    (vector,) = hv.read_embeddings(tmp_path / "features").vectors.numpy()
    trained = load_trained(checkpoint)
    picture = read_picture(pictures[1]).movedim(-1, 0)
    short = v2.functional.resize(picture, 64, antialias=False)
    crop = v2.functional.center_crop(short, 64)
    with torch.no_grad():
        maps = trained.model.forward_maps(to_detector_input(trained.cfg, crop[None], device=torch.device("cpu")))
    assert np.abs(maps[-1].mean(dim=(1, 2))[0].numpy() - vector).max() < 0.05
