"""Recipes are found from any folder, and their heads say what the paper reports."""

import collections
import csv
from pathlib import Path

import pytest
import yaml

from hiera_video.config import find_config, list_recipes, load_config
from hiera_video.config.defaults import KEYS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["Kinetics/HIERA_B_16x4.yaml", "configs/Kinetics/HIERA_B_16x4.yaml"])
def test_a_recipe_is_found_from_any_folder_unless_a_file_there_has_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(find_config(name)) == ROOT / "configs/Kinetics/HIERA_B_16x4.yaml"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("TRAIN: {ENABLE: False}\n")
    assert find_config(name) == name


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Kinetics/HIERA_B_16x5.yaml", "Did you mean Kinetics/HIERA_B_16x4.yaml"),
        ("HIERA_L_32.yaml", "SSv2/HIERA_L_32.yaml"),
        ("/no/such/thing.yml", "hiera-video run --list"),
    ],
)
def test_a_miss_names_recipes_with_similar_names(name, nearest):
    with pytest.raises(FileNotFoundError, match=f"--cfg {name}: there is no such file.*{nearest}"):
        find_config(name)


def test_the_list_holds_every_recipe_with_what_its_config_says():
    recipes = {recipe.name: recipe for recipe in list_recipes()}
    for name, recipe in recipes.items():
        cfg = load_config([name], ["DATA.PATH_TO_DATA_DIR", "/data"])
        assert (recipe.task, recipe.model) == (cfg.TASK, cfg.MODEL.MODEL_NAME)
        assert recipe.reported or name.startswith("Demo/"), f"the head of {name} has no line 'The paper reports: ...'"
    assert recipes["Kinetics/HIERA_B_16x4.yaml"].reported == "84.0 % top-1 with 3 crops x 5 clips"
    files = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")}
    assert files - set(recipes) == {
        "COCO/MASK_RCNN_1024.yaml",
        "ImageNet/EVALUATE_224.yaml",
        "ImageNet/FINETUNE_224.yaml",
        "ImageNet/PRETRAIN_224.yaml",
        "Kinetics/FINETUNE_16x4.yaml",
        "Kinetics/PRETRAIN_16x4.yaml",
    }


def read_own_values(path):
    """Key -> value as text, of what a yaml file itself says; its base says the rest."""

    def flatten(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}.")
            elif key != "_BASE_":
                yield prefix + key, str(value)

    return dict(flatten(yaml.safe_load(path.read_text())))


def test_every_value_of_every_recipe_has_a_source():
    """configs/sources.csv says where each value comes from, "ours" being one place; and it says nothing else."""
    with open(ROOT / "configs/sources.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    table = {}
    for row in rows:
        assert row["source"] and not row["source"].isspace(), row
        assert (row["recipe"], row["key"]) not in table, f"twice: {row}"
        table[row["recipe"], row["key"]] = row["value"]
    recipes = {
        (path.relative_to(ROOT / "configs").as_posix(), key): value
        for path in (ROOT / "configs").rglob("*.yaml")
        for key, value in read_own_values(path).items()
    }
    assert table.keys() == recipes.keys(), sorted(table.keys() ^ recipes.keys())
    assert table == recipes, sorted(set(table.items()) ^ set(recipes.items()))
    assert {key for _, key in table} <= set(KEYS)
    words = ("paper", "released", "SlowFast", "MAE", "the data set", "ours")
    assert all(row["source"].startswith(words) for row in rows), {row["source"] for row in rows}
    print(f"\n{len(rows)} values of {len({name for name, _ in table})} files: ", end="")
    print(collections.Counter(next(word for word in words if row["source"].startswith(word)) for row in rows))


PAPER = [  # recipe, key, the paper's value: its tables once more, apart from configs/sources.csv
    *(("Kinetics/HIERA_B_16x4.yaml", *pair) for pair in (("SOLVER.MAX_EPOCH", 150), ("SOLVER.LAYER_DECAY", 0.8))),
    *(("Kinetics/HIERA_B_16x4_FROM_1600.yaml", *pair) for pair in (("SOLVER.LAYER_DECAY", 0.85),)),
    *(("Kinetics/HIERA_B_16x4_FROM_800.yaml", *pair) for pair in (("SOLVER.LAYER_DECAY", 1.0),)),
    *(("Kinetics/HIERA_L_16x4_FROM_800.yaml", *pair) for pair in (("SOLVER.LAYER_DECAY", 0.925),)),
    *(("Kinetics/HIERA_L_16x4_FROM_1600.yaml", *pair) for pair in (("SOLVER.LAYER_DECAY", 0.9),)),
    *(("Kinetics/HIERA_H_16x4.yaml", *pair) for pair in (("SOLVER.BASE_LR", 4e-4), ("MODEL.DROP_PATH_RATE", 0.3))),
    *(
        ("Kinetics600/HIERA_H_16x4_MAE_3200.yaml", *pair)
        for pair in (("SOLVER.BASE_LR", 3.2e-4), ("AUG.NUM_SAMPLE", 4))
    ),
    *(
        ("Kinetics700/HIERA_L_16x4_MAE_1600.yaml", *pair)
        for pair in (("SOLVER.MAX_EPOCH", 1600), ("MAE.MASK_RATIO", 0.9))
    ),
    *(("Kinetics700/HIERA_L_16x4.yaml", *pair) for pair in (("AUG.RE_PROB", 0.25), ("SOLVER.CLIP_GRAD_L2NORM", 5.0))),
    *(
        ("SSv2/HIERA_L_16.yaml", *pair)
        for pair in (("SOLVER.BASE_LR", 0.16), ("DATA.TRAIN_JITTER_SCALES_RELATIVE", []))
    ),
    *(
        (f"AVA/HIERA_{size}_16x4.yaml", *pair)
        for size in "LH"
        for pair in (
            ("SOLVER.BASE_LR", 3.6),
            ("SOLVER.WEIGHT_DECAY", 1e-8),
            ("SOLVER.MAX_EPOCH", 30),
            ("SOLVER.LAYER_DECAY", 0.875),
            ("MODEL.DROP_PATH_RATE", 0.4),
            ("MODEL.DROPOUT_RATE", 0.5),
            ("TRAIN.BATCH_SIZE", 128),
        )
    ),
    *(
        ("COCO/HIERA_B_1024.yaml", *pair)
        for pair in (("SOLVER.BASE_LR", 3.5e-5), ("SOLVER.WEIGHT_DECAY", 0.1), ("MODEL.DROP_PATH_RATE", 0.2))
    ),
    *(("COCO/HIERA_L_1024.yaml", *pair) for pair in (("SOLVER.BASE_LR", 3e-5), ("MODEL.DROP_PATH_RATE", 0.4))),
    *(("SSv2/HIERA_L_32.yaml", *pair) for pair in (("SOLVER.BASE_LR", 0.08), ("MIXUP.ENABLE", False))),
]


@pytest.mark.parametrize(("name", "key", "value"), PAPER)
def test_recipes_resolve_to_the_values_of_the_sources(name, key, value):
    cfg = load_config([name], ["DATA.PATH_TO_DATA_DIR", "/data"])
    section, leaf = key.split(".")
    assert cfg[section][leaf] == value
    if not name.startswith("SSv2") and cfg.TASK == "classify":
        assert cfg.AUG.AA_TYPE == "rand-m7-n2-mstd0.5-inc1"
