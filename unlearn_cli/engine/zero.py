"""DeepSpeed, as far as a run asks for it: what the launcher wants, what does not go, the library.

With ZeRO-2 the model stays whole on every process and everything but the update (`zero_update`) is
as without it; with ZeRO-3 models are in parts (`zero3`).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import Accelerator

from unlearn_cli.engine.parts import UNSHARDED
from unlearn_cli.errors import UsageError
from unlearn_cli.profiles import told
from unlearn_cli.spec.tables import Spec

TAKEN = "UNLEARN_DEEPSPEED"
"""Set where the launcher asked for DeepSpeed. accelerate must not see that: it would tie the whole
process to one model, while a run trains several."""
STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"


def take_over(spec: Spec) -> None:
    """Keep from accelerate that the launcher wants DeepSpeed; refuse what is not done with it.

    Raises:
        UsageError: the launcher or the spec wants more than is done here.
    """
    if told("ACCELERATE_USE_DEEPSPEED"):
        os.environ |= {TAKEN: "true", "ACCELERATE_USE_DEEPSPEED": "false"}
    if not told(TAKEN):
        return
    offload = {f"ACCELERATE_DEEPSPEED_OFFLOAD_{of}_DEVICE" for of in ("OPTIMIZER", "PARAM")}
    own = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none"
    if own or any(os.environ.get(name, "none") != "none" for name in offload):
        raise UsageError(
            "DeepSpeed goes without a file of its own and without offloading",
            where="launcher",
            hint="use --profile zero2 or zero3, or a file that `unlearn profile` names",
        )
    if stage() not in (2, 3):
        raise UsageError(
            "of DeepSpeed, ZeRO-2 and ZeRO-3 are done here",
            where="launcher",
            hint="use --profile zero2 or zero3",
        )
    if find_spec("deepspeed") is None:
        raise UsageError(
            "DeepSpeed is not installed",
            where="launcher",
            hint="pip install 'unlearn-cli[deepspeed]'",
        )
    _refuse(spec)


def _refuse(spec: Spec) -> None:
    tables = ("train", "target", "reinforce")
    wrong = {f"[{name}].optimizer": getattr(spec, name).optimizer != "adamw" for name in tables}
    wrong |= {
        "[train].mixed_precision": spec.train.mixed_precision == "fp16",
        "[train].micro_batch": spec.train.micro_batch == "auto",
        "[wrap].sam_rho": spec.wrap.sam_rho is not None,
    }
    for where in (key for key, is_wrong in wrong.items() if is_wrong):
        raise UsageError("does not go with DeepSpeed", where=where, hint=UNSHARDED)


def stage() -> int:
    """Of ZeRO, that the launcher asked for; 0 where it did not ask for DeepSpeed."""
    return int(os.environ.get(STAGE, "2")) if told(TAKEN) else 0


def stage_of(accelerator: Accelerator) -> int:
    """The stage that a run goes by: DeepSpeed has nothing to share out on a single process."""
    return stage() if int(accelerator.num_processes) > 1 else 0


def name_device(device: torch.device) -> None:
    """Tell DeepSpeed its device. It warns where it has to guess, and it is imported in every run
    where it is installed, since transformers looks for its models when it saves one."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)


def library() -> Any:
    """DeepSpeed, without what it says and what it compiles."""
    warnings.filterwarnings("ignore", r"`torch\.distributed", FutureWarning)  # it calls old names
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # On a CPU it would compile a faster way between processes of a machine, at its first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def configuration(
    zero: dict[str, Any], types: Collection[torch.dtype], limit: float = 0.0
) -> dict[str, Any]:
    """DeepSpeed's, for weights of one type, with gradients clipped to a norm of `limit`.

    Args:
        zero: what it calls `zero_optimization`.
        types: of the trained weights, none where nothing is trained.
        limit: 0 does not clip.
    """
    if len(types) > 1:
        raise UsageError(
            "the trained weights are of several types",
            where="launcher",
            hint='DeepSpeed wants one: set [model].dtype = "float32", or use --profile ddp',
        )
    half = torch.bfloat16 in types
    return {
        "train_micro_batch_size_per_gpu": 1,  # it counts with it, and cuts nothing
        "gradient_accumulation_steps": 1,  # it would divide by more
        "gradient_clipping": limit,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Weights and state stay in the type that they have without DeepSpeed.
        "bf16": {
            "enabled": half,
            "bf16_master_weights_and_grads": half,
            "bf16_optimizer_states": half,
        },
        "steps_per_print": 2**62,
    }
