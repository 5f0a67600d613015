"""Loading and saving models: hub id, local folder, `.gguf` file, or the tiny one made in code."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from unlearn_cli.engine.lora import adapter_config, attach, base_of, read_adapter, write_adapter
from unlearn_cli.engine.quantized import four_bits, keep_bits
from unlearn_cli.engine.sharding import (
    is_sharded,
    live_state,
    one_after_another,
    shape,
    take,
    whole,
    whole_weights,
)
from unlearn_cli.errors import ModelError, RunError, UnlearnError
from unlearn_cli.safe_text import first_line
from unlearn_cli.spec.tables import ModelTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILTIN = "builtin:tiny"
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # no third party makes our weights


@dataclass
class Loaded:
    """A causal language model, its tokenizer, and where they came from."""

    model: Any
    tokenizer: Any
    source: str


def load_model(
    table: ModelTable,
    path: str,
    device: torch.device,
    texts: Iterable[str] = (),
    seed: int = 0,
    *,
    quantized: bool = False,
) -> Loaded:
    """Load the model and tokenizer at `path` with the settings of `[model]`.

    Args:
        table: settings; `table.path` is not read.
        path: hub id, local folder, `.gguf` file or `builtin:tiny`.
        device: decides what `dtype = "auto"` means; the model itself stays where it was loaded.
        texts: what the tokenizer of `builtin:tiny` is trained on.
        seed: of the random weights of `builtin:tiny`.
        quantized: hold its weights in 4 bits, on `device`; those of an adapter stay as they are.

    Raises:
        ModelError: no model there, damaged, no tokenizer, or not reachable.
    """
    torch.manual_seed(seed)
    if path == BUILTIN:
        from unlearn_cli.engine.builtin import make_tiny

        loaded = Loaded(*make_tiny(texts, seed), path)
    else:
        model = _load_weights(table, path, device, quantized)
        loaded = Loaded(model, load_tokenizer(table, path), path)
    _switch_off_dropout(loaded.model)
    return loaded


def load_skeleton(table: ModelTable, path: str, texts: Iterable[str] = ()) -> Any:
    """The model at `path` without its weights (on torch's meta device): names and shapes alone.

    Arguments and errors as for `load_model`.
    """
    if path == BUILTIN:
        from unlearn_cli.engine.builtin import make_tiny

        return make_tiny(texts, 0)[0]
    from transformers import AutoConfig, AutoModelForCausalLM

    if adapted := _base(table, path):
        return load_skeleton(*adapted)
    where = _locate(path)
    with _explained(path, "model"):
        config = AutoConfig.from_pretrained(where.name, **_options(table, where))
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=table.trust_remote_code
            )


def load_tokenizer(
    table: ModelTable, path: str, texts: Iterable[str] = (), seed: int = 0
) -> PreTrainedTokenizerBase:
    """Load the tokenizer alone; arguments and errors as for `load_model`."""
    if path == BUILTIN:
        from unlearn_cli.engine.builtin import make_tiny

        return make_tiny(texts, seed)[1]
    from transformers import AutoTokenizer

    source = table.tokenizer or path
    adapted = _base(table, source)
    if adapted and not (Path(source) / "tokenizer_config.json").is_file():
        return load_tokenizer(*adapted)
    where = _locate(source)
    with _explained(source, "tokenizer", "set model.tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(where.name, **_options(table, where))
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token", where=source, hint="set its eos_token")
    return tokenizer


def _load_weights(table: ModelTable, path: str, device: torch.device, quantized: bool) -> Any:
    from transformers import AutoModelForCausalLM

    if adapted := _base(table, path):
        model = _load_weights(*adapted, device, quantized)
        with _explained(path, "adapter"):
            attach(model, path, table.revision)
        return model
    where = _locate(path)
    dtype = weight_dtype(table, device)
    options = _options(table, where) | (four_bits(dtype, device) if quantized else {})
    if table.attention != "auto":
        options["attn_implementation"] = table.attention
    # The conversion of a GGUF file draws its own progress bar, over ours.
    silent = redirect_stderr(io.StringIO()) if where.options else nullcontext()
    with _explained(path, "model"), silent:
        model = AutoModelForCausalLM.from_pretrained(
            where.name,
            dtype=dtype,
            use_safetensors=True,  # a .bin file is a pickle, which may hold code
            **options,
        )
    keep_bits(model)
    if where.options:
        # A GGUF file leaves its quantization in the config, and save_pretrained then refuses.
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer = None
    return model


def _base(table: ModelTable, path: str) -> tuple[ModelTable, str] | None:
    """How and from where to load the base model, where `path` is an adapter."""
    _locate(path)
    with _explained(path, "adapter"):
        found = base_of(path, table.revision)
    if found is None:
        return None
    base, revision = found
    if base == BUILTIN:
        raise ModelError(
            "is the adapter of a model made in code, which is nowhere stored",
            where=path,
            hint="make it again with lora.merge = true",
        )
    return table.model_copy(update={"revision": revision}), base


def _options(table: ModelTable, where: _Where) -> dict[str, Any]:
    revision = {"revision": table.revision} if table.revision else {}
    return {"trust_remote_code": table.trust_remote_code} | revision | where.options


@dataclass(frozen=True)
class _Where:
    name: str
    options: dict[str, Any]


def _locate(path: str) -> _Where:
    """What `from_pretrained` wants for a path or hub id."""
    local = Path(path).expanduser()
    if path.endswith(".gguf"):
        if not local.is_file():
            raise ModelError("no such file", where=path)
        return _Where(str(local.parent), {"gguf_file": local.name})
    if local.is_dir():
        if not any((local / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ModelError(
                "is no model: the folder has no config.json",
                where=path,
                hint="name the folder that save_pretrained wrote",
            )
        return _Where(str(local), {})
    if local.is_file() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ModelError(
            "is no model: neither a folder nor a .gguf file",
            where=path,
            hint="give a hub id, a local folder, a .gguf file or builtin:tiny",
        )
    return _Where(path, {})


class _explained:
    """Turn what loading raises into one line that says what would work."""

    def __init__(self, path: str, what: str, hint: str = "") -> None:
        self.path, self.what, self.hint = path, what, hint
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        self._warnings.__exit__(None, None, None)
        if not isinstance(error, Exception) or isinstance(error, UnlearnError):
            return
        first = first_line(error)
        hint = self.hint
        if "gguf" in f"{type(error).__name__} {error}".lower() and isinstance(error, ImportError):
            hint = "pip install 'unlearn-cli[gguf]'"
        elif "model.safetensors" in str(error):
            hint = (
                "only safetensors are read, since a .bin file may hold code; where you trust it, "
                "convert it with save_pretrained"
            )
        elif not Path(self.path).exists():
            hint = (
                "no such folder here, and the hub did not give it: check the name, the network, "
                "or set HF_HUB_OFFLINE=1 to use what is cached"
            )
        raise ModelError(
            f"the {self.what} cannot be loaded ({first})", where=self.path, hint=hint
        ) from error


def weight_dtype(table: ModelTable, device: torch.device) -> torch.dtype:
    """In which a model is loaded."""
    if table.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.float32 if table.dtype == "float32" else torch.bfloat16


def _switch_off_dropout(model: nn.Module) -> None:
    """Unlearning compares the model with itself before the first update, row by row and whatever
    the micro-batch: dropout would make both comparisons depend on chance."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def fingerprint(model: nn.Module) -> str:
    """sha256 of names, types, shapes and bytes of all weights: the content of a model. Every
    process must ask."""
    digest = hashlib.sha256()
    for name, tensor in sorted(live_state(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(shape(tensor))}".encode())
        flat = whole(tensor).detach().cpu().contiguous().flatten()
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_weights(model: Any, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write a model, or its adapter where it has one, into a folder that is there.

    `weights` is the state of a sharded model, as `whole_weights` gives it.
    """
    if adapter_config(model) is None:
        model.save_pretrained(folder, state_dict=weights)
    else:
        write_adapter(model, folder, weights)


def read_weights(model: Any, folder: Path) -> None:
    """Give a model the weights that `write_weights` wrote, each in its own dtype."""
    if adapter_config(model) is not None:
        read_adapter(model, folder)
        return
    dtypes = (value.dtype for value in model.parameters())
    widest = reduce(torch.promote_types, dtypes)  # holds them all exactly; copying narrows

    def read() -> None:
        stored = type(model).from_pretrained(folder, dtype=widest, use_safetensors=True)
        take(live_state(model), stored.state_dict())

    one_after_another(read, wanted=is_sharded(model))


def save_model(model: Any, tokenizer: Any, folder: Path, *, main: bool = True) -> None:
    """Write model and tokenizer so that plain `from_pretrained(folder)` loads them; of a model with
    an adapter, the adapter.

    Every process must call this, and that which is `main` writes: beside the final name, and
    renamed, so that a folder of that name is complete.
    """
    weights = whole_weights(model, keep=main)
    if not main:
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing("the model", folder):
        partial.mkdir(parents=True)
        write_weights(model, partial, weights)
        tokenizer.save_pretrained(partial)
        replace_folder(partial, folder)


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Turn what a full disk raises into a RunError that names the path.

    safetensors has an error of its own, and torch hides the OSError behind a RuntimeError.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError | SafetensorError):
            raise
        raise RunError(
            f"{what} cannot be written ({getattr(cause, 'strerror', None) or cause})",
            where=str(path),
            hint="make room and run again with --resume; what was complete is untouched",
        ) from error


def replace_folder(partial: Path, folder: Path) -> None:
    """Give a complete folder its final name, durably; one of that name is never seen in part."""
    before = partial.with_name(f"{partial.name}.partial")
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    partial.rename(folder)
    shutil.rmtree(before, ignore_errors=True)
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
