"""The suite of a method: `check_method`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn_cli.engine.encode import Encoded
from unlearn_cli.errors import Interrupted
from unlearn_cli.events import StepDone
from unlearn_cli.testing.made_up import Recorder, made_up_rows, tiny_model
from unlearn_cli.testing.plugin import check_plugin

if TYPE_CHECKING:
    import torch


def check_method(method: Any, *, learning_rate: float = 3e-3) -> None:
    """Assert that a method keeps the contract, on a tiny model that knows made-up rows by heart.

    1. Loss and gradient are finite, in float32 and bfloat16.
    2. Micro-batches of 1 and of 3 end with the weights of one batch (in float64).
    3. Only the parameters that `defaults.parameters` names are changed.
    4. What the reference pass stored is what a second model says, also after training.
    5. A run that is stopped and resumed ends with the same bits.
    6. Eight steps, and `edit` after them, lower the mean probability of the forget answers.
    7. The tool can list it and build it from a spec (`unlearn_cli.testing.plugin`): a frozen
       dataclass, every option documented.

    Args:
        method: an instance; patterns of its `layers` must fit the tiny model, whose blocks are
            `model.layers.0` and `model.layers.1`. It is used with its own `defaults`.
        learning_rate: of the eight steps.

    Raises:
        AssertionError: which of the claims does not hold.
        UnlearnError: what the engine refuses.
    """
    check_plugin(method)
    with tempfile.TemporaryDirectory() as folder:
        trials = _Trials(method, learning_rate, Path(folder))
        trials.check_finite()
        trials.check_invariance()
        trials.check_reference()
        trials.check_resume()
        trials.check_forgetting()


class _Trials:
    """The claims of `check_method`, each on trainings of its own."""

    def __init__(self, method: Any, learning_rate: float, folder: Path) -> None:
        self.method, self.learning_rate, self.folder = method, learning_rate, folder

    def check_finite(self) -> None:
        import torch

        for dtype in (torch.float32, torch.bfloat16):
            trial = self._trained(f"finite-{dtype}", steps=2, dtype=dtype)
            assert len(trial.losses) == 2, f"not every step was taken in {dtype}"

    def check_invariance(self) -> None:
        import torch

        options: Any = {"steps": 3, "dtype": torch.float64}
        whole = self._trained("whole", micro_batch=8, **options).weights()
        for size in (1, 3):
            parts = self._trained(f"parts-{size}", micro_batch=size, **options).weights()
            for name, expected in whole.items():
                close = torch.allclose(parts[name], expected, rtol=1e-5, atol=1e-7)
                assert close, f"micro-batches of {size} end with another {name}"

    def check_reference(self) -> None:
        import torch

        trial = self._trained("reference", steps=2)
        second = _Trial(self.method, self.folder / "second", self.learning_rate, steps=2)
        for stream in trial.needs.references:
            expected = second.says(stream)
            found = trial.stores["reference"].said(stream, [0, 1], expected)
            for one, other in zip(_values(expected), _values(found), strict=True):
                close = torch.allclose(one, other, rtol=1e-4, atol=1e-5)
                assert close, f"the stored reference of {stream} is not that of a second model"

    def check_resume(self) -> None:
        import torch

        whole = self._trained("unbroken", steps=4)
        with_stop = _Trial(self.method, self.folder / "broken", self.learning_rate, steps=4)
        with_stop.trainer.stop = lambda: with_stop.trainer.done == 2
        try:
            with_stop.trainer.fit()
        except Interrupted:
            again = _Trial(self.method, self.folder / "broken", self.learning_rate, steps=4)
            state, _ = with_stop.checkpoints.newest()
            assert state is not None, "the interrupt left no checkpoint"
            again.trainer.resume(state)
            again.trainer.fit()
        for name, expected in whole.weights().items():
            assert torch.equal(again.weights()[name], expected), f"resumed with another {name}"

    def check_forgetting(self) -> None:
        import torch

        trial = _Trial(self.method, self.folder / "forget", self.learning_rate, steps=8)
        before, start = trial.probability(), trial.weights()
        trial.trainer.fit()
        trial.edit(start)
        after, frozen = trial.probability(), set(start) - set(trial.parameters)
        for name in sorted(frozen):
            assert torch.equal(trial.weights()[name], start[name]), f"{name} should not change"
        assert after < before, f"the forget answers rose from {before:.3f} to {after:.3f}"

    def _trained(self, name: str, **options: Any) -> _Trial:
        trial = _Trial(self.method, self.folder / name, self.learning_rate, **options)
        trial.trainer.fit()
        return trial


class _Trial:
    """One training of a tiny model that knows its rows by heart."""

    def __init__(
        self,
        method: Any,
        folder: Path,
        learning_rate: float,
        *,
        steps: int,
        micro_batch: int = 8,
        dtype: torch.dtype | None = None,
    ) -> None:
        from accelerate import Accelerator

        from unlearn_cli.api import MethodDefaults
        from unlearn_cli.engine import layers as names
        from unlearn_cli.engine import objective
        from unlearn_cli.engine.checkpoints import Checkpoints
        from unlearn_cli.engine.forward import Scorer
        from unlearn_cli.engine.method import inspect_method
        from unlearn_cli.engine.plan import make_plan
        from unlearn_cli.engine.reference import ReferenceStore, Request, make_store
        from unlearn_cli.engine.train import Optimization, Trainer

        self.method, self.model, self.recorder = method, tiny_model(), Recorder()
        self.model.load_state_dict(_knowing())
        self.model.to(dtype)
        defaults = getattr(method, "defaults", MethodDefaults())
        needs = inspect_method(method, "method")
        layers = names.find_layers(self.model, needs.layers)
        last = names.deepest(layers) if layers and defaults.retain not in ("nll", "kl") else None
        self.parameters = names.find_parameters(self.model, defaults.parameters, last)
        plan = make_plan(forget=8, retain=8, batch_size=8, seed=0, steps=steps)
        streams: dict[str, Sequence[Encoded]] = {"forget": _FORGET, "retain": _RETAIN}
        alternates = None
        if needs.alternates:
            alternates = objective.Alternates(
                plan, [["0", "1"]] * 8, lambda pairs: [_alternate(*pair) for pair in pairs]
            )
            streams["alternate"] = alternates.items
        self.scorer, accelerator = Scorer(self.model), Accelerator()
        requests = objective.reference_requests(plan, streams, needs, defaults.retain, layers)

        def store(name: str, requests: Sequence[Request], scorer: Scorer) -> ReferenceStore:
            return make_store(folder / name, requests, scorer, accelerator, micro_batch=8)

        self.needs, self.layers, self.streams = needs, layers, streams
        self.stores = {"reference": store("reference", requests, self.scorer)}
        if needs.reinforced:
            rows = objective.drawn(plan, "forget")
            request = Request("forget", _FORGET, rows, needs.reference_logits)
            other = Scorer(_reinforced().to(dtype))
            self.stores["reinforced"] = store("reinforced", [request], other)
        terms = objective.all_terms(
            method,
            needs,
            defaults.gamma,
            defaults.alpha,
            defaults.retain,
            alternates,
            self.stores,
            layers,
        )
        names.train_only(self.model, self.parameters)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.trainer = Trainer(
            accelerator,
            self.scorer,
            _NoTokenizer(),
            plan,
            streams,
            terms,
            Optimization(learning_rate, "constant", 0.0, 0.0, 1.0, micro_batch),
            self.checkpoints,
            stage="train",
            emit=self.recorder,
            reweigh=getattr(method, "weights", None),
        )

    @property
    def losses(self) -> list[Mapping[str, float]]:
        """Of each step."""
        return [event.losses for event in self.recorder.of(StepDone)]

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of all parameters."""
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def says(self, stream: str) -> Any:
        """Scores or activations of the first two rows of a stream."""
        import torch

        with torch.no_grad():
            return self.scorer(self.streams[stream][:2], self.layers)

    def probability(self) -> float:
        """Mean probability of a token of the forget answers."""
        import torch

        with torch.no_grad():
            return float(self.scorer.score(_FORGET).token_logp.exp().mean())

    def edit(self, before: Mapping[str, torch.Tensor]) -> None:
        """What the method does after training."""
        import torch

        if hasattr(self.method, "edit"):
            with torch.no_grad():
                for name, after in self.model.named_parameters():
                    after.copy_(self.method.edit(before[name], after))


