import itertools

import pytest
import torch
import torch.nn.functional as F

from hiera_video.models.mask_units import (
    choose_running_cells,
    compute_visible_units,
    count_kept,
    join_mask_units,
    list_units,
    locate_units,
    mark_units,
    pool_windows,
    random_mask,
    reroll,
    take_rows,
    tube_mask,
    unroll,
)

CASES = {  # grid, mask unit, q_stride, poolings
    "video": ((2, 16, 24), (1, 8, 8), (1, 2, 2), 3),
    "video, MAE": ((2, 16, 8), (1, 8, 8), (1, 2, 2), 2),
    "image": ((16, 8), (8, 8), (2, 2), 3),
    "pooled in time": ((4, 8, 8), (4, 4, 4), (2, 2, 2), 2),
    "unequal strides": ((9, 8), (9, 4), (3, 2), 2),
}


def _make_map(grid, dim=2, batch=2):
    return torch.arange(batch * torch.Size(grid).numel() * dim, dtype=torch.float32).view(batch, *grid, dim)


def _compute_place(position, mask_unit_size, q_stride, num_pools, grid):
    """Unit and place in it of one token, digit by digit: the coarsest digit of every side first."""
    unit = place = 0
    for p, m, g in zip(position, mask_unit_size, grid, strict=True):
        unit = unit * (g // m) + p // m
    inside = [p % m for p, m in zip(position, mask_unit_size, strict=True)]
    for level in range(num_pools, -1, -1):
        for i, m, s in zip(inside, mask_unit_size, q_stride, strict=True):
            base = m // s**num_pools if level == num_pools else s
            place = place * base + i // s**level % base
    return unit, place


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_unroll_puts_each_token_where_a_loop_does(case):
    grid, unit, stride, pools = case
    x = _make_map(grid)
    tokens = unroll(x, unit, stride, pools)
    for position in itertools.product(*map(range, grid)):
        u, m = _compute_place(position, unit, stride, pools, grid)
        assert torch.equal(tokens[:, u, m], x[(slice(None), *position)])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_reroll_undoes_unroll_after_each_pooling_as_max_pooling_of_the_map(case):
    grid, unit, stride, pools = case
    x = torch.randn(2, *grid, 3, generator=torch.Generator().manual_seed(0))
    units_grid = [g // m for g, m in zip(grid, unit, strict=True)]
    tokens, expected = unroll(x, unit, stride, pools), x
    max_pool = {2: F.max_pool2d, 3: F.max_pool3d}[len(grid)]
    for done in range(pools + 1):
        size = [m // s**done for m, s in zip(unit, stride, strict=True)]
        assert torch.equal(join_mask_units(reroll(tokens, size, stride, pools - done), units_grid), expected)
        if done < pools:
            tokens = pool_windows(tokens, torch.Size(stride).numel())
            expected = max_pool(expected.movedim(-1, 1), stride).movedim(1, -1)


def test_reroll_gives_the_map_of_each_visible_unit():
    x = _make_map((2, 16, 16))
    tokens = unroll(x, (1, 8, 8), (1, 2, 2), 3)
    visible = torch.tensor([[1, 4, 7], [0, 1, 2]])
    maps = reroll(tokens[torch.arange(2)[:, None], visible], (1, 8, 8), (1, 2, 2), 3)
    assert maps.shape == (2, 3, 1, 8, 8, 2)
    for sample, place in itertools.product(range(2), range(3)):
        t, h, w = (int(i) for i in torch.unravel_index(visible[sample, place], (2, 2, 2)))
        assert torch.equal(maps[sample, place, 0], x[sample, t, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8])


@pytest.mark.parametrize("grad", [False, True])
def test_pool_windows_gives_a_tie_to_one_token(grad):
    x = torch.tensor([[1.0], [3.0], [3.0], [0.0], [2.0], [2.0], [2.0], [2.0]], requires_grad=grad)
    pooled = pool_windows(x, 4)
    assert pooled.flatten().tolist() == [3.0, 2.0]
    if grad:
        pooled.sum().backward()
        assert x.grad.flatten().tolist() == [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_visible_units_are_those_of_the_mask():
    mask = torch.tensor([[True, False, False, True], [False, True, True, False]])
    assert compute_visible_units(mask, 2, 4).tolist() == [[0, 3], [1, 2]]


def test_units_of_a_known_number_are_listed_marked_and_located():
    torch.manual_seed(0)
    mask = random_mask(7, 2 * 3 * 5, 0.7)
    units = compute_visible_units(mask, 7, 30)
    assert torch.equal(list_units(mask, count_kept(30, 0.7)), units) and units.shape == (7, 9)
    assert torch.equal(mark_units(units, 30), mask)
    for sides in ((2, 3, 5), (6, 5)):
        for got, expected in zip(locate_units(units, sides), torch.unravel_index(units, sides), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 5, dtype=torch.bool), "bool of shape"),
        (torch.ones(1, 4, dtype=torch.bool), "bool of shape"),
        (torch.ones(2, 2, 2, dtype=torch.bool), "bool of shape"),
        (torch.ones(2, 4), "bool of shape"),
        (torch.tensor([[True, False, False, False], [True, True, False, False]]), r"equally many.*\[1, 2\]"),
        (torch.zeros(2, 4, dtype=torch.bool), "at least 1"),
    ],
)
def test_wrong_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        compute_visible_units(mask, 2, 4)


def test_random_mask_keeps_the_asked_share_anywhere():
    mask = random_mask(500, 49, 0.6)
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).unique().tolist() == [19]
    assert (mask.float().mean(dim=0) - 19 / 49).abs().max() < 0.12
    with pytest.raises(ValueError, match="mask_ratio"):
        random_mask(1, 49, 0.99)
    with pytest.raises(ValueError, match="mask_ratio"):
        random_mask(1, 49, -0.1)


