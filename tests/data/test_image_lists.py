"""The same pictures as folders, tar archives and Parquet files are the same list and the same samples."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hiera_video.config import load_config
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.image_lists import find_images, load_image_tables, load_image_tar
from hiera_video.data.loader import build_test_loader, build_train_dataset
from hiera_video.data.transforms import build_eval_transform
from hiera_video.engine.batch import to_model_input

CLASSES = ("n01440764", "n01443537", "n02102040")
FORMS = ("folders", "tar", "tables")


def make_pictures(num_pictures, seed):
    """(class, name, JPEG bytes) of each; noise, so that no two are alike."""
    rng = np.random.default_rng(seed)
    for number in range(num_pictures):
        buffer = io.BytesIO()
        shape = (*rng.integers(40, 70, 2), 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "JPEG", quality=90)
        yield CLASSES[number % 3], f"{CLASSES[number % 3]}_{number}.JPEG", buffer.getvalue()


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write(form, folder):
    """A training split of 12 pictures and a validation split of 6."""
    folder.mkdir()
    for split, num_pictures in (("train", 12), ("val", 6)):
        pictures = sorted(make_pictures(num_pictures, seed=num_pictures))
        if form == "folders":
            for wnid, name, data in pictures:
                (folder / split / wnid).mkdir(parents=True, exist_ok=True)
                (folder / split / wnid / name).write_bytes(data)
        elif form == "tar":
            with tarfile.open(folder / f"ILSVRC2012_img_{split}.tar", "w") as archive:
                if split == "val":  # flat, and in no order
                    for _, name, data in pictures[::-1]:
                        add(archive, name, data)
                    lines = [f"{name} {CLASSES.index(wnid)}\n" for wnid, name, _ in pictures]
                    (folder / "val.txt").write_text("".join(lines))
                for wnid in CLASSES if split == "train" else ():
                    buffer = io.BytesIO()
                    with tarfile.open(fileobj=buffer, mode="w") as inner:
                        for _, name, data in (picture for picture in pictures if picture[0] == wnid):
                            add(inner, name, data)
                    add(archive, f"{wnid}.tar", buffer.getvalue())
        else:
            features = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
            rows = {
                "image": [{"bytes": data, "path": name} for _, name, data in pictures],
                "label": [CLASSES.index(wnid) for wnid, _, _ in pictures],
            }
            table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps(features)})
            name = "validation" if split == "val" else split
            (folder / "data").mkdir(exist_ok=True)
            half = len(pictures) // 2
            for part in range(2):
                path = folder / "data" / f"{name}-0000{part}-of-00002.parquet"
                pq.write_table(table.slice(part * half, half), path, row_group_size=4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("imagenet")
    for form in FORMS:
        write(form, base / form)
    return {form: base / form for form in FORMS}


def make_cfg(folder, **changes):
    keys = {
        "DATA.FORMAT": "imagenet",
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.NUM_FRAMES": 1,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [36, 40],
        "DATA.TRAIN_JITTER_SCALES_RELATIVE": [0.3, 1.0],
        "DATA_LOADER.NUM_WORKERS": 0,
        "AUG.AA_TYPE": "rand-m7-n2-mstd0.5-inc1",
        "AUG.NUM_SAMPLE": 2,
        "MODEL.MODEL_NAME": "hiera_tiny_224",
        "MODEL.NUM_CLASSES": 3,
        "TEST.NUM_ENSEMBLE_VIEWS": 1,
        "TEST.NUM_SPATIAL_CROPS": 3,
        "TEST.SPLIT": "val",
        **changes,
    }
    return load_config([], [str(word) for pair in keys.items() for word in pair])


def test_samples_of_all_forms_are_the_same_bits(folders):
    samples = {}
    for form, folder in folders.items():
        cfg = make_cfg(folder)
        videos = build_video_list(cfg, "train")
        assert videos.class_names == CLASSES and videos.labels.tolist() == sorted([0, 1, 2] * 4)
        dataset = build_train_dataset(cfg, videos)
        tested = list(build_test_loader(cfg))
        assert sum(len(batch["index"]) for batch in tested) == 6 and not any(batch["bad"] for batch in tested)
        samples[form] = [dataset[3, index] for index in range(12)], tested
    trained, tested = samples["folders"]
    assert trained[0]["video"].shape == (2, 3, 1, 32, 32) and tested[0]["video"].shape[1:] == (3, 3, 1, 32, 32)
    for form in FORMS[1:]:
        for got, expected in zip(samples[form][0], trained, strict=True):
            assert torch.equal(got["video"], expected["video"]) and got["label"] == expected["label"], form
        for got, expected in zip(samples[form][1], tested, strict=True):
            assert torch.equal(got["video"], expected["video"]) and torch.equal(got["label"], expected["label"]), form


@pytest.mark.parametrize("shape", [(300, 400), (500, 333), (256, 256), (100, 181)])
def test_evaluation_equals_torchvisions_pipeline(shape):
    from torchvision.transforms import v2

    cfg = load_config(["ImageNet/HIERA_T_EVALUATE.yaml"], ["DATA.PATH_TO_DATA_DIR", "/data"])
    transform = build_eval_transform(cfg, num_crops=cfg.TEST.NUM_SPATIAL_CROPS, crop_size_px=cfg.DATA.TEST_CROP_SIZE)
    picture = torch.randint(0, 256, (1, *shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = transform(picture)  # (1, C, 1, H, W)
    bicubic = v2.InterpolationMode.BICUBIC
    pipeline = v2.Compose([
        v2.Resize(256, interpolation=bicubic, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip
    got = to_model_input(views[None], device=torch.device("cpu"), mean=cfg.DATA.MEAN, std=cfg.DATA.STD)[:, :, 0]
    torch.testing.assert_close(got, pipeline(picture.movedim(-1, 1)), atol=2e-6, rtol=0)


def test_what_is_missing_or_wrong_is_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures of the split train: looked for class folders"):
        find_images(str(tmp_path), "train")
    (tmp_path / "val.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(ValueError, match=r"val\.tar is no tar archive"):
        load_image_tar(str(tmp_path / "val.tar"))
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        add(archive, "a.JPEG", b"x")
    with pytest.raises(FileNotFoundError, match=r"has no class folders, and there is no .*val\.txt"):
        load_image_tar(str(tmp_path / "val.tar"))
    (tmp_path / "val.txt").write_text("b.JPEG 1\n")
    with pytest.raises(ValueError, match=r"val\.txt has no label of 1 pictures of .*val\.tar, such as a\.JPEG"):
        load_image_tar(str(tmp_path / "val.tar"))
    (tmp_path / "val.txt").write_text("a.JPEG one\n")
    with pytest.raises(ValueError, match=r"val\.txt:1: 'a\.JPEG one' is not a name and an integer label"):
        load_image_tar(str(tmp_path / "val.tar"))
    with pytest.raises(ValueError, match="is none of 1 classes"):
        load_image_tar(str(folders["tar"] / "ILSVRC2012_img_train.tar"), class_names=["n01440764"])
    pq.write_table(pa.table({"jpg": [b""]}), tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match=r"train-0\.parquet has no column \['image', 'label'\]"):
        load_image_tables([str(tmp_path / "train-0.parquet")])
    (tmp_path / "train-1.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"train-1\.parquet is no Parquet file"):
        load_image_tables([str(tmp_path / "train-1.parquet")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DATA.NUM_FRAMES": 4}, "hiera_tiny_224 is an image model, which does not go with DATA.NUM_FRAMES = 4"),
        (
            {"MODEL.MODEL_NAME": "hiera_tiny_16x224"},
            "a video model, .*DATA.NUM_FRAMES = 1.* For images: hiera_tiny_224",
        ),
    ],
)
def test_a_model_of_the_other_kind_is_refused(changes, message, folders):
    from hiera_video.models.build import build_model_from_cfg

    with pytest.raises(ValueError, match=message):
        build_model_from_cfg(make_cfg(folders["folders"], **changes), crop_size=32)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", ["classify", "pretrain"])
def test_image_models_train_and_test_on_the_same_road(task, form, folders, tmp_path):
    import simplejson

    from hiera_video.cli.main import main

    small = {"HIERA.EMBED_DIM": 8, "HIERA.STAGES": [1, 1, 1, 1], "TRAIN.BATCH_SIZE": 4, "SOLVER.MAX_EPOCH": 2}
    small |= {"SOLVER.WARMUP_EPOCHS": 1, "OUTPUT_DIR": tmp_path, "DATA.TRAIN_CROP_SIZE": 64, "DATA.TEST_CROP_SIZE": 64}
    small |= {"DATA.TRAIN_JITTER_SCALES": [64, 72], "NUM_GPUS": 0, "TEST.SPLIT": "val", "DATA_LOADER.NUM_WORKERS": 1}
    if task == "pretrain":
        small |= {"TASK": task, "MODEL.MODEL_NAME": "mae_hiera_tiny_224", "MAE.MASK_RATIO": 0.5, "MAE.PROBE_PERIOD": 1}
        small |= {"MAE.DECODER_EMBED_DIM": 16, "MAE.DECODER_DEPTH": 1, "MAE.PROBE_NEIGHBORS": 2, "AUG.AA_TYPE": ""}
    else:
        small |= {"TEST.ENABLE": True, "MIXUP.ENABLE": True, "AUG.RE_PROB": 0.5}
    cfg = {**{"DATA.FORMAT": "imagenet", "DATA.PATH_TO_DATA_DIR": folders[form], "DATA.NUM_FRAMES": 1}, **small}
    cfg = {"MODEL.MODEL_NAME": "hiera_tiny_224", "MODEL.NUM_CLASSES": 3, **cfg}
    assert main(["run", *(str(word) for pair in cfg.items() for word in pair)]) == 0
    lines = [simplejson.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    if task == "classify":
        results = simplejson.loads((tmp_path / "test_results.json").read_text())
        assert (results["num_evaluated"], results["num_failed"]) == (6, 0)
    else:
        assert any("knn_top1" in line for line in lines)
