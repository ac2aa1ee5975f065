"""Each command that a page tells people to type is run, on small data, or is listed here with the reason why not.

A new command on a page fails these tests until a rule of RULES begins as it does. The first such rule counts.
"""

import contextlib
import importlib
import json
import os
import re
import runpy
import shutil
import sys
from dataclasses import dataclass, field

import pytest
import torch
from page_commands import PAGES, ROOT, find_blocks, find_commands, name_of, split_command
from page_world import TINY, TINY_ACTIONS, TINY_DETECTOR, TINY_MAE, copy_world, write_weights, write_world
from torch.distributed.run import parse_args as parse_torchrun

import hiera_video as hv
from hiera_video.cli.main import COMMANDS, main
from hiera_video.models.variants import MODELS

ONE_EPOCH = "SOLVER.MAX_EPOCH 1 SOLVER.WARMUP_EPOCHS 0 TRAIN.BATCH_SIZE 8 TRAIN.PRECISION fp32 REPORT.ENABLE False"
ONE_VIEW = "TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 TEST.BATCH_SIZE 8"
JOB = f"{TINY} {ONE_EPOCH} {ONE_VIEW}"
CLIP = "--size 4 64 64"
WINDOWS = "--window-sec 0.2 --stride-sec 0.2"
MAX_EXAMPLE_LINES = 60
KINDS = "--metadata kinds.csv --label-column kind"
TEN_MINUTES = "takes minutes; the demo's own tests run it on less"
CLUSTER = "needs a cluster"


@dataclass(frozen=True)
class Rule:
    """What the test does with commands that begin so.

    Attributes:
        begins: a regular expression for the beginning of the command.
        more: words that are added, later ones win: less data, a smaller model.
        writes: files or folders that are there afterwards.
        weights: path -> kind of `page_world.WEIGHTS`, where the page means another kind by that name.
        reason: why it is not run; its own parser reads it all the same.
    """

    begins: str
    more: str = ""
    writes: tuple[str, ...] = ()
    weights: dict[str, str] = field(default_factory=dict)
    reason: str = ""


