"""Recipes are found from any folder, and their heads say what the paper reports."""

from pathlib import Path

import pytest

from hiera_video.config import find_config, list_recipes, load_config

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
    assert files - set(recipes) == {"Kinetics/FINETUNE_16x4.yaml", "Kinetics/PRETRAIN_16x4.yaml"}
