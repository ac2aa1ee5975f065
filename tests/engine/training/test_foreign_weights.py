"""Weights of other packages, from a config's key to a test's results."""

import pytest
import simplejson
import torch

from hiera_video.engine.trained import load_trained

timm = pytest.importorskip("timm")
SMALL = {"embed_dim": 8, "stages": (1, 1, 1, 1)}
SMALL_KEYS = {"HIERA.EMBED_DIM": 8, "HIERA.NUM_HEADS": 1, "HIERA.STAGES": [1, 1, 1, 1]}


def write_weights(kind, folder):
    """A file as the package writes it; and the keys of a model that it fits."""
    torch.manual_seed(0)
    if kind == "timm":
        model = timm.create_model("hiera_tiny_224", img_size=32, num_classes=5, **SMALL)
        torch.save(model.state_dict(), folder / "timm.pth")
        return folder / "timm.pth", {}
    if kind == "hf":
        transformers = pytest.importorskip("transformers")
        heads = {"num_heads": [1, 2, 4, 8], "depths": [1, 1, 1, 1]}
        config = transformers.HieraConfig(embed_dim=8, image_size=[32, 32], num_labels=5, **heads)
        transformers.HieraForImageClassification(config).save_pretrained(folder / "hf")
        return folder / "hf", {}
    model = timm.create_model("sam2_hiera_tiny", num_classes=0, global_att_blocks=(), **SMALL)
    names = {f"image_encoder.trunk.{name}": value for name, value in model.state_dict().items() if "head" not in name}
    torch.save({"model": names}, folder / "sam2.pt")
    size = {"DATA.TRAIN_CROP_SIZE": 224, "DATA.TEST_CROP_SIZE": 224, "DATA.TRAIN_JITTER_SCALES": [224, 256]}
    return folder / "sam2.pt", size | {"DATA.NUM_FRAMES": 2, "TRAIN.BATCH_SIZE": 8}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["timm", "hf", "sam2"])
def test_a_run_starts_from_them_and_ends_with_a_test(kind, run_net, tmp_path):
    path, keys = write_weights(kind, tmp_path)
    keys = {**SMALL_KEYS, **keys, "TRAIN.CHECKPOINT_FILE_PATH": path, "OUTPUT_DIR": tmp_path / "out"}
    finished = run_net({**keys, "SOLVER.MAX_EPOCH": 1, "TEST.ENABLE": True, "DATA.MAX_SHORT_SIDE": 0})
    assert finished.returncode == 0, finished.stderr
    assert f"under the names of {kind}" in finished.stderr
    assert "inflated: patch_embed.proj.weight, pos_embed_spatial, pos_embed_temporal" in finished.stderr
    results = simplejson.loads((tmp_path / "out" / "test_results.json").read_text())
    assert results["num_evaluated"] == results["num_videos"] > 0
    assert load_trained(results["checkpoint"]).model.widths[0] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"HIERA.EMBED_DIM": 16}, "the file seems to be a Hiera for images with embed_dim 8"),
        ({"HIERA.STAGES": [1, 1, 1, 4]}, r"TRAIN.ALLOW_PARTIAL True"),
        ({"TRAIN.CHECKPOINT_FILE_PATH": "mae_k400"}, "there are no released weights mae_k400 for hiera_tiny_16x224"),
    ],
)
def test_weights_that_do_not_fit_are_refused_as_a_user_sees_it(changes, message, run_net, tmp_path):
    path, keys = write_weights("timm", tmp_path)
    keys = {**SMALL_KEYS, **keys, "TRAIN.CHECKPOINT_FILE_PATH": path, "OUTPUT_DIR": tmp_path / "out", **changes}
    finished = run_net(keys)
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    print(last)
    assert last.startswith("error: ") and message in last and "Traceback" not in finished.stderr
