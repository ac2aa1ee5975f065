"""Weights of other packages' Hiera under our names, and ours under theirs.

Facts of timm 1.0, transformers 5 and SAM2 (`facebookresearch/sam2`); each direction is tested against the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import Tensor

Weights = dict[str, Tensor]

_SAM2_TRUNK = re.compile(r"^(image_encoder\.)?trunk\.")
_HF_STAGE_LAYER = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.")
# Parts of names, ours first. Order matters: a name is rewritten by each pair in turn.
_HF = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("pos_embed", "embeddings.position_embeddings"),
    ("norm.", "pooler.layernorm."),
    ("head.projection.", "classifier."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
)
_TIMM = {"head.fc.": "head.projection.", "head.norm.": "norm."}  # theirs -> ours, beginnings of names
_HF_DECODER = (
    ("decoder_blocks.", "decoder.decoder_block.layers."),
    ("mask_token", "decoder.mask_token"),
    ("decoder_norm.", "decoder.decoder_norm."),
    ("decoder_pred.", "decoder.decoder_pred."),
    ("decoder_embed.", "decoder.decoder_embeddings."),
    ("decoder_pos_embed", "decoder.decoder_position_embeddings"),
    ("multi_scale_fusion_heads.", "multiscale_fusion.multi_scale_fusion_heads."),
)


def recognize_format(names: Iterable[str]) -> str:
    """Whose names these are: "hf", "sam2", "timm abswin", "timm", or "hiera" for the released ones, which are ours."""
    names = set(names)
    if any(_HF_STAGE_LAYER.search(name) for name in names):
        return "hf"
    if any(_SAM2_TRUNK.match(name) for name in names):
        return "sam2"
    if "pos_embed_window" in names and "pos_embed_global" not in names:
        return "sam2"  # timm's copy of it
    if "pos_embed_win" in names:
        return "timm abswin"
    if names & {"head.fc.weight", "head.norm.weight"}:
        return "timm"
    return "hiera"


def to_our_names(weights: Weights) -> tuple[str, Weights]:
    """The format that `recognize_format` names, and the weights under our names, with layer scale folded into layers.

    Raises:
        ValueError: blocks that widen without a linear layer, which no layer of ours can stand for.
    """
    kind = recognize_format(weights)
    converted = _TO_OURS[kind](weights) if kind in _TO_OURS else dict(weights)
    for name, norm in converted.items():
        if re.fullmatch(r"blocks\.\d+\.norm1\.weight", name):
            block = name.removesuffix("norm1.weight")
            after = converted.get(f"{block}norm2.weight", norm)
            if len(after) != len(norm) and f"{block}proj.weight" not in converted:
                raise ValueError(
                    f"{block[:-1]} widens from {len(norm)} to {len(after)} channels without a linear layer `proj`, as "
                    "timm's hiera_small_abswin_256 does, which joins a max and a mean instead; Hiera cannot compute it"
                )
    return kind, converted


def to_other_names(weights: Weights, target: str) -> Weights:
    """Weights of ours under the names of "released", "hf" or "timm".

    Args:
        weights: of a classifier or an autoencoder for images; for "released" also for videos.
        target: whose names.
    """
    return _TO_OTHERS[target](weights) if target in _TO_OTHERS else dict(weights)


def _from_hf(weights: Weights) -> Weights:
    stages: dict[int, int] = {}  # stage -> its blocks
    for name in weights:
        if found := _HF_STAGE_LAYER.search(name):
            stage, layer = map(int, found.groups())
            stages[stage] = max(stages.get(stage, 0), layer + 1)
    first_block = {stage: sum(stages.get(before, 0) for before in range(stage)) for stage in stages}

    def rename(name: str) -> str:
        name = name.removeprefix("hiera.")
        for ours, theirs in _HF_DECODER:
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        for ours, theirs in _HF:
            name = name.replace(theirs, ours)
        return _HF_STAGE_LAYER.sub(lambda found: f"blocks.{first_block[int(found[1])] + int(found[2])}.", name)

    return {rename(name): value for name, value in weights.items()}


def _to_hf(weights: Weights) -> Weights:
    widening = [int(name.split(".")[1]) for name in weights if re.fullmatch(r"blocks\.\d+\.proj\.bias", name)]
    starts = [0, *sorted(widening)]
    is_mae = "mask_token" in weights

    def rename(name: str) -> str:
        for ours, theirs in _HF_DECODER:
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            stage = max(i for i, start in enumerate(starts) if start <= int(block))
            name = f"encoder.stages.{stage}.layers.{int(block) - starts[stage]}.{rest}"
        for ours, theirs in _HF:
            beginning = not ours.startswith(".")
            if beginning and name.startswith(ours):
                name = theirs + name.removeprefix(ours)
            elif not beginning:
                name = name.replace(ours, theirs)
        is_inside = name.startswith(("embeddings.", "encoder.", "pooler."))
        return f"hiera.{name}" if is_inside else name

    renamed = {rename(name): value for name, value in weights.items()}
    return {name: value for name, value in renamed.items() if not (is_mae and name.startswith("hiera.pooler."))}


def _from_timm(weights: Weights) -> Weights:
    return _rename_beginnings(weights, _TIMM)


def _to_timm(weights: Weights) -> Weights:
    return _rename_beginnings(weights, {ours: theirs for theirs, ours in _TIMM.items()})


def _rename_beginnings(weights: Weights, beginnings: dict[str, str]) -> Weights:
    def rename(name: str) -> str:
        for old, new in beginnings.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return {rename(name): value for name, value in weights.items()}


def _from_timm_abswin(weights: Weights) -> Weights:
    return _name_two_tables(_fold_layer_scale(_from_timm(weights)), window="pos_embed_win")


def _from_sam2(weights: Weights) -> Weights:
    if any(_SAM2_TRUNK.match(name) for name in weights):  # the whole of SAM2: its image encoder's trunk alone is Hiera
        weights = {_SAM2_TRUNK.sub("", name): value for name, value in weights.items() if _SAM2_TRUNK.match(name)}
    renamed = {}
    for name, value in weights.items():
        name = name.replace(".mlp.layers.0.", ".mlp.fc1.").replace(".mlp.layers.1.", ".mlp.fc2.")
        if not name.startswith("head."):  # SAM2 has no norm and no head; timm's copy adds both, untrained
            renamed[name] = value
    return _name_two_tables(_fold_layer_scale(renamed), window="pos_embed_window")


def _name_two_tables(weights: Weights, *, window: str) -> Weights:
    """Tables of pixels (1, D, h, w), as those packages have them, become tables of tokens (1, h * w, D)."""
    named = dict(weights)
    for theirs, ours in (("pos_embed", "pos_embed_global"), (window, "pos_embed_window")):
        if theirs in named:
            named[ours] = named.pop(theirs).flatten(2).transpose(1, 2)
    return named


def _fold_layer_scale(weights: Weights) -> Weights:
    """A factor on each channel that a layer puts out is the same as a layer with scaled rows."""
    folded = dict(weights)
    for scale, layer in (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.fc2")):
        for name in [name for name in weights if name.endswith(scale)]:
            block, gamma = name.removesuffix(scale), folded.pop(name)
            folded[f"{block}{layer}.weight"] = folded[f"{block}{layer}.weight"] * gamma[:, None]
            folded[f"{block}{layer}.bias"] = folded[f"{block}{layer}.bias"] * gamma
    return folded


_TO_OURS: dict[str, Callable[[Weights], Weights]] = {
    "hf": _from_hf,
    "timm": _from_timm,
    "timm abswin": _from_timm_abswin,
    "sam2": _from_sam2,
}
_TO_OTHERS: dict[str, Callable[[Weights], Weights]] = {"hf": _to_hf, "timm": _to_timm}
