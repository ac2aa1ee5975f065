"""Trees of tensors: mapped in order, copied, and told apart by one bit."""

import torch

from hiera_video.utils.trees import compute_tree_digest, copy_to_cpu, map_named_tensors, map_tensors


def make_tree():
    return {
        "a": [torch.arange(3.0), (torch.tensor(True), "x")],
        "b": {"c": torch.tensor(2, dtype=torch.bfloat16)},
        "n": 1,
    }


def test_tensors_are_visited_in_order_and_the_rest_stays():
    seen = []
    assert map_tensors(make_tree(), lambda t: seen.append(t.dtype) or t.ndim) == {
        "a": [1, (0, "x")],
        "b": {"c": 0},
        "n": 1,
    }
    assert seen == [torch.float32, torch.bool, torch.bfloat16]


def test_a_copy_shares_nothing():
    tree = make_tree()
    copy = copy_to_cpu(tree)
    tree["a"][0].add_(1)
    assert copy["a"][0].tolist() == [0.0, 1.0, 2.0]


def test_a_digest_changes_with_every_part():
    digest = compute_tree_digest(make_tree())
    assert digest == compute_tree_digest(make_tree()) and len(digest) == 64
    changed = []
    for change in (
        lambda tree: tree["a"][0].__setitem__(2, 2.0000002),
        lambda tree: tree["b"].__setitem__("d", tree["b"].pop("c")),
        lambda tree: tree.__setitem__("n", 2),
        lambda tree: tree["a"].__setitem__(0, torch.arange(3.0)[:, None]),
        lambda tree: tree["a"].__setitem__(0, torch.arange(3.0).view(torch.int32)),
    ):
        tree = make_tree()
        change(tree)
        changed.append(compute_tree_digest(tree))
    assert len({digest, *changed}) == 6


def test_names_are_the_keys_that_lead_to_a_tensor():
    tree = {"a": {"b.c": torch.zeros(1)}, "list": [torch.ones(2), "text", (torch.ones(3), 5)]}
    found = map_named_tensors(tree, lambda name, tensor: f"{name} {len(tensor)}")
    assert found == {"a": {"b.c": "a.b.c 1"}, "list": ["list.0 2", "text", ("list.2.0 3", 5)]}
