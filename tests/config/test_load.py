"""Loading of configs: order of precedence, conversion, and what a wrong one says."""

import ast
from pathlib import Path

import pytest
import yaml

from hiera_video.config import ConfigError, compute_digest, config_from_text, dump_config, load_config
from hiera_video.config.defaults import KEYS, get_cfg

ROOT = Path(__file__).resolve().parents[2]
YAMLS = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "configs").rglob("*.yaml")}
RECIPES = sorted(name for name, text in YAMLS.items() if "Not a recipe by itself" not in text)
DATA = ["DATA.PATH_TO_DATA_DIR", "/data"]
AVA = ["TASK", "detect_actions", "DATA.FORMAT", "ava"]


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_later_files_and_pairs_win(tmp_path):
    base = write(tmp_path, "base.yaml", "TRAIN: {BATCH_SIZE: 4}\nSOLVER: {BASE_LR: 1, WARMUP_EPOCHS: 2}\n")
    first = write(tmp_path, "a.yaml", "_BASE_: base.yaml\nTRAIN: {BATCH_SIZE: 6}\n")
    second = write(tmp_path, "b.yaml", "SOLVER: {WARMUP_EPOCHS: 3}\n")
    cfg = load_config([first, second], [*DATA, "DATA.NUM_FRAMES", "8"])
    assert base and (cfg.TRAIN.BATCH_SIZE, cfg.SOLVER.WARMUP_EPOCHS, cfg.DATA.NUM_FRAMES) == (6, 3.0, 8)
    assert cfg.SOLVER.BASE_LR == 1.0 and isinstance(cfg.SOLVER.BASE_LR, float)
    assert KEYS["MODEL.NUM_CLASSES"].default == cfg.MODEL.NUM_CLASSES