def _values(said: Any) -> list[torch.Tensor]:
    return list(said.layers.values()) if hasattr(said, "layers") else [said.token_logp]


class _NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        """The checkpoint of a trial needs none."""


_FORGET, _RETAIN = made_up_rows(8, seed=11), made_up_rows(8, seed=12)
_OTHER = made_up_rows(16, seed=13)


def _alternate(row: int, answer: str) -> Encoded:
    """The prompt of a forget row with another answer."""
    prompt, other = _FORGET[row], _OTHER[2 * row + int(answer)]
    ids = np.concatenate([prompt.input_ids[: prompt.start], other.input_ids[other.start :]])
    return Encoded(ids, prompt.start, len(ids))


@cache
def _knowing() -> dict[str, torch.Tensor]:
    """Weights of the tiny model after it learned the forget and the retain rows."""
    model = tiny_model()
    _learn(model, [*_FORGET, *_RETAIN], steps=60)
    return dict(model.state_dict())


def _reinforced() -> Any:
    """The tiny model after it learned the forget rows once more."""
    model = tiny_model()
    model.load_state_dict(_knowing())
    _learn(model, _FORGET, steps=10)
    return model


def _learn(model: Any, rows: Sequence[Encoded], steps: int) -> None:
    import torch

    from unlearn_cli.engine.forward import Scorer

    scorer = Scorer(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(-scorer.score(rows).token_logp.mean())
        optimizer.step()
