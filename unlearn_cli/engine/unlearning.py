"""The training of a run: what comes before its first step, and after its last."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from unlearn_cli.api.data import Row
from unlearn_cli.engine import titles
from unlearn_cli.engine.alternates import make_alternates, read_alternates, write_alternates
from unlearn_cli.engine.cache import cache_folder, content_key, make_once
from unlearn_cli.engine.checkpoints import Checkpoints
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.gradients import Gradients, salient
from unlearn_cli.engine.layers import train_only
from unlearn_cli.engine.lora import adapt, find_adapted, merge
from unlearn_cli.engine.models import Loaded
from unlearn_cli.engine.models import fingerprint as model_fingerprint
from unlearn_cli.engine.objective import Term
from unlearn_cli.engine.reference import ReferenceStore, Request, make_store, open_store
from unlearn_cli.engine.rows import fingerprint
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.sharding import change_weight, whole
from unlearn_cli.engine.train import Trainer
from unlearn_cli.engine.work import (
    check_reference_size,
    optimization,
    prepare,
    rows_at_once,
    smoothing,
)
from unlearn_cli.environment import versions
from unlearn_cli.events import Notice
from unlearn_cli.files import write_atomically

ALTERNATES = "alternates.json"


class Unlearning:
    """A method about to change a model."""

    def __init__(
        self, session: Session, folder: Path, loaded: Loaded, reinforced: str | None = None
    ) -> None:
        """`folder` is for what a resumed run must keep, `reinforced` the path of that model."""
        self.session, self.spec, self.folder, self.loaded = session, session.spec, folder, loaded
        self.reinforced = reinforced
        self.untrained = ""
        """Fingerprint of the model with its new adapter, where it has one."""
        self.scorer = Scorer(loaded.model)
        self.encoder = session.encoder(loaded.tokenizer)
        self.work = prepare(session, self.encoder, loaded.model, self._ask)

    def trainer(self, checkpoints: Checkpoints, stop: Callable[[], int]) -> Trainer:
        """What takes the steps; the reference pass is run, and what is not trained is frozen.

        The reference is the model without an adapter, so it is asked before that is put in."""
        spec, work, model = self.spec, self.work, self.loaded.model
        trained: Sequence[str] = work.choice.parameters
        if spec.lora.base == "full":  # 4 bits have no gradients
            train_only(model, trained)
        terms = work.terms(spec, self._stores())
        if spec.wrap.saliency is not None:
            trained = self._salient(terms[0])
            train_only(model, trained)
        if spec.lora.rank:
            layers = find_adapted(model, trained, spec.lora)
            adapt(model, layers, spec.lora, base=self.loaded.source, seed=spec.seed)
            self.untrained = model_fingerprint(model)
        return Trainer(
            self.session.accelerator,
            self.scorer,
            self.loaded.tokenizer,
            work.plan,
            work.streams,
            terms,
            optimization(spec),
            checkpoints,
            stage="train",
            emit=self.session.emit,
            stop=stop,
            reweigh=getattr(work.method, "weights", None),
            smoothing=smoothing(spec),
            seed=spec.seed,
        )

    @torch.no_grad()
    def finish(self) -> None:
        """Put the adapter into the weights where the spec says so, and let the method make the
        model of what training made of its parameters."""
        if self.spec.lora.merge:
            merge(self.loaded.model)
        if not hasattr(self.work.method, "edit"):
            return
        unchanged = self.session.load(self.loaded.source)
        merge(unchanged.model)
        before = dict(unchanged.model.named_parameters())
        after = dict(self.loaded.model.named_parameters())
        for name in self.work.choice.parameters:
            old, edit = whole(before[name]).detach().float(), self.work.method.edit
            change_weight(after[name], lambda new, old=old, edit=edit: edit(old, new.float()))  # type: ignore[misc]

    def _stores(self) -> dict[str, ReferenceStore]:
        """What the terms need of other models than the one in training."""
        stores, model = {}, self.loaded.model
        requests = self.work.requests(self.spec)
        again = (self.work.reinforced_request(),) if self.reinforced else ()
        check_reference_size(self.spec, (*requests, *again), model)
        if requests:
            stores["reference"] = self._score(titles.REFERENCE, requests, self.scorer)
        if self.reinforced:
            scorer = Scorer(self.session.load(self.reinforced).model)
            stores["reinforced"] = self._score(titles.REINFORCED_REFERENCE, again, scorer)
        return stores

    def _score(self, title: str, requests: tuple[Request, ...], scorer: Scorer) -> ReferenceStore:
        """What a model says of rows: made once for its content, so that runs share it."""
        session, train = self.session, self.spec.train
        asked = [request.fingerprint for request in requests]
        rows = rows_at_once(self.spec)
        batches = (rows, train.mixed_precision, self.spec.model.attention)
        key = content_key(versions(), model_fingerprint(scorer.model), asked, batches)
        folder = cache_folder("references") / key

        def make(place: Path) -> None:
            count = sum(len(request.rows) for request in requests)
            with session.stage("reference_pass", title, count, "rows") as progress:
                make_store(
                    place,
                    requests,
                    scorer,
                    session.accelerator,
                    micro_batch=rows,
                    progress=progress,
                )

        if not make_once(session, folder, make):
            session.cached("reference_pass", title)
        return open_store(folder, requests, scorer)

    def _ask(self, rows: Sequence[Row]) -> list[tuple[str, ...]]:
        """Alternate answers of the model before its first update: those of this run where it has
        begun, whose reference is stored; else made once for their content."""
        own = self.folder / ALTERNATES
        if not self.session.decide(own.exists):
            made = self._made(rows)
            self._keep(own, write_alternates(made))
        return read_alternates(own.read_text("utf-8"))

    def _made(self, rows: Sequence[Row]) -> list[tuple[str, ...]]:
        session, loaded, table = self.session, self.loaded, self.spec.alternates
        model, seed = model_fingerprint(loaded.model), self.spec.seed
        key = content_key(
            versions(), model, self.encoder.fingerprint, fingerprint(rows), table.model_dump(), seed
        )
        folder = cache_folder("alternates") / key

        def make(place: Path) -> None:
            title = titles.ALTERNATES
            with session.stage("alternates", title, len(rows), "rows") as progress:
                made = make_alternates(
                    loaded.model,
                    self.encoder,
                    rows,
                    table,
                    session.accelerator,
                    seed=seed,
                    progress=progress,
                )
            self._keep(place / ALTERNATES, write_alternates(made))

        if not make_once(session, folder, make):
            session.cached("alternates", titles.ALTERNATES)
        return read_alternates((folder / ALTERNATES).read_text("utf-8"))

    def _keep(self, path: Path, text: str) -> None:
        if self.session.accelerator.is_main_process:
            write_atomically(path, text)
        self.session.accelerator.wait_for_everyone()

    def _salient(self, forget: Term) -> list[str]:
        """The parameters that the forget term pulls most, over the first epoch's rows; a resumed
        run goes on with those that it began with."""
        own = self.folder / "salient.json"
        if not self.session.decide(own.exists):
            self._keep(own, json.dumps(self._most_pulled(forget), indent=1))
        chosen: list[str] = json.loads(own.read_text("utf-8"))
        self.session.emit(Notice(f"training {len(chosen)} parameter tensors, the most salient"))
        return chosen

    def _most_pulled(self, forget: Term) -> list[str]:
        gradients = Gradients(
            self.session.accelerator,
            self.scorer,
            self.work.streams,
            micro_batch=rows_at_once(self.spec),
        )
        plan = self.work.plan
        share = float(self.spec.wrap.saliency or 1)
        with self.session.stage("saliency", titles.SALIENCY):
            first = plan.steps[: plan.steps_per_epoch]
            return salient(gradients, forget, first, self.loaded.model, share)
