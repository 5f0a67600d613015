"""Updates by DeepSpeed (ZeRO-2): each process keeps the optimizer of its part of the weights.

The model stays whole on every process, so everything but the update is as without it. DeepSpeed
takes the gradient of each micro-batch away, sums it over the processes and keeps a part of it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.sharding import told
from unlearn_cli.engine.update import Update
from unlearn_cli.errors import UsageError
from unlearn_cli.spec.tables import Spec

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight, besides the number of its steps."""

TAKEN = "UNLEARN_DEEPSPEED"
"""Set where the launcher asked for DeepSpeed. accelerate must not see that: it would tie the whole
process to one model, while a run trains several."""


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
            hint="use --profile zero2, or the file that `unlearn profile zero2` names",
        )
    if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2") != "2":
        raise UsageError(
            "of DeepSpeed ZeRO-2 alone is done here",
            where="launcher",
            hint="use --profile zero2; --profile fsdp2 shards what ZeRO-3 shards",
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
        raise UsageError("does not go with DeepSpeed", where=where, hint=WITHOUT)


WITHOUT = "leave it out, or use --profile ddp"


def name_device(device: torch.device) -> None:
    """Tell DeepSpeed its device. It warns where it has to guess, and it is imported in every run
    where it is installed, since transformers looks for its models when it saves one."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)


def by_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed updates the weights: where the launcher wants it, on several processes."""
    return told(TAKEN) and int(accelerator.num_processes) > 1


def update(accelerator: Accelerator, scorer: Scorer, optimizer: Optimizer, limit: float) -> Update:
    """The update that the launcher asked for, of gradients clipped to a norm of `limit`."""
    if by_deepspeed(accelerator):
        return ZeroUpdate(accelerator, scorer, optimizer, limit)
    return Update(accelerator, scorer, optimizer, limit)


class ZeroUpdate(Update):
    """`scheduled` knows the weights and their learning rates, and takes no step; what DeepSpeed
    steps with is an optimizer of the same kind, of this process's part of each group laid flat."""

    def __init__(
        self, accelerator: Accelerator, scorer: Scorer, optimizer: Optimizer, limit: float
    ) -> None:
        self.accelerator, self.scorer, self.scheduled = accelerator, scorer, optimizer
        self.flat = torch.optim.AdamW([dict(group) for group in self._groups()])
        self.engine = _engine(self.flat, limit)
        # As AdamW begins. DeepSpeed would look for what to give and take a step too early: where
        # the first group has taken its own, and the second has no state.
        for flat in self.flat.param_groups:
            (part,) = flat["params"]
            step = torch.zeros((), device=part.device)
            empty = {name: torch.zeros_like(part) for name in MOMENTS}
            self.flat.state[part] = {"step": step, **empty}
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def passing(self, *, last: bool) -> AbstractContextManager[None]:
        """As elsewhere, though DeepSpeed adds up every gradient at once."""
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """As elsewhere."""
        self.engine.backward(self.engine(loss))

    def apply(self) -> float:
        """As elsewhere; DeepSpeed leaves out a step of a norm that is not finite."""
        for flat, group in zip(self.flat.param_groups, self._groups(), strict=True):
            flat["lr"] = group["lr"]
        self.engine.step()
        self.scheduled.step()  # it has no gradients; the schedule wants to have seen it
        return float(self.engine.get_global_grad_norm())

    @property
    def was_skipped(self) -> bool:
        """As elsewhere: never, since fp16 is refused."""
        return False

    def drop(self) -> None:
        """As elsewhere; those that DeepSpeed took go with it."""
        self.scheduled.zero_grad()

    def state(self, *, keep: bool) -> dict[str, Any]:
        """As elsewhere, in the form that the optimizer has without DeepSpeed."""
        from deepspeed.utils import safe_get_full_optimizer_state as full

        found: dict[int, dict[str, Any]] = {}
        for number, (weight, held) in enumerate(self._held()):
            values = {name: full(weight, name).to(held[name].dtype) for name in MOMENTS}
            if keep:
                cpu = {name: value.cpu() for name, value in values.items()}
                found[number] = {"step": held["step"].clone(), **cpu}
        return self.scheduled.state_dict() | {"state": found}

    def load(self, state: Mapping[str, Any]) -> None:
        """As elsewhere."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self.scheduled.load_state_dict({**state, "state": {}})
        self.engine.optimizer.refresh_fp32_params()  # from the weights that the model has now
        for number, (weight, held) in enumerate(self._held()):
            stored = state["state"].get(number)
            if stored is not None:  # of what no gradient has reached torch has no state
                held["step"].copy_(stored["step"])
                for name in MOMENTS:
                    safe_set_full_optimizer_state(weight, stored[name], name)

    def close(self) -> None:
        """As elsewhere; each weight gets memory of its own again."""
        self.engine.destroy()
        for weight, _ in self._held():
            weight.data = weight.data.clone()

    def _groups(self) -> list[dict[str, Any]]:
        """Of the weights; they are others after a state was loaded."""
        return [group for group in self.scheduled.param_groups if group["params"]]

    def _held(self) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
        """Each weight, and the state of the part of its group that this process keeps."""
        for group, flat in zip(self._groups(), self.flat.param_groups, strict=True):
            for weight in group["params"]:
                yield weight, self.flat.state[flat["params"][0]]


class _Trained(nn.Module):
    """What DeepSpeed sees of a model: the weights that it updates, and the loss."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def _engine(optimizer: Optimizer, limit: float) -> Any:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    types = {weight.dtype for weight in weights}
    if len(types) > 1:
        raise UsageError(
            "the trained weights are of several types",
            where="launcher",
            hint='DeepSpeed wants one: set [model].dtype = "float32", or use --profile ddp',
        )
    engine, *_ = _deepspeed().initialize(
        model=_Trained(weights),
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": 1,  # it counts with it, and cuts nothing
            "gradient_accumulation_steps": 1,  # it would divide by more
            "gradient_clipping": limit,
            "zero_optimization": {"stage": 2},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            # Weights and state stay in the type that they have without DeepSpeed.
            "bf16": {
                "enabled": types == {torch.bfloat16},
                "bf16_master_weights_and_grads": types == {torch.bfloat16},
                "bf16_optimizer_states": types == {torch.bfloat16},
            },
            "steps_per_print": 2**62,
        },
    )
    return engine


def _deepspeed() -> Any:
    """The library, without what it says and what it compiles."""
    warnings.filterwarnings("ignore", r"`torch\.distributed", FutureWarning)  # it calls old names
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # On a CPU it would compile a faster way between processes of a machine, at its first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
