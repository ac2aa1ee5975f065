"""Which windows and which class are explained, with the numbers of the parts that compute them."""

import json

import numpy as np
import pytest
import torch
from tiny_checkpoint import CLASS_NAMES, write_tiny_checkpoint

import hiera_video as hv
from hiera_video.data.transforms import normalize_video
from hiera_video.engine.explain import ExplainSettings, explain, find_class
from hiera_video.engine.occlusion import compute_grad_cam, compute_left, draw_deletions, fit_scores
from hiera_video.engine.trained import load_trained

LARGE = {"DATA__TEST_CROP_SIZE": 64, "DATA__TRAIN_JITTER_SCALES": [64, 64]}
FEW = ExplainSettings(num_masks=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def trained(folder):
    """Clips of 4 frames in 0.32 s and 64 x 64 px: 2 x 2 x 2 mask units."""
    return load_trained(write_tiny_checkpoint(folder / "tiny.pyth", **LARGE))


@pytest.fixture(scope="module")
def video(painted_video):
    """2.4 s: eight windows."""
    return str(painted_video("to_explain.mp4", num_frames=60))


def test_windows_are_spread_and_their_numbers_are_those_of_the_parts(trained, video):
    found = hv.explain(video, checkpoint=trained, settings=ExplainSettings(max_windows=3, num_masks=20))
    plain = hv.predict(video, checkpoint=trained)
    assert found.class_name == plain.classes[0] and found.probability == pytest.approx(plain.probabilities[0])
    spans = list(zip(plain.windows["start_sec"], plain.windows["end_sec"], strict=True))
    assert len(spans) == 8 and [(w.start_sec, w.end_sec) for w in found.windows] == [spans[0], spans[4], spans[7]]
    assert found.unit_size == (2, 32, 32) and [w.scores.shape for w in found.windows] == [(2, 2, 2)] * 3
    names = plain.windows["classes"], plain.windows["probabilities"]
    for window, row in zip(found.windows, (0, 4, 7), strict=True):
        probabilities = dict(zip(names[0][row], names[1][row], strict=True))
        assert window.probability == pytest.approx(probabilities[found.class_name], abs=1e-5)
    window = found.windows[1]
    assert window.frames.shape == (4, 64, 64, 3)
    views = torch.from_numpy(window.frames).permute(3, 0, 1, 2)[None]
    clip = normalize_video(views, mean=trained.cfg.DATA.MEAN, std=trained.cfg.DATA.STD)[0]
    deleted = draw_deletions((2, 2, 2), num_masks=20, seed=0)
    options = {"is_multilabel": False, "batch_size": 3}
    evidence, left = compute_left(trained.model, clip, deleted, found.label, **options)
    scores, explained = fit_scores(deleted, left)
    assert window.evidence == pytest.approx(evidence, abs=1e-5) and window.explained == pytest.approx(
        explained, abs=1e-3
    )
    np.testing.assert_allclose(window.scores.ravel(), scores, atol=1e-4)
    np.testing.assert_allclose(window.cam, compute_grad_cam(trained.model, clip, found.label), atol=1e-5)


def test_the_number_of_masks_is_that_of_those_that_there_are(trained, video):
    """A window of 8 units has 255 sets of them that leave something visible: more masks than that do not exist."""
    found = explain(video, checkpoint=trained, window_sec=2.4, settings=ExplainSettings(num_masks=300))
    assert found.num_masks == 255 and '"num_masks": 255' in found.to_json()


def test_the_same_each_time_and_other_masks_with_another_seed(trained, video):
    options = {"checkpoint": trained, "window_sec": 2.4}
    first, again = (explain(video, **options, settings=FEW).windows for _ in range(2))
    (other,) = explain(video, **options, settings=ExplainSettings(num_masks=20, seed=1)).windows
    assert len(first) == 1
    assert (first[0].scores == again[0].scores).all() and (first[0].cam == again[0].cam).all()
    assert (first[0].scores != other.scores).any()


def test_a_class_by_name_or_number(trained, video):
    found = explain(video, checkpoint=trained, class_name="Wäsche", settings=FEW, window_sec=2.4)
    assert (found.label, found.class_name) == (2, "Wäsche")
    by_number = explain(video, checkpoint=trained, class_name="2", settings=FEW, window_sec=2.4)
    assert (by_number.windows[0].scores == found.windows[0].scores).all()
    assert found.probability == pytest.approx(found.windows[0].probability, abs=1e-5)
    assert [find_class(trained, name) for name in CLASS_NAMES] == list(range(5))
    with pytest.raises(ValueError, match=r"no class 'jumping' among the 5 of .*near: jump"):
        find_class(trained, "jumping")
    with pytest.raises(ValueError, match="no class '5'"):
        find_class(trained, "5")


def test_of_several_classes_a_video_the_logit_is_explained(folder, video):
    path = write_tiny_checkpoint(folder / "multi.pyth", **LARGE, MODEL__LOSS_FUNC="bce_logit")
    trained = load_trained(path)
    found = explain(video, checkpoint=trained, class_name="run", settings=FEW, window_sec=2.4)
    assert found.is_multilabel
    views = torch.from_numpy(found.windows[0].frames).permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        logits = trained.model(normalize_video(views, mean=trained.cfg.DATA.MEAN, std=trained.cfg.DATA.STD))
    assert found.windows[0].evidence == pytest.approx(float(logits[0, 3]), abs=1e-5)
    assert found.windows[0].probability == pytest.approx(float(logits[0, 3].sigmoid()), abs=1e-5)
    assert found.probability == pytest.approx(found.windows[0].probability, abs=1e-5)


def test_a_model_of_pictures(folder, painted_video):
    name = {"MODEL__MODEL_NAME": "hiera_tiny_224", "DATA__NUM_FRAMES": 1} | LARGE
    checkpoint = write_tiny_checkpoint(folder / "picture.pyth", **name)
    (window,) = explain(
        str(painted_video("short.mp4", num_frames=2)), checkpoint=checkpoint, settings=FEW, window_sec=0.08
    ).windows
    assert window.scores.shape == (1, 2, 2) and window.cam.shape == (1, 2, 2) and window.frames.shape == (1, 64, 64, 3)


def test_what_is_written(trained, video, tmp_path):
    found = explain(video, checkpoint=trained, settings=ExplainSettings(max_windows=2, num_masks=20))
    content = json.loads(found.to_json())
    assert content["class"] == found.class_name and content["grid"] == [2, 2, 2] and content["num_windows"] == 8
    assert content["mask_unit"] == {"frames": 2, "height_px": 32, "width_px": 32}
    for window, told in zip(found.windows, content["windows"], strict=True):
        assert window.scores[tuple(told["strongest_unit"])] == window.scores.max()
        assert told["strongest_score"] == pytest.approx(float(window.scores.max()))
    found.write_maps(tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz") as maps:
        assert maps["spans_sec"].tolist() == [[w.start_sec, w.end_sec] for w in found.windows]
        assert (maps["scores"] == np.stack([w.scores for w in found.windows])).all()
        assert (maps["grad_cam"] == np.stack([w.cam for w in found.windows])).all()


def test_what_cannot_be_explained(trained, folder, video):
    with pytest.raises(ValueError, match="num_masks is 0"):
        ExplainSettings(num_masks=0)
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        explain("gone.mp4", checkpoint=trained, settings=FEW)
    mae = write_tiny_checkpoint(folder / "mae.pyth", TASK="pretrain", MODEL__MODEL_NAME="mae_hiera_tiny_16x224")
    with pytest.raises(ValueError, match="has no classifier"):
        explain(video, checkpoint=mae, settings=FEW)
    one = write_tiny_checkpoint(folder / "one.pyth", DATA__NUM_FRAMES=2)
    with pytest.raises(ValueError, match="single mask unit"):
        explain(video, checkpoint=one, settings=FEW)
