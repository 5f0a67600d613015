"""Low-rank adapters (peft): put into a model, folded into its weights, written and read.

An adapter is put in place: the model keeps its class, its blocks and its output layer, so nothing
else of the engine knows about it.

Source: Hu et al. 2021, arXiv:2106.09685; rsLoRA, Kalajdzievski 2023, arXiv:2312.03732; DoRA, Liu et
al. 2024, arXiv:2402.09353.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_cli.engine.precision import at_least_float32
from unlearn_cli.engine.quantized import dequantize
from unlearn_cli.engine.sharding import is_sharded, live_state, opened, shard_added, take
from unlearn_cli.errors import ModelError, UsageError
from unlearn_cli.spec.tables import LoraTable

WEIGHTS = "adapter_model.safetensors"
NAME = "default"
"""What peft calls an adapter that has no name."""


def check_installed(where: str) -> None:
    """Raise UsageError where peft is missing."""
    if find_spec("peft") is None:
        raise UsageError("LoRA needs peft", where=where, hint="pip install 'unlearn-cli[lora]'")


def find_adapted(model: Any, trained: Sequence[str], table: LoraTable) -> list[str]:
    """Names of the linear layers that get an adapter: those whose weight would be trained without
    LoRA, and that `lora.targets` names.

    Args:
        model: or its skeleton.
        trained: parameters that the method trains.
        table: `[lora]`.

    Raises:
        UsageError: there is none.
    """
    from transformers.pytorch_utils import Conv1D

    chosen, head = set(trained), model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and f"{name}.weight" in chosen
    ]
    inner = [name for name in linear if model.get_submodule(name) is not head]
    if table.targets is None:
        found = inner
    else:
        found = [name for name in linear if any(_means(t, name) for t in table.targets)]
    if not found:
        leaves = sorted({name.rpartition(".")[2] for name in linear})
        raise UsageError(
            "no linear layer that the method trains is named",
            where="[lora].targets",
            hint=f"there is {', '.join(leaves) or 'none: see [method].parameters'}",
        )
    return found


def _means(pattern: str, name: str) -> bool:
    """Whether a pattern names a layer, in full or by its last part."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern)


def adapt(model: Any, layers: Sequence[str], table: LoraTable, *, base: str, seed: int) -> None:
    """Put a new adapter into `layers`; nothing else is trained from here on.

    Until the first update the model says what it said before, to the bit: the second matrix of each
    adapter is 0. Adapters of a model in half precision are float32.

    Args:
        model: changed in place.
        layers: names of linear layers.
        table: `[lora]`, with a rank.
        base: path or hub id of the model, written down in the adapter.
        seed: of the first matrix of each adapter.
    """
    from peft import LoraConfig, inject_adapter_in_model

    assert table.rank is not None  # noqa: S101 - narrows the type
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        r=table.rank,
        lora_alpha=table.alpha or 2 * table.rank,
        lora_dropout=table.dropout,
        target_modules=list(layers),
        use_rslora=table.rslora,
        use_dora=table.dora,
    )
    torch.manual_seed(seed)
    own = list(model.parameters())
    inject_adapter_in_model(config, model, NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not _is_own(name))
        if not _is_own(name):
            parameter.data = at_least_float32(parameter.data)
    if is_sharded(model):
        shard_added(model, [layer for _, layer in _layers(model)], own)


def adapter_config(model: Any) -> Any | None:
    """peft's configuration of the adapter that a model has; None where it has none."""
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    return configs.get(NAME)


def own_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the model itself, those of an adapter left out."""
    if adapter_config(model) is None:
        return list(model.parameters())
    return [parameter for name, parameter in model.named_parameters() if _is_own(name)]


def _is_own(name: str) -> bool:
    """Whether a parameter is the model's: an adapter's stand in a dictionary by its name."""
    return f".{NAME}." not in f"{name}."


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Within, the adapter is in the weights, which may be changed; afterwards it is taken out,
    with rounding: restore the weights where their bits matter."""
    layers = [layer for _, layer in _layers(model)]
    for layer in layers:
        with opened(layer):
            layer.merge()
    try:
        yield
    finally:
        for layer in layers:
            with opened(layer):
                layer.unmerge()


def merge(model: Any) -> None:
    """Put the adapter into the weights for good; the model is a plain one again, and none of its
    weights has 4 bits."""
    dequantize(model)
    for name, layer in list(_layers(model)):
        with opened(layer):
            layer.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer.get_base_layer())
    if adapter_config(model) is not None:
        del model.peft_config
        model.requires_grad_(True)


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    if adapter_config(model) is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def write_adapter(model: Any, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write the adapter of a model as peft does: `PeftModel.from_pretrained(base, folder)`.

    `weights` is the state of a sharded model, as `whole_weights` gives it.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(
        model, weights, adapter_name=NAME, save_embedding_layers=False
    )
    tensors = {f"base_model.model.{name}": value.contiguous() for name, value in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    adapter_config(model).save_pretrained(folder)  # type: ignore[union-attr]


def read_adapter(model: Any, folder: Path) -> None:
    """Give the adapter of a model the weights that `write_adapter` wrote."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    now = get_peft_model_state_dict(
        model, live_state(model), adapter_name=NAME, save_embedding_layers=False
    )
    stored = load_file(folder / WEIGHTS)
    plain = {name.removeprefix("base_model.model."): value for name, value in stored.items()}
    take(now, plain)


def attach(model: Any, path: str, revision: str | None = None) -> None:
    """Put a stored adapter into its base model. Raises ModelError for a kind that has no place in
    a layer (prompts, prefixes)."""
    from peft import PeftConfig, PeftModel

    revisions = {"revision": revision} if revision else {}
    config = PeftConfig.from_pretrained(path, **revisions)
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ModelError(
            f"is an adapter of the kind {config.peft_type.value}, which changes no layer",
            where=path,
            hint="use one that does, such as LoRA",
        )
    _refuse_pickle(path, revision)
    PeftModel.from_pretrained(model, path, adapter_name=NAME, **revisions)


def _refuse_pickle(path: str, revision: str | None) -> None:
    """peft falls back on a .bin file, which is a pickle and may hold code: ModelError."""
    from transformers.utils.hub import cached_file

    missing = "_raise_exceptions_for_missing_entries"
    if cached_file(path, WEIGHTS, revision=revision, **{missing: False}) is None:
        raise ModelError(
            f"is an adapter without {WEIGHTS}, and nothing else is read: a .bin file may hold code",
            where=path,
            hint="where you trust it, load it with peft and save it again",
        )


def base_of(path: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """Path or hub id, and revision, of the base model where `path` is an adapter; None where it is
    none. Raises UsageError where peft is missing, ModelError where the adapter names no base."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if path.endswith(".gguf") or not find_adapter_config_file(path, revision=revision):
        return None
    check_installed(path)
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(path, **({"revision": revision} if revision else {}))
    if not config.base_model_name_or_path:
        raise ModelError(
            "is an adapter that does not name its base model",
            where=path,
            hint="set base_model_name_or_path in its adapter_config.json",
        )
    return str(config.base_model_name_or_path), config.revision
