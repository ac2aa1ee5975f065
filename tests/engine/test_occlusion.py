"""Leaving out mask units is exact, and evidence is shared out as a linear model or all sets of units say."""

import itertools

import numpy as np
import pytest
import torch

from hiera_video.cli.motion_clips import draw_background, draw_shape, draw_states, render_clip, sample_mask
from hiera_video.engine import occlusion as module
from hiera_video.engine.occlusion import compute_evidence, compute_grad_cam, compute_left, draw_deletions, fit_scores
from hiera_video.models import build_model
from hiera_video.utils.rng import seeded

TINY = {
    "input_size": (4, 16, 16),  # 2 x 2 x 2 mask units
    "embed_dim": 8,
    "stages": (1, 1),
    "q_pool": 1,
    "mask_unit_attn": (True, False),
    "mask_unit_size": (1, 2, 2),
    "num_classes": 4,
    "head_init_scale": 20.0,
}


def make_model(**changes):
    with seeded(0):
        return build_model("hiera_tiny_16x224", **(TINY | changes)).eval()


def make_clip(seed=0, size=(4, 16, 16)):
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed))


def list_all_sets(num_units):
    """All masks that leave something."""
    return np.array([mask for mask in itertools.product([False, True], repeat=num_units) if not all(mask)])


def test_masks_leave_out_pieces_and_all_but_pieces():
    deleted = draw_deletions((4, 4, 4), num_masks=26 * 40, seed=0)
    assert set(deleted.sum(axis=1)) == {8, 16, 32, 48, 56}
    assert len(np.unique(deleted, axis=0)) == len(deleted)
    cuts = draw_deletions((4, 4, 4), num_masks=26, seed=0)
    assert (cuts.mean(axis=0) == 0.5).all(), "each unit is left out in half of the masks of a cut"
    assert (cuts == deleted[:26]).all() and (draw_deletions((4, 4, 4), num_masks=26, seed=1) != cuts).any()
    together = np.corrcoef(deleted.T).reshape(4, 4, 4, 4, 4, 4)
    assert together[1, 1, 1, 1, 1, 2] > 0.5 and together[1, 1, 1, 2, 1, 1] > 0.5
    assert together[0, 0, 0, 3, 3, 3] < 0.3, "not as what is far apart"


@pytest.mark.parametrize("grid", [(8, 7, 7), (1, 3, 5), (3, 1, 3)])
def test_masks_of_any_grid_leave_something(grid):
    deleted = draw_deletions(grid, num_masks=100, seed=0)
    assert deleted.shape[1] == np.prod(grid)
    assert deleted.any(axis=1).all() and not deleted.all(axis=1).any()


def test_of_few_units_all_sets_are_tried():
    deleted = draw_deletions((4, 1, 1), num_masks=100, seed=0)
    assert sorted(deleted.tolist()) == sorted(list_all_sets(4).tolist())
    with pytest.raises(ValueError, match="single mask unit"):
        draw_deletions((1, 1, 1), num_masks=100, seed=0)
    with pytest.raises(ValueError, match="num_masks is 0"):
        draw_deletions((2, 2, 2), num_masks=0, seed=0)


def test_scores_are_the_weights_of_a_linear_model():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(64)
    deleted = draw_deletions((4, 4, 4), num_masks=400, seed=0)
    evidence = 3.0 + (~deleted) @ weights
    scores, explained = fit_scores(deleted, evidence)
    np.testing.assert_allclose(scores, weights, atol=1e-3)
    assert explained > 0.9999
    noisy, explained = fit_scores(deleted, evidence + rng.standard_normal(len(deleted)))
    assert np.corrcoef(noisy, weights)[0, 1] > 0.9 and 0.7 < explained < 0.99


def test_the_share_explained_is_that_of_naive_fits_without_one_mask_each():
    rng = np.random.default_rng(1)
    deleted = draw_deletions((2, 2, 3), num_masks=40, seed=0)
    visible = (~deleted).astype(float)
    evidence = visible @ rng.standard_normal(12) + rng.standard_normal(len(deleted))
    centered = visible - visible.mean(axis=0)
    singular = np.linalg.svd(centered, compute_uv=False)
    unit = np.mean(singular[singular > 1e-9 * singular[0]] ** 2)
    errors = []
    for penalty in module._PENALTIES * unit:
        left_out = 0.0
        for row in range(len(visible)):
            x, y = np.delete(visible, row, axis=0), np.delete(evidence, row)
            mean_x, mean_y = x.mean(axis=0), y.mean()
            weights = np.linalg.solve(
                (x - mean_x).T @ (x - mean_x) + penalty * np.eye(12), (x - mean_x).T @ (y - mean_y)
            )
            left_out += (evidence[row] - mean_y - (visible[row] - mean_x) @ weights) ** 2
        errors.append(left_out)
    variance = np.sum((evidence - evidence.mean()) ** 2)
    assert fit_scores(deleted, evidence)[1] == pytest.approx(1 - min(errors) / variance, abs=1e-6)


def test_where_nothing_changes_there_is_nothing_to_explain():
    scores, explained = fit_scores(draw_deletions((4, 4, 4), num_masks=50, seed=0), np.full(50, 2.5))
    assert (scores == 0).all() and np.isnan(explained)


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("head_type", ["mean", "attentive"])
def test_evidence_without_units_is_that_of_the_visible_ones_alone(head_type, is_multilabel):
    model, clip, label = make_model(head_type=head_type), make_clip(), 2
    deleted = list_all_sets(8)[::7]
    whole, left = compute_left(model, clip, deleted, label, is_multilabel=is_multilabel, batch_size=5)
    expected = []
    with torch.no_grad():
        for mask in [np.zeros(8, dtype=bool), *deleted]:
            logits = model.classify_tokens(model.encode(clip[None], torch.from_numpy(~mask)[None])[0])[0]
            prob = logits.softmax(dim=0)[label]
            expected.append(float(logits[label] if is_multilabel else torch.log(prob / (1 - prob))))
    np.testing.assert_allclose([whole, *left], expected, atol=1e-4)
    assert np.ptp(left) > 0.05


