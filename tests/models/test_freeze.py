"""Frozen stages, and the head that suits them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hiera_video.config import load_config
from hiera_video.models import build_model
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.freeze import freeze_stages
from hiera_video.models.layers import AttentivePool
from hiera_video.solver.optimizer import build_optimizer

SMALL = {"input_size": (4, 64, 64), "embed_dim": 8, "stages": (1, 2, 1, 1), "num_classes": 5, "head_init_scale": 1.0}


MAE = ["TASK", "pretrain", "MODEL.MODEL_NAME", "mae_hiera_tiny_16x224"]


def make_model(**overrides):
    torch.manual_seed(0)
    return build_model("hiera_tiny_16x224", **SMALL, **overrides)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_what_is_frozen_gets_no_gradient_and_stays_as_it_is(count):
    model = make_model().train()
    freeze_stages(model, count)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(2, 3, 4, 64, 64)).square().sum().backward()
    optimizer.step()
    last = model.stage_ends[count - 1] if count else -1
    for name, parameter in model.named_parameters():
        is_below = name.startswith(("patch_embed", "pos_embed")) and count > 0
        is_frozen = is_below or (name.startswith("blocks.") and int(name.split(".")[1]) <= last)
        assert torch.equal(parameter, before[name]) == is_frozen, name
        assert (parameter.grad is None) == is_frozen, name


def test_frozen_stages_drop_no_paths():
    video = torch.randn(2, 3, 4, 64, 64)
    model, whole = (make_model(drop_path_rate=0.5) for _ in range(2))
    freeze_stages(model, 4)
    assert torch.equal(model.train()(video), model.eval()(video))
    assert not torch.equal(whole.train()(video), whole.eval()(video))


def test_nothing_below_the_first_trained_layer_is_kept_for_the_backward_pass():
    model = make_model()
    freeze_stages(model, 2)
    x, stages = model.run_blocks(torch.randn(1, 3, 4, 64, 64), None, with_stages=True)
    assert x.requires_grad and [stage.requires_grad for stage in stages] == [False, False, True, True]


def test_too_many_stages_are_refused():
    with pytest.raises(ValueError, match="5 stages cannot be frozen; legal are 0 to 4"):
        freeze_stages(make_model(), 5)


def test_the_config_freezes_and_chooses_the_head():
    options = ["MODEL.MODEL_NAME", "hiera_tiny_16x224", "DATA.PATH_TO_DATA_DIR", "/data", "MODEL.NUM_CLASSES", "5"]
    cfg = load_config([], [*options, "MODEL.FREEZE_STAGES", "4", "MODEL.HEAD", "attentive"])
    model = build_model_from_cfg(cfg, crop_size=224)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in names} == {"norm", "pool", "head"}
    assert {name for group in build_optimizer(cfg, model).param_groups for name in group["names"]} == names
    assert "pool.query" in model.no_weight_decay() and model.get_layer_id("pool.query") == model.num_layers - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["TASK", "pretrain", "MODEL.MODEL_NAME", "mae_hiera_tiny_16x224", "MODEL.FREEZE_STAGES", "2"],
            "FREEZE_STAGES",
        ),
        ([*MAE, "MODEL.HEAD", "attentive"], "MODEL.HEAD"),
        (["MODEL.FREEZE_STAGES", "5"], r"MODEL.FREEZE_STAGES.*\[0, 4\]"),
        (["MODEL.HEAD", "max"], "MODEL.HEAD.*mean"),
    ],
)
def test_what_the_config_refuses(words, message):
    with pytest.raises(ValueError, match=message):
        load_config([], ["DATA.PATH_TO_DATA_DIR", "/data", *words])


def test_the_attentive_pool_is_torchs_attention_with_one_query():
    """Multi-head attention whose keys' projection is taken into the query: the same numbers."""
    torch.manual_seed(1)
    dim, heads = 12, 3
    pool, tokens = AttentivePool(dim, heads), torch.randn(2, 7, dim)
    reference = nn.MultiheadAttention(dim, heads, batch_first=True)
    keys, query = torch.randn(dim, dim), torch.randn(dim)
    size = dim // heads
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([torch.eye(dim), keys, pool.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([torch.zeros(2 * dim), pool.value.bias]))
        reference.out_proj.weight.copy_(torch.eye(dim))
        reference.out_proj.bias.zero_()
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            pool.query[head] = query[part] @ keys[part] / size**0.5
        expected, _ = reference(query.expand(2, 1, dim), tokens, tokens)
        torch.testing.assert_close(pool(tokens), expected[:, 0], atol=1e-5, rtol=1e-4)


def test_an_attentive_classifier_has_features_and_does_not_depend_on_the_order_of_tokens():
    model = make_model(head_type="attentive").eval()
    video = torch.randn(2, 3, 4, 64, 64)
    logits, maps = model(video, return_intermediates=True)
    torch.testing.assert_close(logits, model(video))
    torch.testing.assert_close(model.head(model.forward_features(video)), logits)
    tokens = maps[-1].flatten(1, 3)
    torch.testing.assert_close(model.classify_tokens(tokens.flip(1)), logits, atol=1e-5, rtol=1e-4)
    weights = (model.norm(tokens) @ model.pool.query.T).softmax(dim=1)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, model.num_heads))
    assert F.cross_entropy(logits, torch.tensor([0, 1])).isfinite()
    with pytest.raises(ValueError, match="head_type is 'max'; legal: mean, attentive"):
        make_model(head_type="max")