BEST, EPOCH_800 = (f"output/checkpoints/checkpoint_{name}.pyth" for name in ("best", "epoch_00800"))
BOXES = f"{TINY_DETECTOR} {ONE_EPOCH} TRAIN.BATCH_SIZE 4 TEST.BATCH_SIZE 2 SOLVER.LR_POLICY cosine"
RULES = (
    # ---- not run
    Rule(r"make (demo|test)", reason="a target of the Makefile that sets up an environment"),
    Rule(r"hiera-video demo", reason=TEN_MINUTES),
    Rule(r"hiera-video run --cfg FILE", reason="the form of all commands"),
    Rule(r"hiera-video submit", reason=CLUSTER),
    Rule(r"hiera-video extract .*--ray", reason=CLUSTER),
    Rule(r"hiera-video predict tcp:", reason="needs a camera"),
    Rule(r"hiera-video predict .*--detector", reason="needs 160 MB of a detector's weights"),
    Rule(
        r"hiera-video convert .*\.dcp",
        reason="needs what several processes have written; test_sharded_checkpoint joins it",
    ),
    # ---- examples
    Rule(r"python examples/finetune.py", f"{CLIP} --epochs 1", ("mine.pth",)),
    Rule(r"python examples/embed_and_search.py", "", ("output/embeddings",)),
    Rule(r"python examples/explain.py", "", ("explained.png",)),
    Rule(r"python examples/mae_picture.py", CLIP, ("mae.png",)),
    # ---- data
    Rule(r"hiera-video check --cfg Demo/", TINY, ("output/look/manifest.parquet",)),
    Rule(r"hiera-video check .*/data/kinetics400", f"{TINY} MODEL.NUM_CLASSES 8", ("output/manifest.parquet",)),
    Rule(r"hiera-video check ", TINY, ("output/dataset_report.json", "output/manifest.parquet")),
    Rule(r"hiera-video pack", f"{TINY} --workers 1", ("data/k400_shards",)),
    Rule(
        r"hiera-video prepare",
        f"{TINY} --short-side 64 --forecast-sec 0 --workers 1",
        ("data/kinetics400_256/train.csv",),
    ),
    Rule(r"hiera-video make-motion-dataset", "--train 24 --val 8 --test 11 --workers 1", ("data/motion/train.csv",)),
    # ---- jobs
    Rule(r"hiera-video crossval", f"{JOB} --folds 2", ("output/folds/crossval.json",)),
    Rule(r"hiera-video bench", f"{JOB} --seconds 0.05", ("output/bench.json",)),
    Rule(r"hiera-video plan .*_MAE_", TINY_MAE),
    Rule(r"hiera-video plan", TINY),
    Rule(r"hiera-video run --cfg AVA/", f"{TINY_ACTIONS} {ONE_EPOCH} {ONE_VIEW}", (), {BEST: "actions"}),
    Rule(r"hiera-video run --cfg COCO/.* /data/mine ", BOXES),
    Rule(r"hiera-video run --cfg COCO/", f"{BOXES} MODEL.NUM_CLASSES 4"),
    Rule(r"torchrun .*/SSv2/", f"{JOB} MODEL.NUM_CLASSES 8"),
    Rule(r"(torchrun .* )?\S*run_net.py .*_MAE_", f"{TINY_MAE} {ONE_EPOCH} MAE.PROBE_PERIOD 0"),
    Rule(r".* EXTRACT.ENABLE True", f"{JOB} EXTRACT.WINDOW 0.2 EXTRACT.STRIDE 0.2"),
    Rule(r"hiera-video run|torchrun|python tools/run_net.py", JOB),
    # ---- use
    Rule(r"hiera-video predict a.jpg", "--min-score 0", ("drawn", "things.json"), {BEST: "detector"}),
    Rule(r"hiera-video predict .*--boxes-csv", "", (), {BEST: "actions"}),
    Rule(r"hiera-video predict", "--window-sec 0.3"),
    Rule(r"hiera-video extract .*--window-sec", f"{TINY} {WINDOWS}", ("output/embeddings/embeddings",)),
    Rule(r"hiera-video extract", "DATA_LOADER.NUM_WORKERS 0", ("output/tour_embeddings",)),
    Rule(r"hiera-video explain .*--class", "--window-sec 0.3 --max-windows 2"),
    Rule(r"hiera-video explain .*TEST_CROP_SIZE", "", (), {"checkpoint_best.pyth": "motion"}),
    Rule(r"hiera-video explain"),
    Rule(r"hiera-video report output/k400", "", ("output/k400/report.html",)),
    Rule(r"hiera-video report output/a output/b", "", ("output/a/comparison.html",)),
    Rule(r"hiera-video search .*--start-sec", "--start-sec 0.2 --end-sec 0.4", ("found.html",)),
    Rule(r"hiera-video search .*--path", "--path my_videos/a.mp4"),
    Rule(r"hiera-video search"),
    # The four videos here have no labels and are of no split; t-SNE wants more rows.
    Rule(r"hiera-video map .*tsne", "--method pca --color cluster --clusters 2", ("map.html",)),
    Rule(r"hiera-video map", "--color cluster --clusters 2"),
    Rule(r"hiera-video find-label-errors .*errors.html", KINDS, ("errors.html", "errors.csv", "errors.json")),
    Rule(r"hiera-video find-label-errors", KINDS, ("output/embeddings/label_errors.html",)),
    Rule(r"hiera-video probe", "--probes knn"),
    Rule(r"hiera-video export"),
    Rule(r"hiera-video visualize-mae", TINY_MAE, ("output/mae/clip_mae.png",), {EPOCH_800: "mae"}),
    Rule(r"hiera-video check-mae-heads", "--heads 2 8"),
    Rule(r"hiera-video convert .*--to hf", "", ("hiera-base-hf",)),
    Rule(r"hiera-video convert", "", ("best.safetensors",)),
)
CASES = [(page, command) for page in PAGES for command in find_commands(page)]


def find_rule(command):
    """The first rule of that beginning; None if there is none."""
    return next((rule for rule in RULES if re.match(rule.begins, command)), None)


def is_run(command):
    rule = find_rule(command)
    return rule is not None and not rule.reason


def name_of_case(case):
    return f"{name_of(case[0])}: {case[1][:60]}"


def to_words(command, folder):
    """A command's words as they are run here: in one process, with the pages' absolute paths led into a folder."""
    words = [lead_into(word, folder) for word in split_command(command)]
    if words[0] == "torchrun":
        at = next(number for number, word in enumerate(words) if word.endswith(".py"))
        parse_torchrun(words[1 : at + 1])  # ends the test where an option is unknown
        words = ["python", *words[at:]]
    if words[:2] == ["python", "tools/run_net.py"]:
        words = ["hiera-video", "run", *words[2:]]
    return words


def lead_into(word, folder):
    """A path of the pages -> the same inside of a folder; an address -> the name of its file; a recipe -> its path."""
    word = word.replace("https://dl.fbaipublicfiles.com/hiera/", "").replace("s3://bucket/", "")
    if re.match(r"/(data|shared)/", word):
        return f"{folder}{word}"
    return f"{ROOT}/{word}" if word.startswith("configs/") else word