def test_scores_of_a_model_are_those_of_all_sets_of_its_units():
    """The fit without a penalty is plain least squares; with the penalty it chooses it is near to that."""
    model, clip = make_model(), make_clip()
    deleted = draw_deletions((2, 2, 2), num_masks=255, seed=0)
    assert sorted(deleted.tolist()) == sorted(list_all_sets(8).tolist())
    _, left = compute_left(model, clip, deleted, 1, is_multilabel=False, batch_size=64)
    table = np.column_stack([np.ones(len(deleted)), ~deleted])
    plain = np.linalg.lstsq(table, left, rcond=None)[0][1:]
    scores, _ = fit_scores(deleted, left)
    assert np.corrcoef(scores, plain)[0, 1] > 0.99
    np.testing.assert_allclose(scores, plain, atol=0.1 * np.abs(plain).max())


def test_evidence_of_one_class_alone_is_its_logit():
    logits = torch.tensor([[0.5], [-1.0]])
    assert compute_evidence(logits, 0, is_multilabel=False).tolist() == [0.5, -1.0]


@pytest.mark.parametrize("changes", [{}, {"head_type": "attentive"}, {"q_pool": 0}])
def test_grad_cam_is_that_of_hooks_and_a_whole_backward_pass(changes):
    model, clip, label = make_model(**changes), make_clip(3), 1
    kept = []

    def keep(block, given, output):
        output.retain_grad()
        kept.append(output)

    hook = model.blocks[-1].register_forward_hook(keep)
    model(clip[None])[0, label].backward()
    hook.remove()
    tokens = kept[0]  # (1, U, M, D)
    weights = tokens.grad.mean(dim=(0, 1, 2))
    heat = (tokens.detach()[0] * weights).sum(dim=-1).relu()  # (U, M)
    side = 2 if changes.get("q_pool") == 0 else 1  # tokens of a unit, in rows and columns
    expected = np.zeros((2, 2 * side, 2 * side))
    for unit, (t, row, column) in enumerate(itertools.product(range(2), repeat=3)):
        for token in range(side**2):
            expected[t, row * side + token // side, column * side + token % side] = heat[unit, token]
    cam = compute_grad_cam(model, clip, label)
    np.testing.assert_allclose(cam, expected, atol=1e-6)
    assert cam.max() > 0


def draw_motion_clip(seed, label):
    """Eight frames uint8 (C, T, H, W) of a motion clip, and how much the shape covers of each of 4 x 4 x 4 units."""
    rng = np.random.default_rng([7, seed])
    states = draw_states(rng, label=label, num_frames=16)[::2]
    before = rng.bit_generator.state
    pictures = render_clip(rng, states, size_px=32)
    rng.bit_generator.state = before  # `render_clip` draws the background, the color, and then the shape
    draw_background(rng, 32)
    rng.uniform(size=3)
    shape = draw_shape(rng) > 0.05
    covered = np.stack([sample_mask(shape, state, size_px=32) for state in states]).astype(float)  # (T, H, W)
    return torch.from_numpy(pictures).permute(3, 0, 1, 2), covered.reshape(4, 2, 4, 8, 4, 8).mean(axis=(1, 3, 5))


def normalize(clips):
    return (clips.float() / 255 - 0.45) / 0.225


@pytest.mark.slow
def test_the_moving_shape_gets_three_times_the_score_of_the_background(capsys):
    """A small model learns four directions of motion; on other clips its decision rests on the units of the shape."""
    clips = torch.stack([draw_motion_clip(i, i % 4)[0] for i in range(1600)])
    labels = torch.arange(1600) % 4
    model = make_model(input_size=(8, 32, 32), embed_dim=24, num_heads=2, head_init_scale=0.001).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=150)
    with seeded(1):
        for _ in range(6):
            for chosen in torch.randperm(1600).split(64):
                loss = torch.nn.functional.cross_entropy(model(normalize(clips[chosen])), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    model.eval()
    deleted = draw_deletions(model.mask_units_grid, num_masks=208, seed=0)
    found, num_right = {"scores": ([], []), "Grad-CAM": ([], [])}, 0
    for i in range(24):
        clip, covered = draw_motion_clip(2_000_000 + i, i % 4)
        video = normalize(clip)
        evidence, left = compute_left(model, video, deleted, i % 4, is_multilabel=False, batch_size=64)
        num_right += evidence > 0
        for name, heat in (
            ("scores", fit_scores(deleted, left)[0].reshape(4, 4, 4)),
            ("Grad-CAM", compute_grad_cam(model, video, i % 4)),
        ):
            found[name][0].append(heat[covered > 0.5])
            found[name][1].append(heat[covered < 0.05])
    means = {name: [float(np.concatenate(part).mean()) for part in parts] for name, parts in found.items()}
    with capsys.disabled():
        for name, (shape, background) in means.items():
            print(f"\n{name}: shape {shape:.4f}, background {background:.4f}, {shape / background:.1f} times", end="")
    assert num_right >= 22
    shape, background = means["scores"]
    assert shape > 0 and shape >= 3 * background
