"""Average precisions against pycocotools, and by hand."""

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from pycocotools import mask as oracle_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hiera_video.engine.coco_metrics import compute_coco_metrics

ORDER = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")  # of pycocotools' stats
SIZE = (240, 320)


def make_disc(rng):
    """A filled ellipse as box, code and area."""
    height, width = SIZE
    ry, rx = rng.uniform(4, 90, size=2)
    cy, cx = rng.uniform(0, height), rng.uniform(0, width)
    y, x = np.ogrid[:height, :width]
    mask = np.asfortranarray((((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1).astype(np.uint8))
    code = oracle_mask.encode(mask)
    return [float(v) for v in oracle_mask.toBbox(code)], {"size": list(SIZE), "counts": code["counts"].decode()}, mask


def jitter(rng, mask):
    shifted = np.roll(mask, tuple(int(v) for v in rng.integers(-6, 7, size=2)), axis=(0, 1))
    code = oracle_mask.encode(np.asfortranarray(shifted))
    return [float(v) for v in oracle_mask.toBbox(code)], {"size": list(SIZE), "counts": code["counts"].decode()}


def draw_set(seed):
    """Random truth with crowds and pictures without things, and detections near it, elsewhere, and twice."""
    rng = np.random.default_rng(seed)
    images = [{"id": 10 * i + 3, "height": SIZE[0], "width": SIZE[1]} for i in range(12)]
    categories = [{"id": i, "name": f"class {i}"} for i in (1, 4, 9)]
    annotations, detections = [], []
    for image in images[:10]:
        for _ in range(int(rng.integers(1, 7))):
            box, code, mask = make_disc(rng)
            if not mask.any():
                continue
            own = {"image_id": image["id"], "category_id": int(rng.choice([1, 4]))}
            crowd = int(rng.random() < 0.1)
            annotations.append(
                {"id": len(annotations) + 1, "bbox": box, "segmentation": code, "area": float(mask.sum())}
                | {"iscrowd": crowd, **own}
            )
            for _ in range(int(rng.integers(0, 3))):
                near, near_code = jitter(rng, mask)
                own = own | {"category_id": int(rng.choice([own["category_id"], 9], p=[0.9, 0.1]))}
                row = {"bbox": near, "segmentation": near_code, "score": float(rng.random())}
                detections.append(row | own)
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, detections


def run_oracle(truth, detections, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = copy.deepcopy(truth)
        ground.createIndex()
        rows = copy.deepcopy(detections)
        for row in rows:
            row.pop("bbox" if kind == "segm" else "segmentation")
        evaluation = COCOeval(ground, ground.loadRes(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_they_are_pycocotools(seed):
    truth, detections = draw_set(seed)
    before = copy.deepcopy((truth, detections))
    metrics = compute_coco_metrics(truth, detections)
    assert (truth, detections) == before, "nothing that is handed in is changed"
    for ours, theirs in (("box", "bbox"), ("mask", "segm")):
        evaluation = run_oracle(truth, detections, theirs)
        for name, value in zip(ORDER, evaluation.stats[:6], strict=True):
            found = metrics[f"{ours}_{name}"]
            assert (math.isnan(found) and value == -1) or found == pytest.approx(100 * value, abs=1e-9), name
        assert metrics[f"{ours}_ar"] == pytest.approx(100 * evaluation.stats[8], abs=1e-9)
        for place, category in enumerate(truth["categories"]):
            values = evaluation.eval["precision"][:, :, place, 0, 2]
            wanted = 100 * values[values > -1].mean() if (values > -1).any() else math.nan
            own = metrics["per_class"][category["name"]]
            assert own[f"{ours}_ap"] == pytest.approx(wanted, nan_ok=True)
    counts = [own["num_instances"] for own in metrics["per_class"].values()]
    assert sum(counts) == sum(not row["iscrowd"] for row in truth["annotations"]) and counts[2] == 0
    assert 5 < metrics["box_ap"] < 95 and metrics["box_ap"] != metrics["mask_ap"]


def test_cases_by_hand():
    """A perfect set is 100 %; nothing found is 0; a false one above the true one halves the precision."""
    truth, _ = draw_set(0)
    things = [row for row in truth["annotations"] if not row["iscrowd"]][:1]
    truth = truth | {"annotations": things}
    perfect = [{key: row[key] for key in ("image_id", "category_id", "bbox", "segmentation")} for row in things]
    perfect = [row | {"score": 0.5} for row in perfect]
    metrics = compute_coco_metrics(truth, perfect)
    assert metrics["box_ap"] == metrics["mask_ap"] == pytest.approx(100)
    assert compute_coco_metrics(truth, [])["box_ap"] == 0
    elsewhere = [row | {"image_id": truth["images"][11]["id"], "score": 0.9} for row in perfect]
    assert compute_coco_metrics(truth, [*perfect, *elsewhere])["mask_ap50"] == pytest.approx(50)


def test_a_missing_area_is_that_of_the_mask():
    truth, detections = draw_set(1)
    plain = copy.deepcopy(truth)
    for row in plain["annotations"]:
        del row["area"]
    found, wanted = compute_coco_metrics(plain, detections), compute_coco_metrics(truth, detections)
    assert found.pop("per_class").keys() == wanted.pop("per_class").keys()
    assert found == pytest.approx(wanted, nan_ok=True)