@contextlib.contextmanager
def inside(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    with inside(folder):
        words = f"extract my_videos --checkpoint hiera_base_16x224.pth --output-dir output/embeddings {WINDOWS} {TINY}"
        assert main(words.split()) == 0
        shutil.copytree("output/embeddings", "output/tour_embeddings")
        pairs = split_command(f"--cfg Kinetics/HIERA_B_16x4.yaml DATA.PATH_TO_DATA_DIR {folder}/data/k400 {JOB}")
        assert main(["pack", *pairs, "--output-dir", f"{folder}/data/k400_shards", "--workers", "1"]) == 0
        for name in ("a", "b"):
            assert main(["run", *pairs, "OUTPUT_DIR", f"output/{name}", "RNG_SEED", str(ord(name))]) == 0
        shutil.copytree("output/a", "output/k400")
    return folder


@pytest.fixture
def small_models(monkeypatch):
    """Models by name are tiny: programs in Python name them and have no keys that would make them so."""
    for name, arguments in list(MODELS.items()):
        decoder = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 8} if "mae" in name else {}
        monkeypatch.setitem(MODELS, name, arguments | {"embed_dim": 8, "stages": (1, 1, 1, 1)} | decoder)


def run_words(words, monkeypatch):
    """Runs a command in this process; returns its exit status."""
    if words[0] == "hiera-video":
        return main(words[1:])
    assert words[0] == "python" and words[1].startswith("examples/"), words
    monkeypatch.setattr(sys, "argv", words[1:])
    runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    return 0


@pytest.mark.parametrize("page, command", CASES, ids=map(name_of_case, CASES))
def test_it_has_a_rule_and_its_own_parser_reads_it(page, command):
    assert find_rule(command), f"no rule of RULES begins as {command!r} on {name_of(page)}"
    words = to_words(command, "")
    if words[0] == "hiera-video" and "FILE" not in command:
        assert words[1] in COMMANDS, command
        parse = importlib.import_module(f"hiera_video.cli.{words[1].replace('-', '_')}").parse_args
        parse(words[2:])  # ends the test where an option is unknown


RUN = sorted({command for _, command in CASES if is_run(command)})


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN, ids=[command[:80] for command in RUN])
def test_it_does_what_the_page_says(command, world, tmp_path, small_models, monkeypatch, capsys):
    rule = find_rule(command)
    copy_world(world, tmp_path)
    for path, kind in rule.weights.items():
        (tmp_path / path).unlink(missing_ok=True)
        write_weights(tmp_path / path, kind)
    for path in rule.writes:
        remove(tmp_path / path)
    monkeypatch.chdir(tmp_path)
    status = run_words([*to_words(command, tmp_path), *split_command(rule.more)], monkeypatch)
    assert status == 0, capsys.readouterr().err
    assert all((tmp_path / path).exists() for path in rule.writes)


def remove(path):
    if path.is_dir():
        for inner in path.iterdir():
            remove(inner)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def test_each_rule_is_of_a_command():
    """A rule that no command needs any more goes."""
    used = [find_rule(command) for _, command in CASES]
    assert [rule.begins for rule in RULES if rule not in used] == []


def test_a_command_without_a_rule_is_noticed():
    assert find_rule("hiera-video dance --with me") is None


# Pages whose lines of Python need other weights than `page_world` has under their name.
WEIGHTS_OF_PAGES = {"docs/weights.md": {"mae_k400_ft_k400": "video"}}
PYTHON = [page for page in PAGES if any(language == "python" for language, _ in find_blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON, ids=name_of)
def test_python_of_a_page_runs(page, world, tmp_path, small_models, monkeypatch):
    copy_world(world, tmp_path)
    for path, kind in WEIGHTS_OF_PAGES.get(name_of(page), {}).items():
        (tmp_path / path).unlink()
        write_weights(tmp_path / path, kind)
    remove(tmp_path / "output" / "embeddings")
    monkeypatch.chdir(tmp_path)
    names = {"hv": hv, "video": torch.zeros(1, 3, 16, 224, 224)}
    given = set(names)
    for language, content in find_blocks(page):
        if language == "python":
            exec(compile(content, name_of(page), "exec"), names)
    made = [value for name, value in names.items() if name not in {*given, "__builtins__"}]
    assert made and all(value is not None for value in made), "what a page makes is there"


@pytest.mark.slow
def test_the_notebook_runs(world, small_models, monkeypatch, capsys):
    notebook = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text())
    monkeypatch.chdir(world)
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "the notebook is kept without outputs"
            exec(compile("".join(cell["source"]), "first_steps.ipynb", "exec"), names)
    assert names["logits"].shape == (1, 400) and len(names["maps"]) == 4
    assert "cosine" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.py")), ids=name_of)
def test_examples_are_short(path):
    assert path.read_text().count("\n") <= MAX_EXAMPLE_LINES
    assert path.name in (ROOT / "docs" / "examples.md").read_text()
