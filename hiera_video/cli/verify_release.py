"""Tests a released model as its recipe says, and compares its accuracy with the one that was reported.

    hiera-video verify-release hiera_base_224 --data /data/imagenet
    hiera-video verify-release hiera_base_16x224 --data /data/kinetics400

Anyone who has the data can check this package so. The exit status is 0 if the reported accuracy lies inside the 95 %
interval of the measured one, else 1. A test that was stopped goes on when the command is given again.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_video.cli.arguments import make_parser, report_errors

if TYPE_CHECKING:
    from hiera_video.config.recipes import Recipe

_TESTED = re.compile(r"ImageNet/HIERA_[A-Z]+_EVALUATE\.yaml|Kinetics/HIERA_[A-Z]+_16x4\.yaml")
_ACCURACY = re.compile(r"([\d.]+) % top-1")
_ROUNDING = 0.05  # reported numbers have one digit after the point
_NUM_VALIDATION_PICTURES = 50_000


def find_tested_recipe(model: str) -> Recipe:
    """The recipe whose accuracy was reported for a released model.

    Raises:
        ValueError: no fine-tuned weights of this model were released.
    """
    from hiera_video.config.recipes import list_recipes

    recipes = {recipe.model: recipe for recipe in list_recipes() if _TESTED.fullmatch(recipe.name)}
    if model not in recipes:
        raise ValueError(f"MODEL is {model!r}; released with an accuracy are {', '.join(sorted(recipes))}")
    return recipes[model]


def format_comparison(results: dict[str, Any], recipe: Recipe, reported: float) -> str:
    """The table: what was counted, ours with its interval, theirs, and whether they agree."""
    from hiera_video.utils.tables import format_table

    low, high = results["top1_interval"]
    number = f"{results['num_videos']:,}" + (f" ({results['num_failed']} failed)" if results["num_failed"] else "")
    heading = ("model", "counted", "top-1, measured", "95 % interval", "reported", "difference")
    row = (results["model"], number, f"{results['top1']:.2f}", f"[{low:.2f}, {high:.2f}]", f"{reported:.1f}")
    lines = [format_table([heading, (*row, f"{results['top1'] - reported:+.2f}")], "<>>>>>")]
    agrees = is_inside(results, reported)
    lines.append(
        f"the reported accuracy lies {'inside' if agrees else 'OUTSIDE'} the interval; weights: {results['checkpoint']}"
    )
    if recipe.name.startswith("ImageNet/") and results["num_videos"] != _NUM_VALIDATION_PICTURES:
        lines.append(f"ImageNet-1K's validation split has {_NUM_VALIDATION_PICTURES:,} pictures: this is another one")
    return "\n".join(lines)


def is_inside(results: dict[str, Any], reported: float) -> bool:
    """Whether the interval holds the reported accuracy, which was rounded."""
    low, high = results["top1_interval"]
    return low - _ROUNDING <= reported <= high + _ROUNDING


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("verify-release", __doc__, usage="MODEL --data DIR [options] [KEY VALUE ...]")
    parser.add_argument("model", help="such as hiera_base_224 or hiera_base_16x224")
    parser.add_argument("--data", required=True, metavar="DIR", help="DATA.PATH_TO_DATA_DIR of the recipe")
    parser.add_argument("--checkpoint", help="path or URL of other weights; default: the released ones")
    parser.add_argument("--output-dir", help="where the results go; default: output/verify_MODEL")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change, such as TEST.BATCH_SIZE")
    return parser.parse_intermixed_args(argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Tests and compares."""
    args = parse_args(argv)
    import simplejson

    from hiera_video.cli.run import main as run

    recipe = find_tested_recipe(args.model)
    found = _ACCURACY.search(recipe.reported)
    if found is None:
        raise ValueError(f"the head of {recipe.name} reports no top-1 accuracy, but {recipe.reported!r}")
    released = "mae_in1k_ft_in1k" if recipe.name.startswith("ImageNet/") else "mae_k400_ft_k400"
    output_dir = args.output_dir or f"output/verify_{args.model}"
    keys = {
        "DATA.PATH_TO_DATA_DIR": args.data,
        "TRAIN.ENABLE": "False",
        "TEST.ENABLE": "True",
        "TEST.CHECKPOINT_FILE_PATH": args.checkpoint or released,
        "OUTPUT_DIR": output_dir,
    }
    status = run(["--cfg", recipe.name, *(word for pair in keys.items() for word in pair), *args.opts])
    if status:
        return status
    results = simplejson.loads(Path(output_dir, "test_results.json").read_text())
    reported = float(found[1])
    print(format_comparison(results, recipe, reported))
    return 0 if is_inside(results, reported) else 1