def test_random_mask_is_the_released_one_under_the_same_seed():
    hiera = pytest.importorskip("hiera")
    released = hiera.Hiera(input_size=(224, 224), stages=(1, 1, 1, 1), embed_dim=8)
    for ratio in (0.6, 0.9):
        torch.manual_seed(3)
        expected = released.get_random_mask(torch.zeros(4, 1), ratio)
        torch.manual_seed(3)
        assert torch.equal(random_mask(4, 49, ratio), expected)


def test_take_rows_takes_a_tables_rows_and_adds_up_their_gradients():
    table = torch.randn(5, 2, 3, requires_grad=True)
    index = torch.tensor([[4, 0], [0, 2]])
    rows = take_rows(table, index)
    assert torch.equal(rows, table[index])
    rows.sum().backward()
    assert table.grad[:, 0, 0].tolist() == [2, 0, 1, 0, 1]


def test_tube_mask_keeps_the_same_places_in_all_frames():
    mask = tube_mask(300, (4, 5, 6), 0.7)
    assert mask.dtype == torch.bool and mask.shape == (300, 120)
    frames = mask.view(300, 4, 30)
    assert (frames == frames[:, :1]).all()
    assert frames.sum(dim=2).unique().tolist() == [9]
    assert (frames[:, 0].float().mean(dim=0) - 0.3).abs().max() < 0.12
    assert tube_mask(2, (5, 6), 0.7).sum(dim=1).tolist() == [9, 9]
    with pytest.raises(ValueError, match="mask_ratio"):
        tube_mask(1, (4, 2, 2), 0.9)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_running_cells_are_even_in_space_and_time(ratio):
    """With nothing visible each cell holds its share at each time, and each place its share of four times."""
    grid = (8, 8, 8)
    mask = torch.zeros(3, 512, dtype=torch.bool)
    chosen = choose_running_cells(mask, grid, round(512 * ratio))
    assert chosen.sum(dim=1).tolist() == [512 * ratio] * 3
    cells = chosen.view(3, 8, 4, 2, 4, 2).sum(dim=(3, 5))
    assert (cells == 4 * ratio).all()
    over_time = chosen.view(3, 2, 4, 8, 8).sum(dim=2)
    assert (over_time == 4 * ratio).all()


def test_running_cells_choose_an_exact_share_of_the_hidden_units_alone():
    torch.manual_seed(0)
    mask = random_mask(200, 8 * 7 * 7, 0.9)
    for count in (176, 106, 353, 1):
        chosen = choose_running_cells(mask, (8, 7, 7), count)
        assert chosen.dtype == torch.bool and not (chosen & mask).any()
        assert (chosen.sum(dim=1) == count).all()
    chosen = choose_running_cells(mask, (8, 7, 7), 176).view(200, 8, 7, 7).float()
    assert (chosen.mean(dim=0) - 176 / 392).abs().max() < 0.13  # each unit equally likely
    drawn = (mask.logical_not() & (torch.rand(200, 392) < 0.5)).view(200, 8, 7, 7).float()
    by_frame, drawn_by_frame = (x.sum(dim=(2, 3)).var(dim=1).mean() for x in (chosen, drawn))
    assert by_frame < 0.75 * drawn_by_frame
    again = choose_running_cells(mask, (8, 7, 7), 176).view(200, 8, 7, 7).float()
    assert not torch.equal(chosen, again)
    assert choose_running_cells(mask[:, :49].clone().fill_(False), (7, 7), 24).sum(dim=1).unique().tolist() == [24]
