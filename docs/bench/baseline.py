"""The plain way: bare transformers, as research code does it today.

Batches padded on the right, logits at every position, a deep copy of the model as the reference
which runs at every step, a pass of its own for each term and each metric, `generate` in fixed
batches. Rows, formulas, optimizer and precision are those of the other side.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from setup import Case, Options
from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api.evaluate import Probe
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.evaluate import Evaluations
from unlearn_cli.engine.memory import compact
from unlearn_cli.engine.unlearning import Unlearning

WITH_REFERENCE = {"npo", "dpo", "undial", "rmu"}
RMU_COEFFICIENT, RMU_ALPHA = 6.5, 1200.0


class Baseline:
    """Training steps and an evaluation of one case."""

    def __init__(self, case: Case, options: Options, start: Unlearning) -> None:
        self.case, self.options, self.start = case, options, start
        self.model = start.loaded.model
        self.device = self.model.device
        self.pad = start.encoder.end_ids[0]  # any token would do: the mask says what it is
        self.kl = any("kl" in line for line in case.settings)
        self.reference: Any = None

    def prepare(self) -> None:
        """Freeze what is not trained, copy the reference, make the optimizer."""
        if self.case.method in WITH_REFERENCE or self.kl:
            self.reference = copy.deepcopy(self.model).eval()
        chosen = set(self.start.work.choice.parameters)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in chosen)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=fused)
        self.done = 0

    @compact()  # the allocator does as on the other side, or the ratio of memory says nothing
    def step(self) -> None:
        """One optimizer step."""
        self.model.train()
        work = self.start.work
        step = work.plan.steps[self.done]
        rows = {"forget": step.forget.tolist(), "retain": step.retain.tolist()}
        if work.alternates is not None:
            rows["alternate"] = work.alternates.rows(step)
        batches = {name: self._collate(work.streams[name], rows[name]) for name in rows}
        with self._autocast():
            loss: Tensor = getattr(self, f"_{self.case.method}")(batches)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def _autocast(self) -> Any:
        if self.options.precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _collate(self, items: Sequence[Encoded], rows: Sequence[int]) -> dict[str, Tensor]:
        chosen = [items[row] for row in rows]
        longest = max(len(item.input_ids) for item in chosen)
        shape = (len(chosen), longest)
        ids, labels = torch.full(shape, self.pad), torch.full(shape, -100)
        mask = torch.zeros(shape, dtype=torch.long)
        for b, item in enumerate(chosen):
            tokens = torch.from_numpy(item.input_ids).long()
            ids[b, : len(tokens)], mask[b, : len(tokens)] = tokens, 1
            labels[b, item.start : item.end] = tokens[item.start : item.end]
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return {name: value.to(self.device) for name, value in batch.items()}

    def _logp(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, T - 1) log-probability of each label, 0 where there is none; (B, T - 1, V) logits."""
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        logits = output.logits[:, :-1].float()
        labels = batch["labels"][:, 1:]
        loss = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return -loss, logits

    def _nll(self, batch: Mapping[str, Tensor]) -> Tensor:
        model: Any = self.model
        loss: Tensor = model(**batch).loss
        return loss

    def _sum(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums over answers, of the model and of the reference."""
        with torch.no_grad():
            before = self._logp(self.reference, batch)[0].sum(1)
        return self._logp(self.model, batch)[0].sum(1), before

    def _simnpo(self, batches: Mapping[str, dict[str, Tensor]]) -> Tensor:
        logp, _ = self._logp(self.model, batches["forget"])
        counts = (batches["forget"]["labels"][:, 1:] != -100).sum(1)
        excess = -logp.sum(1) / counts
        forget = -2 / 4.5 * F.logsigmoid(4.5 * excess).mean()
        return 0.125 * forget + self._nll(batches["retain"])

    def _grad_diff(self, batches: Mapping[str, dict[str, Tensor]]) -> Tensor:
        retain = self._divergence(batches["retain"]) if self.kl else self._nll(batches["retain"])
        return -self._nll(batches["forget"]) + retain

    def _divergence(self, batch: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            before = self._logp(self.reference, batch)[1].log_softmax(-1)
        now = self._logp(self.model, batch)[1].log_softmax(-1)
        return F.kl_div(now.flatten(0, 1), before.flatten(0, 1), reduction="sum", log_target=True)

    def _npo(self, batches: Mapping[str, dict[str, Tensor]]) -> Tensor:
        now, before = self._sum(batches["forget"])
        forget = -2 / 0.1 * F.logsigmoid(-0.1 * (now - before)).mean()
        return forget + self._nll(batches["retain"])

    def _dpo(self, batches: Mapping[str, dict[str, Tensor]]) -> Tensor:
        lost, lost_before = self._sum(batches["forget"])
        won, won_before = self._sum(batches["alternate"])
        margin = (won - won_before) - (lost - lost_before)
        return -2 / 0.1 * F.logsigmoid(0.1 * margin).mean() + self._nll(batches["retain"])

    def _undial(self, batches: Mapping[str, dict[str, Tensor]]) -> Tensor:
        batch = batches["forget"]
        with torch.no_grad():
            teacher = self._logp(self.reference, batch)[1]
        now = self._logp(self.model, batch)[1]
        labels = batch["labels"][:, 1:]
        known = labels.clamp_min(0)[..., None]
        lowered = teacher.scatter(-1, known, teacher.gather(-1, known) - 10.0).softmax(-1)
        loss = F.cross_entropy(now.flatten(0, 1), lowered.flatten(0, 1), reduction="none")
        forget = loss[labels.flatten() != -100].mean()
        return forget + self._nll(batches["retain"])

    def _rmu(self, batches: Mapping[str, dict[str, Tensor]]) -> Tensor:
        def hidden(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
            inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
            output = model(**inputs, output_hidden_states=True)
            states: Tensor = output.hidden_states[8]  # of block 7: the first are the embeddings
            return states

        forget, retain = batches["forget"], batches["retain"]
        now = hidden(self.model, forget)
        direction = torch.rand(now.shape[-1], device=now.device)
        target = RMU_COEFFICIENT * direction / direction.norm()
        with torch.no_grad():
            before = hidden(self.reference, retain)
        kept = F.mse_loss(hidden(self.model, retain), before)
        return F.mse_loss(now, target.expand_as(now)) + RMU_ALPHA * kept

    @torch.no_grad()
    def evaluate(self) -> None:
        """TOFU's metrics and attacks, each by itself."""
        self.model.eval()
        probes = next(Evaluations(self.start.session).of_rows())[2]
        sets = sorted({probe.set for probe in probes})
        for name in sets:
            rows = [probe for probe in probes if probe.set == name]
            for metric in self._metrics(name):
                getattr(self, f"_{metric}")(rows)

    def _metrics(self, name: str) -> tuple[str, ...]:
        attacks = ("loss", "loss", "loss", "spread")  # loss, zlib, min_k; min_k_plus_plus
        if name == "holdout":
            return attacks
        found = ("loss", "truth_ratio", "generate")  # probability, truth ratio, ROUGE
        # extraction strength and exact memorisation take the most likely tokens
        return (*found, "correct", "correct", *attacks) if name == "forget" else found

    def _each(self, asked: Sequence[tuple[Probe, str]]) -> Any:
        """Batches of answers, with their log-probabilities and logits."""
        encoder, size = self.start.encoder, self.options.eval_batch
        items = [encoder.encode(probe.row, answer=answer)[0] for probe, answer in asked]
        for start in range(0, len(items), size):
            rows = list(range(start, min(start + size, len(items))))
            batch = self._collate(items, rows)
            with self._autocast():
                yield batch, *self._logp(self.model, batch)

    def _probability(self, asked: Sequence[tuple[Probe, str]]) -> None:
        for _, logp, _ in self._each(asked):
            logp.sum(1).exp().tolist()

    def _loss(self, probes: Sequence[Probe]) -> None:
        self._probability(_true(probes))

    def _truth_ratio(self, probes: Sequence[Probe]) -> None:
        self._probability([(p, p.row.paraphrase) for p in probes if p.row.paraphrase])
        for k in range(max(len(probe.row.perturbed) for probe in probes)):
            some = [probe for probe in probes if len(probe.row.perturbed) > k]
            self._probability([(probe, probe.row.perturbed[k]) for probe in some])

    def _correct(self, probes: Sequence[Probe]) -> None:
        for batch, _, logits in self._each(_true(probes)):
            (logits.argmax(-1) == batch["labels"][:, 1:]).tolist()

    def _spread(self, probes: Sequence[Probe]) -> None:
        for _, _, logits in self._each(_true(probes)):
            logp = logits.log_softmax(-1)
            mean = (logp.exp() * logp).sum(-1)
            ((logp.exp() * logp.square()).sum(-1) - mean.square()).tolist()

    def _generate(self, probes: Sequence[Probe]) -> None:
        encoder, size = self.start.encoder, self.options.eval_batch
        prompts = [torch.from_numpy(encoder.prompt(p.row)).long() for p in probes]
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            longest = max(map(len, part))
            ids = torch.full((len(part), longest), self.pad)
            mask = torch.zeros_like(ids)
            for b, prompt in enumerate(part):
                ids[b, longest - len(prompt) :], mask[b, longest - len(prompt) :] = prompt, 1
            with self._autocast():
                found = self.model.generate(
                    ids.to(self.device),
                    attention_mask=mask.to(self.device),
                    do_sample=False,
                    max_new_tokens=self.options.new_tokens,
                    eos_token_id=list(encoder.end_ids),
                    pad_token_id=self.pad,
                )
            for row in found[:, longest:]:
                encoder.decode(row.tolist())


def _true(probes: Sequence[Probe]) -> list[tuple[Probe, str]]:
    return [(probe, probe.row.answer) for probe in probes]
