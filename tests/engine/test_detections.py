"""Detections in a square find their way back to the picture, masks too."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from hiera_video.data.coco_lists import DetectionList
from hiera_video.data.detection_transforms import compute_boxes, fit_placement, place_masks
from hiera_video.engine.detections import decode_code, list_coco_results, paste_mask, place_detections


def draw_ellipse(height, width):
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).ellipse((width * 0.2, height * 0.3, width * 0.7, height * 0.9), 1)
    return torch.from_numpy(np.array(picture))[None]


def test_boxes_and_masks_map_back_after_resizing():
    for size in ((96, 160), (333, 80), (64, 64)):
        mask = draw_ellipse(*size)
        placement = fit_placement(size, 128)
        box = compute_boxes(place_masks(mask, placement, 128))
        # What a perfect mask head says: what torchvision trains it with.
        probs = project_masks_on_boxes(place_masks(mask, placement, 128), box, torch.tensor([0]), 28)[None]
        found = {"boxes": box, "labels": torch.tensor([2]), "scores": torch.tensor([0.9]), "masks": probs}
        value = place_detections(found, placement)
        back = torch.from_numpy(decode_code(value["masks"][0], value["size"]))
        union = (back.bool() | mask[0].bool()).sum()
        assert (back.bool() & mask[0].bool()).sum() / union > 0.94
        assert (value["boxes"] - compute_boxes(mask)).abs().max() <= max(max(size) / 128, 1)


def test_a_mask_is_pasted_where_it_was_cut_out():
    """The mean IoU over boxes that lie between pixels is higher than that of torchvision's own pasting."""
    torch.manual_seed(0)
    ious = {"ours": [], "theirs": []}
    for number in range(30):
        mask = draw_ellipse(40 + number, 60)
        box = compute_boxes(mask) + torch.rand(4) - 0.5
        probs = project_masks_on_boxes(mask, box, torch.tensor([0]), 28)
        size = tuple(mask.shape[1:])
        pasted = {"ours": paste_mask(probs[0], box[0], size).bool()}
        pasted["theirs"] = paste_masks_in_image(probs[None], box, size)[0, 0] >= 0.5
        for side, found in pasted.items():
            whole = mask[0].bool()
            ious[side].append(((found & whole).sum() / (found | whole).sum()).item())
    assert np.mean(ious["ours"]) > 0.97 and np.mean(ious["ours"]) > np.mean(ious["theirs"]), ious
    assert not paste_mask(torch.ones(28, 28), torch.tensor([-9.0, -9, -3, -3]), (8, 8)).any()
    assert paste_mask(torch.ones(28, 28), torch.tensor([-9.0, -9, 30, 30]), (8, 8)).all()


def test_results_have_the_ids_of_the_file():
    arrays = np.array(["a", "b", "c"]), np.array([70, 80, 90]), np.array([[8, 8]] * 3)
    videos = DetectionList(*arrays, ("person", "brush"), (1, 90), b"", np.zeros(4, np.int64), "a.json")
    value = {"boxes": torch.tensor([[1.0, 2, 4, 8]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.5])}
    value |= {"masks": ["code"], "size": [8, 8]}
    assert list_coco_results(videos, [None, value, value | {"labels": torch.tensor([1])}]) == [
        {"image_id": image, "category_id": category, "bbox": [1, 2, 3, 6], "score": 0.5}
        | {"segmentation": {"size": [8, 8], "counts": "code"}}
        for image, category in ((80, 90), (90, 1))
    ]