def test_config_is_frozen_and_survives_a_round_trip():
    cfg = load_config([], [*DATA, "SOLVER.BASE_LR", "3e-4", "DATA.TRAIN_JITTER_SCALES", "[300,310]"])
    with pytest.raises(AttributeError):
        cfg.TRAIN.BATCH_SIZE = 3
    again = config_from_text(dump_config(cfg))
    assert again == cfg and compute_digest(again) == compute_digest(cfg)
    assert compute_digest(load_config([], DATA)) != compute_digest(cfg)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["TRAIN.BATCHSIZE", "3"], ["TRAIN.BATCHSIZE", "'3'", "TRAIN.BATCH_SIZE", "command line"]),
        (["train.batch_size", "3"], ["train.batch_size", "TRAIN.BATCH_SIZE"]),
        (["TRAIN.BATCH_SIZE", "many"], ["TRAIN.BATCH_SIZE", "'many'", "int"]),
        (["TRAIN.BATCH_SIZE", "2.5"], ["TRAIN.BATCH_SIZE", "2.5", "int"]),
        (["TRAIN.BATCH_SIZE", "0"], ["TRAIN.BATCH_SIZE", "0", ">= 1"]),
        (["TRAIN.ENABLE", "1"], ["TRAIN.ENABLE", "1", "bool"]),
        (["TRAIN.PRECISION", "fp64"], ["TRAIN.PRECISION", "fp64", "'bf16'"]),
        (["DATA.MEAN", "[0.1, 0.2]"], ["DATA.MEAN", "3 numbers"]),
        (["DATA.STD", "[0.1, 0, 0.1]"], ["DATA.STD", "positive"]),
        (["TRAIN.BATCH_SIZE"], ["TRAIN.BATCH_SIZE", "no value"]),
        (["TRAIN.BATCH_SIZE", "10", "AUG.NUM_SAMPLE", "4"], ["TRAIN.BATCH_SIZE", "10", "AUG.NUM_SAMPLE", "4"]),
        (["SOLVER.WARMUP_EPOCHS", "300"], ["SOLVER.WARMUP_EPOCHS", "300", "SOLVER.MAX_EPOCH"]),
        (
            ["TRAIN.EARLY_STOP_VALIDATIONS", "3", "TRAIN.EVAL_PERIOD", "0"],
            ["EARLY_STOP_VALIDATIONS = 3", "EVAL_PERIOD"],
        ),
        (
            ["TEST.ENABLE", "True", "TEST.CHECKPOINT_FILE_PATH", "best", "TRAIN.EVAL_PERIOD", "0"],
            ["TEST.CHECKPOINT_FILE_PATH = best", "TRAIN.EVAL_PERIOD = 0"],
        ),
        (
            ["TASK", "pretrain", "MODEL.MODEL_NAME", "mae_hiera_base_16x224", "TRAIN.EARLY_STOP_VALIDATIONS", "3"],
            ["TRAIN.EARLY_STOP_VALIDATIONS = 3", "TASK = pretrain", "set 0"],
        ),
        (["DATA.TRAIN_CROP_SIZE", "288"], ["DATA.TRAIN_JITTER_SCALES", "288"]),
        (["MIXUP.ENABLE", "True", "TRAIN.BATCH_SIZE", "1"], ["MIXUP.ENABLE", "at least 2"]),
        (["SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", "[5]"], ["SOLVER.STEPS", "[5]"]),
        (["TASK", "pretrain"], ["TASK = pretrain", "hiera_base_16x224", "mae_hiera_"]),
        (["MODEL.MODEL_NAME", "mae_hiera_base_16x224"], ["TASK = classify", "mae_hiera_base_16x224"]),
        (["DATA.TRAIN_JITTER_ASPECT_RELATIVE", "[0.5, 2]"], ["DATA.TRAIN_JITTER_SCALES_RELATIVE"]),
        (["DATA.MAX_SHORT_SIDE", "240"], ["DATA.MAX_SHORT_SIDE = 240", "at least 256"]),
        (
            ["TASK", "pretrain", "MODEL.MODEL_NAME", "mae_hiera_base_16x224", "AUG.RE_PROB", "0.25"],
            ["AUG.RE_PROB = 0.25", "set 0"],
        ),
        (["TASK", "detect_actions"], ["DATA.FORMAT = kinetics", "TASK = detect_actions", "ava or boxes"]),
        (["DATA.FORMAT", "ava"], ["DATA.FORMAT = ava", "TASK = classify"]),
        ([*AVA, "AUG.AA_TYPE", "rand-m7-n2"], ["AUG.AA_TYPE = rand-m7-n2", "set ''"]),
        ([*AVA, "AUG.NUM_SAMPLE", "2"], ["AUG.NUM_SAMPLE = 2", "set 1"]),
        ([*AVA, "DATA.SAMPLING", "segment"], ["DATA.SAMPLING = segment", "set clip"]),
        ([*AVA, "MIXUP.ENABLE", "True"], ["MIXUP.ENABLE", "set False"]),
        (["TRAIN.SHARDING", "zero1"], ["TRAIN.SHARDING", "zero1", "'zero3'"]),
        (["TRAIN.SHARDING", "zero2", "TRAIN.PRECISION", "fp16"], ["TRAIN.SHARDING = zero2", "fp16", "bf16 or fp32"]),
        (["TRAIN.SHARDING", "zero3", "MODEL.COMPILE", "True"], ["TRAIN.SHARDING = zero3", "MODEL.COMPILE = True"]),
        ([*AVA, "AVA.START_SEC", "-2"], ["AVA.START_SEC", "-1, or a number >= 0"]),
        ([*AVA, "AVA.TRAIN_LISTS", "[3]"], ["AVA.TRAIN_LISTS", "a list of texts"]),
    ],
)
def test_a_wrong_pair_names_key_value_and_what_is_legal(pairs, words):
    with pytest.raises(ConfigError) as error:
        load_config([], [*DATA, *pairs])
    for word in words:
        assert word in str(error.value)


def test_empty_data_folder_is_named():
    with pytest.raises(ConfigError, match="DATA.PATH_TO_DATA_DIR is empty"):
        load_config([], [])
    load_config([], ["TRAIN.ENABLE", "False"])  # nothing to run needs no data


def test_wrong_yaml_names_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"MODEL.NUMCLASSES.*wrong.yaml.*MODEL.NUM_CLASSES"):
        load_config([write(tmp_path, "wrong.yaml", "MODEL: {NUMCLASSES: 3}")], DATA)
    with pytest.raises(ConfigError, match="broken.yaml is not valid yaml"):
        load_config([write(tmp_path, "broken.yaml", "MODEL: {")], DATA)
    with pytest.raises(FileNotFoundError, match=r"HIERA_B_16x5.yaml.*Did you mean Kinetics/HIERA_B_16x4.yaml"):
        load_config(["configs/Kinetics/HIERA_B_16x5.yaml"], DATA)


def test_a_value_may_be_negative_or_hold_an_equals_sign():
    cfg = load_config([], [*DATA, "NUM_GPUS", "-1", "OUTPUT_DIR", "/x/lr=1"])
    assert cfg.NUM_GPUS == -1 and cfg.OUTPUT_DIR == "/x/lr=1"
    assert load_config([], [*DATA, "TRAIN.BATCH_SIZE=32"]).TRAIN.BATCH_SIZE == 32


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_loads_and_says_how_to_run_it(recipe):
    load_config([recipe], DATA)
    head = (ROOT / recipe).read_text()
    assert recipe in head, "the head comment must hold the command"


