"""Weights in 4 bits under an adapter (QLoRA), held by bitsandbytes.

The base is frozen as it was rounded when it was loaded. Where whole weights are needed (an adapter
merged, a stress test, gradients of the weights) its layers are replaced by plain ones, which hold
what the 4 bits stand for, with the adapter folded in.

Source: Dettmers et al. 2023, arXiv:2305.14314: normal float of 4 bits, one scale for 64 weights,
scales in 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_cli.errors import ModelError, UsageError
from unlearn_cli.spec.tables import Spec

EIGHT_BITS = "adamw_8bit"
BLOCK = 64
"""Weights that share a scale."""


def check_installed(where: str) -> None:
    """Raise UsageError where bitsandbytes is missing."""
    if find_spec("bitsandbytes") is None:
        raise UsageError(
            "needs bitsandbytes", where=where, hint="pip install 'unlearn-cli[quantized]'"
        )


def check(spec: Spec) -> None:
    """Raise UsageError where the spec asks for what is not installed."""
    if spec.lora.base == "nf4":
        check_installed("[lora].base")
    for name in ("train", "target", "reinforce"):
        if getattr(spec, name).optimizer == EIGHT_BITS:
            check_installed(f"[{name}].optimizer")


def four_bits(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What makes `from_pretrained` round the linear layers, save the output layer, to 4 bits.

    Args:
        dtype: that they compute in.
        device: of the model, which is rounded there.
    """
    check_installed("[lora].base")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": str(device)}}


def keep_bits(model: nn.Module) -> None:
    """Where the CPU knows bfloat16, bitsandbytes packs the weights anew, with rounding, whenever a
    model only answers. The base would not be the same afterwards: it stays as it was loaded.

    Raises:
        ModelError: bitsandbytes would read a layer wrongly (seen in 0.50.2: on a CPU it takes the
            scales of other weights where a row does not end with a block).
    """
    for name, layer in _layers(model):
        base = _base(layer)
        base.support_avx512bf16_for_cpu = False
        if base.weight.device.type == "cpu" and base.in_features % BLOCK:
            raise ModelError(
                f"has {base.in_features} inputs, no multiple of {BLOCK}: bitsandbytes reads its "
                "4 bits wrongly on a CPU",
                where=name,
                hint='use a GPU, or lora.base = "full"',
            )


def plain_shapes(model: nn.Module) -> dict[int, nn.Module]:
    """`id` of each layer of 4 bits -> a plain one, empty: where only shapes are of account."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return {}
    from bitsandbytes.nn import Linear4bit

    def plain(layer: Any) -> nn.Module:
        kind: Any = {"device": layer.weight.device, "dtype": layer.compute_dtype}
        made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, **kind)
        return made.requires_grad_(False)

    return {id(m): plain(m) for m in model.modules() if isinstance(m, Linear4bit)}


def rounded_away(model: Any) -> int:
    """Bytes that the linear layers of a plain model do not take once they are in 4 bits: with a
    scale in 8 bits for 64 of them, and one in 32 for 256 of these, a weight takes .516."""
    return sum(round(weight.nbytes - 0.516 * weight.numel()) for weight in _rounded(model))


def made_whole(model: Any) -> int:
    """Bytes that are there besides while these layers have plain ones in their place."""
    return sum(weight.nbytes for weight in _rounded(model))


def _rounded(model: Any) -> list[Tensor]:
    head = model.get_output_embeddings()
    linear = (m for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    return [layer.weight for layer in linear if not layer.weight.requires_grad]


@contextmanager
def dequantized(model: nn.Module) -> Iterator[None]:
    """Within, no layer has 4 bits: plain ones, adapter included, stand for them."""
    replaced = _replace(model)
    try:
        yield
    finally:
        for name, layer in replaced:
            _put(model, name, layer)


def dequantize(model: Any) -> None:
    """The same for good: a plain model, which `save_pretrained` writes as such."""
    if _replace(model):
        model.hf_quantizer.remove_quantization_config(model)
        model.is_loaded_in_4bit = False


def _replace(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Replace the layers of 4 bits; what was there, by its name."""
    replaced = list(_layers(model))
    for name, layer in replaced:
        _put(model, name, _plain(layer))
    return replaced


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Layers of 4 bits by their names, each with the adapter around it."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(_base(module), Linear4bit) and not name.endswith(".base_layer"):
            yield name, module


def _base(layer: Any) -> Any:
    """The layer that an adapter is around; itself where there is none."""
    return getattr(layer, "base_layer", layer)


@torch.no_grad()
def _plain(layer: Any) -> nn.Linear:
    """What a layer computes, as a plain one in the type that it computes in."""
    base = _base(layer)
    weight = _folded(layer, base).to(base.compute_dtype)
    made = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = base.bias
    return made


def _folded(layer: Any, base: Any) -> Tensor:
    """(out, in) what the 4 bits stand for, with every active adapter in it, as peft merges it."""
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(base.weight.data, base.weight.quant_state)
    for name in () if layer is base else layer.active_adapters:
        if name in layer.lora_variant:
            weight = layer.lora_variant[name].merge_safe(layer, name, weight)
        else:
            weight = weight + layer.get_delta_weight(name)
    return weight


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
