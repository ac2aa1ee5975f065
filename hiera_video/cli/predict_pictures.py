"""What `hiera-video predict` does with pictures and a detector."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiera_video.engine.predict_pictures import PicturePrediction
    from hiera_video.engine.trained import Trained


def predict_pictures(trained: Trained, args: argparse.Namespace) -> int:
    """Finds things in each picture, prints them, and writes what the options ask for; returns the exit status."""
    import simplejson

    from hiera_video.engine.predict_pictures import PicturePredictor

    predictor = PicturePredictor(trained, min_score=args.min_score)
    targets = choose_targets(args.sources, args.output_dir) if args.output_dir else []
    results = []
    for number, path in enumerate(args.sources):
        result = predictor.predict(path)
        results.append(result.describe())
        if args.json != "-":
            print(format_picture(result))
        if targets:
            draw_picture(result, targets[number], font_path=args.font)
            if args.json != "-":
                print(f"  drawn: {targets[number]}")
    content = {"checkpoint": trained.checkpoint, "weights_sha256": trained.sha256, "pictures": results}
    if args.json == "-":
        print(simplejson.dumps(content, indent=1))
    elif args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(simplejson.dumps(content, indent=1) + "\n")
    return 0


def choose_targets(sources: list[str], output_dir: str) -> list[Path]:
    """A file for each picture, with its own name and as JPEG or PNG.

    Raises:
        ValueError: two pictures have the same name, or a picture would be written over itself.
    """
    folder = Path(output_dir)
    targets = []
    for source in sources:
        name = Path(source.split("::")[-1])
        suffix = name.suffix if name.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        target = folder / f"{name.stem}{suffix}"
        if target in targets:
            raise ValueError(f"--output-dir: two pictures would be written to {target}; give them in two runs")
        if target.resolve() == Path(source).resolve():
            raise ValueError(f"--output-dir {output_dir}: {source} would be written over; take another folder")
        targets.append(target)
    return targets


def draw_picture(result: PicturePrediction, path: Path, *, font_path: str = "") -> None:
    """Writes a picture with what was found on it; the file is there when it is complete."""
    from PIL import Image

    from hiera_video.report.detection_overlay import draw_detections

    labels = [f"{name} {score:.0%}" for name, score in zip(result.names, result.scores, strict=True)]
    colors = [int(label) for label in result.labels]
    drawn = draw_detections(result.pixels, result.boxes, result.decode_masks(), labels, colors, font_path=font_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    Image.fromarray(drawn).save(partial, quality=95)
    partial.replace(path)


def format_picture(result: PicturePrediction) -> str:
    """The things of a picture, one a line."""
    count = len(result.names)
    lines = [f"{result.path}: {count} thing{'s' * (count != 1)}"]
    for name, score, (x1, y1, x2, y2) in zip(result.names, result.scores, result.boxes, strict=True):
        lines.append(f"  {score:6.1%}  x {x1:6.1f} - {x2:6.1f}  y {y1:6.1f} - {y2:6.1f}  {name}")
    return "\n".join(lines)