def test_recipes_hold_the_papers_numbers():
    """Spot checks of values that differ between rows of the paper's tables."""
    huge = load_config(["configs/Kinetics/HIERA_H_16x4.yaml"], DATA)
    assert (huge.SOLVER.BASE_LR, huge.MODEL.DROP_PATH_RATE, huge.MODEL.DROPOUT_RATE) == (4e-4, 0.3, 0.5)
    assert (huge.SOLVER.MAX_EPOCH, huge.SOLVER.LAYER_DECAY, huge.SOLVER.CLIP_GRAD_L2NORM) == (100, 0.875, 5.0)
    base = load_config(["configs/Kinetics600/HIERA_B_16x4.yaml"], DATA)
    assert (base.MODEL.NUM_CLASSES, base.SOLVER.MAX_EPOCH, base.SOLVER.LAYER_DECAY) == (600, 150, 0.8)
    long = load_config(["configs/SSv2/HIERA_L_32.yaml"], DATA)
    assert (long.SOLVER.OPTIMIZING_METHOD, long.SOLVER.BASE_LR, long.TRAIN.BATCH_SIZE) == ("sgd", 0.08, 128)
    assert not long.MIXUP.ENABLE and not long.DATA.RANDOM_FLIP and long.DATA.NUM_FRAMES == 32


def test_pre_training_recipes_hold_the_papers_numbers():
    huge = load_config(["configs/Kinetics/HIERA_H_16x4_MAE_3200.yaml"], DATA)
    assert (huge.SOLVER.BASE_LR, huge.MODEL.DROP_PATH_RATE, huge.SOLVER.MAX_EPOCH) == (3.2e-4, 0.4, 3200)
    base = load_config(["configs/Kinetics/HIERA_B_16x4_MAE_800.yaml"], DATA)
    assert (base.SOLVER.BASE_LR, base.MODEL.DROP_PATH_RATE, base.SOLVER.MAX_EPOCH) == (8e-4, 0.1, 800)
    assert (base.SOLVER.WARMUP_EPOCHS, base.SOLVER.BETAS, base.TRAIN.BATCH_SIZE) == (120, [0.9, 0.95], 512)
    assert (base.AUG.NUM_SAMPLE, base.MAE.MASK_RATIO, base.SOLVER.CLIP_GRAD_L2NORM) == (4, 0.9, 0)
    ssv2 = load_config(["configs/SSv2/HIERA_L_16_MAE_1600.yaml"], DATA)
    assert (ssv2.SOLVER.CLIP_GRAD_L2NORM, ssv2.SOLVER.WARMUP_EPOCHS, ssv2.TRAIN.BATCH_SIZE) == (0.02, 30, 1024)
    assert not ssv2.DATA.RANDOM_FLIP and base.DATA.RANDOM_FLIP
    assert not list((ROOT / "configs" / "Kinetics").glob("HIERA_H_16x4_MAE_800*")), "the paper has no such row"


def find_aliases(tree):
    """(name, section) of assignments such as ``data, aug = cfg.DATA, cfg.AUG``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute | ast.Tuple):
            targets, values = (
                [part] if not isinstance(part, ast.Tuple) else part.elts for part in (node.targets[0], node.value)
            )
            for target, value in zip(targets, values, strict=False):
                if isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
                    yield target.id, value.attr


def test_every_key_is_read_somewhere():
    """A key that no code reads would be a promise that nobody keeps."""
    read = set()
    files = [*ROOT.glob("hiera_video/**/*.py"), *ROOT.glob("tools/*.py")]
    for path in files:
        if path.name == "defaults.py":
            continue
        tree = ast.parse(path.read_text())
        aliases = dict(find_aliases(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.isupper():
                owner = node.value
                section = owner.attr if isinstance(owner, ast.Attribute) else aliases.get(getattr(owner, "id", ""), "")
                read.add(f"{section}.{node.attr}" if section.isupper() and section else node.attr)
    assert not sorted(set(KEYS) - read)


def test_defaults_are_legal_themselves():
    cfg = get_cfg()
    for name, key in KEYS.items():
        assert key.legal.accepts(key.default), name
    assert yaml.safe_load(dump_config(cfg))["TRAIN"]["BATCH_SIZE"] == KEYS["TRAIN.BATCH_SIZE"].default
