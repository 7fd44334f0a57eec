"""One attempt at one job, in the horse: claim, restore, train, keep, finish. `run` is what tickets name.

The only place that knows both the store and the training server; endings.py has the ways out.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from services.store.blobs.cache import FileCache
from services.store.blobs.evaluations import RowLosses
from services.store.errors import NotFound, RedisUnavailable
from services.store.jobs import Claim
from services.store.logs import about
from services.store.records import CheckpointRecord, Control, JobRecord, ServedModelRecord, StepRecord
from services.store.retries import retry_redis
from services.store.shards.dataset_files import DatasetReader
from services.store.store import Store, open_store
from services.trainer.aside import Aside, Outage
from services.trainer.backend import Adapter, Backend
from services.trainer.batches.batching import MOST_CALL_TOKENS, PASSES_PER_CALL, Batches
from services.trainer.batches.dataset import PatientFile, TrainedRows, trained_rows
from services.trainer.batches.mixing import Part
from services.trainer.batches.rows import Row
from services.trainer.checkpoints import Restorer, ServerFolder, probe_rows, prove
from services.trainer.endings import Endings, Leave
from services.trainer.errors import CheckpointLost, Code, DatasetUnusable, backend_error
from services.trainer.evaluation import Patience
from services.trainer.host import preemption
from services.trainer.host.gpu import Meter
from services.trainer.host.readiness import accelerated_event, ready_model
from services.trainer.journal import LedgerJournal
from services.trainer.keeping import Keeper
from services.trainer.lease import Lease
from services.trainer.loop import Run, RunSpec
from services.trainer.mirroring import Mirror
from services.trainer.replies import SECONDS, Replier
from services.trainer.sample import draw
from services.trainer.settings import Settings, from_environment
from services.trainer.tuft import TuftSettings, connect
from services.trainer.tuft_http import TuftHttp
from turnloom.plural import counted

Result = TypeVar("Result")

LAST_REPLIES = 2 * SECONDS  #: that a trained job waits for its replies, those of a step before included
LOSSES_WAIT = 2.0  #: seconds that a step waits for the store to take what its evaluation found
OPTIMIZER_INEXACT = (
    "TuFT's fsdp backend keeps Adam's moments of the first GPU only; on several GPUs the run goes on with the exact "
    "weights and these moments on all of them, close to the uninterrupted run but not equal to it."
)

log = logging.getLogger(__name__)


def run(job_id: str, attempt: int) -> None:
    """Run the ticket's attempt. Returns normally whatever becomes of the job: the outcome is in the record."""
    settings = from_environment(os.environ)
    about(job_id, attempt)
    preemption.listen()
    store = retry_redis(
        lambda: open_store(settings.redis_url, settings.store_url, settings.lease_ttl), settings.redis_patience
    )
    worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    claim = retry_redis(
        lambda: store.jobs.claim(job_id, attempt, worker, settings.host, settings.hour_price, settings.currency),
        settings.redis_patience,
    )
    if claim is None:
        log.info("the ticket was dropped; an event says why")
        return
    with Lease(lambda: store.jobs.renew(job_id, attempt), settings.lease_ttl) as lease:
        Attempt(settings, store, claim, lease, preemption.wanted).run()


@dataclass(frozen=True, slots=True)
class Data:
    """The rows of a job."""

    train: Sequence[Part]  #: one a dataset
    test: Sequence[Row]


class Attempt:
    """One claimed attempt."""

    def __init__(
        self, settings: Settings, store: Store, claim: Claim, lease: Lease, preempted: threading.Event
    ) -> None:
        self._settings = settings
        self._store = store
        self._job: JobRecord = claim.job
        self._checkpoint: CheckpointRecord | None = claim.checkpoint
        self._lease = lease
        hyper = claim.job.spec.hyperparameters
        self._adapter = Adapter(
            claim.job.spec.tuft_model, hyper.lora_rank, hyper.train_mlp, hyper.train_attn, hyper.train_unembed
        )
        self._http = TuftHttp(settings.tuft_url, settings.tuft_api_key)
        self._folder = ServerFolder(settings.checkpoint_dir)
        self._backend: Backend | None = None
        self._served = ServedModelRecord(self._adapter.model)  # known once there is a client
        self._replier: Replier | None = None
        self._training = False  # from now on it is the loop that hears when the attempt has to leave
        self._outage = Outage(lambda sentence: self._journal.event("warning", "STORE_UNAVAILABLE", sentence))
        self._aside = Aside(self._outage)
        self._keeper = Keeper(
            self._job.id,
            self._job.attempt,
            hyper.keep_checkpoints,
            self._best_and_last,
            store.ledger,
            self._http,
            self._folder,
            store.objects,
            self._aside.once,
        )
        self._mirror = Mirror(self._keeper.copy, self._outage) if settings.store_checkpoints else None
        self._journal = LedgerJournal(
            store.ledger,
            self._job.id,
            lease=lease,
            preempted=preempted,
            patience=settings.redis_patience,
            clock=time.monotonic,
            events=self._event,
            saved=self._saved,
        )
        self._endings = Endings(
            store,
            self._job,
            self._adapter,
            lease,
            self._journal,
            self._keeper,
            self._mirror,
            self._outage,
            self._aside,
            self._folder,
            settings.redis_patience,
        )

    def run(self) -> None:
        """Train, and always end the attempt (endings.py)."""
        with self._journal:
            try:
                self._train()
            except Exception as error:
                self._end_replies()
                self._endings.end(error)
            finally:
                if self._mirror is not None:
                    self._mirror.close(0.0)
                self._aside.close(0.0)
                self._end_replies()
                if self._backend is not None:
                    self._backend.close()

    # The way through.

    def _train(self) -> None:
        data = self._read_data()
        probe = probe_rows(data.test or data.train[0].rows, self._job.spec.hyperparameters.seed)
        self._wait_for_server()
        backend, steps_done = self._begin(probe)
        plan = self._plan(data, probe)
        patience = self._replayed_patience(steps_done)
        loop = Run(plan, backend, self._journal, patience, Meter().read, time.monotonic, time.time, self._keep_losses)
        untested = self._untested(plan, steps_done)
        self._journal.event(*accelerated_event(self._served))
        self._training = True
        self._replier = loop.sampler = self._make_replier()
        if self._replier is not None and self._replier.due(steps_done):  # the attempt before did not tell them
            loop.offer(steps_done, backend.save_adapter(plan.live_name(steps_done)))
        asked = loop.train(steps_done, save_first=self._checkpoint is None, untested=untested)
        self._journal.drain()
        if asked is Control.NONE:
            self._last_replies(loop, backend)
            self._endings.succeed(backend)
        else:
            self._end_replies()
            self._endings.leave(asked)

    def _read_data(self) -> Data:
        spec = self._job.spec
        train = []
        for part in spec.training:
            rows = self._rows(part.dataset)
            if not len(rows):
                length = spec.hyperparameters.max_length
                raise DatasetUnusable(f"dataset {part.dataset} has nothing to train with max_length {length}")
            train.append(Part(rows, rows.conversation_of, part.weight))
        return Data(train, self._rows(spec.test_dataset) if spec.test_dataset else ())

    def _rows(self, dataset: str) -> TrainedRows:
        """Return the rows of a dataset as the job's max_length leaves them, and tell what it cut."""
        max_length = self._job.spec.hyperparameters.max_length
        rows, cut = trained_rows(self._reader(dataset), max_length)
        if cut.cut_rows or cut.emptied_rows:
            self._journal.event(
                "warning",
                "MAX_LENGTH_CUT",
                f"max_length {max_length} cut {counted(cut.cut_rows, 'row')} of {dataset} by "
                f"{counted(cut.cut_tokens, 'token')}, and left {cut.emptied_rows} with nothing to train.",
            )
        return rows

    def _reader(self, dataset_id: str) -> PatientFile:
        cache = FileCache(self._settings.cache_dir, self._settings.cache_bytes)
        uri = self._read(lambda: self._store.datasets.get(dataset_id)).uri
        return PatientFile(self._patiently(lambda: DatasetReader(uri, cache)), self._patiently)

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """Read from the object store through an outage, unless the attempt has to end meanwhile."""
        return self._endings.patiently(call, self._interrupted)

    def _plan(self, data: Data, probe: Sequence[Row]) -> RunSpec:
        hyper = self._job.spec.hyperparameters
        batches = Batches(data.train, hyper.batch_size, hyper.seed)
        steps = hyper.max_steps or hyper.epochs * batches.steps_per_epoch
        packs = bool(self._served.accelerated)
        most = PASSES_PER_CALL * self._served.max_tokens_per_pass if packs else MOST_CALL_TOKENS
        saved = self._checkpoint
        known = saved.max_tokens_per_call if saved and saved.packed == packs else 0  # else it counts other tokens
        ceiling = min(known or most, hyper.max_tokens_per_call or most)
        return RunSpec(self._job.id, self._job.attempt, hyper, batches, steps, data.test, probe, ceiling, packs)

    def _make_replier(self) -> Replier | None:
        """Return what samples the adapter while it trains; None: the job wants no replies, or nothing here samples."""
        spec = self._job.spec.replies
        if spec is None:
            return None
        if self._served.samples is False and not self._settings.sampler_url:
            self._journal.event(
                "warning", "REPLIES_MISSING", f"Host {self._settings.host} does not sample; there are no replies."
            )
            return None
        model, room = self._adapter.model, self._served.max_model_len
        return Replier(
            self._store,
            self._job.id,
            self._job.attempt,
            spec,
            lambda path, prompts, seconds, leave: draw(self._settings, path, model, prompts, seconds, leave),
            room,
            self._job.sampled_step,
            self._keeper.discard,
        )

    def _last_replies(self, loop: Run, backend: Backend) -> None:
        """Sample the trained adapter, and wait for it within a limit."""
        if self._replier is None:
            return
        step = self._read(lambda: self._store.jobs.get(self._job.id)).step
        if self._replier.untold(step):
            loop.offer(step, backend.save_adapter(loop.plan.live_name(step)))
        self._replier.finish(LAST_REPLIES, lambda: self._journal.control() is not Control.NONE)

    def _end_replies(self) -> None:
        """Sample no more, before the run is released: the server deletes nothing of a run that it knows no more."""
        if self._replier is not None:
            self._replier.close()

    def _wait_for_server(self) -> None:
        """Give a restarting server time to come back."""
        begun, said = time.monotonic(), False
        while not self._http.healthy():
            self._interrupted()
            if time.monotonic() - begun > self._settings.start_deadline:
                raise backend_error(
                    Code.SERVER_UNREACHABLE,
                    f"{self._settings.tuft_url} did not answer for {self._settings.start_deadline:g} s",
                )
            if not said:
                self._journal.event("warning", "WAITING_FOR_BACKEND", f"{self._settings.tuft_url} does not answer yet.")
                said = True
            time.sleep(min(1.0, self._settings.start_deadline / 10))

    def _connect(self) -> Backend:
        settings = self._settings
        served = {model.name: model for model in self._http.models()}
        if self._adapter.model not in served:
            raise backend_error(
                Code.MODEL_NOT_SERVED,
                f"{settings.tuft_url} serves {', '.join(served) or 'no model'}, not {self._adapter.model}",
            )
        tuft = TuftSettings(
            settings.tuft_url,
            settings.tuft_api_key,
            settings.call_deadline,
            min(settings.start_deadline, settings.call_deadline),
            settings.silence,
            max_model_len=served[self._adapter.model].max_model_len or None,
        )
        if self._backend is not None:
            self._backend.close()
        self._backend = backend = connect(tuft, self._adapter, self._interrupted)
        self._endings.runs.append(backend.run_id)
        self._served = ready_model(self._http, self._adapter.model, self._interrupted)
        backend.even = not self._served.accelerated
        return backend

    def _interrupted(self) -> None:
        """End the attempt if it is fenced or must leave before it trained anything; called during every wait."""
        self._lease.check()
        asked = self._journal.control()
        if asked is not Control.NONE and not self._training:
            raise Leave(asked)

    def _begin(self, probe: Sequence[Row]) -> tuple[Backend, int]:
        """Return a client with the attempt's proven starting state, and the number of steps in it."""
        restorer = Restorer(self._connect, self._folder, self._store.objects, self._keeper.discard, self._patiently)
        if self._checkpoint is not None:
            backend = restorer.restore(self._checkpoint, optimizer=True)
            nll = prove(backend, self._checkpoint, probe, self._settings.probe_tolerance)
            self._journal.event(
                "info",
                "RESTORED",
                f"Checkpoint {self._checkpoint.id} is loaded; its probe NLL is {nll:.6f}, as it was saved.",
                checkpoint=self._checkpoint.id,
            )
            if self._folder.keeps_one_optimizer_shard(self._checkpoint.path):
                self._journal.event("warning", "OPTIMIZER_INEXACT", OPTIMIZER_INEXACT)
            return backend, self._checkpoint.step
        start = self._job.spec.start_from
        if start is None:
            return self._connect(), 0
        try:
            source = self._read(lambda: self._store.ledger.checkpoint(start.job, start.checkpoint))
        except NotFound as error:
            raise CheckpointLost(str(error)) from None
        backend = restorer.restore(source, optimizer=not start.weights_only)
        kind = "weights" if start.weights_only else "weights and optimizer"
        self._journal.event("info", "RESTORED", f"Begins from checkpoint {source.id} of job {start.job}: {kind}.")
        return backend, 0

    def _untested(self, plan: RunSpec, steps_done: int) -> StepRecord | None:
        """Return the record of the loaded state's step if its evaluation is due and was never taken."""
        if not plan.is_evaluated(steps_done):
            return None
        ledger, job, attempt = self._store.ledger, self._job.id, self._job.attempt
        if steps_done == 0:
            known = self._read(lambda: ledger.initial(job))
            return StepRecord(step=0, attempt=attempt, time=time.time()) if known is None else None
        (record,) = self._read(lambda: ledger.steps(job, steps_done, 1))
        return replace(record, attempt=attempt) if record.test_nll_sum is None else None

    def _replayed_patience(self, steps_done: int) -> Patience:
        """Rebuild early stopping as of the checkpoint: a function of the evaluations up to there."""
        hyper = self._job.spec.hyperparameters
        patience = Patience(hyper.early_stopping_patience, hyper.early_stopping_min_delta)
        if not hyper.early_stopping_patience:
            return patience
        initial = self._read(lambda: self._store.ledger.initial(self._job.id))
        series = self._read(lambda: self._store.ledger.steps(self._job.id, 1, steps_done)) if steps_done else []
        for record in [*([initial] if initial else []), *series]:
            if record.test_nll_sum is not None and record.test_weight_sum:
                patience.seen(record.test_nll_sum / record.test_weight_sum)
        return patience

    def _saved(self, checkpoint: CheckpointRecord) -> None:
        """Copy a checkpoint that is in the ledger, and make room; if Redis is away the next checkpoint does it."""
        if self._mirror is not None:
            self._mirror.offer(checkpoint)
        try:
            self._keeper.thin_out()
        except RedisUnavailable as error:
            log.warning("no checkpoint was removed: %s", error)

    def _keep_losses(self, step: int, losses: RowLosses) -> None:
        """Store the loss of each test row. Worth having for comparisons, not worth failing a job or holding it up.

        A store that answers has the file before the ledger says that there was an evaluation.
        """
        self._aside.put(
            f"step {step}: the loss of each test example",
            lambda: self._store.evaluations.put(self._job.id, step, losses),
        )
        self._aside.settle(LOSSES_WAIT)

    def _best_and_last(self) -> tuple[str, str]:
        job = self._store.jobs.get(self._job.id)
        return job.best_checkpoint, job.last_checkpoint

    def _event(self, level: str, kind: str, message: str, fields: dict[str, str]) -> None:
        self._store.events.append(self._job.id, level, kind, message, self._job.attempt, fields=fields)

    def _read(self, read: Callable[[], Result]) -> Result:
        """Query Redis, retrying through an outage."""
        return retry_redis(read, self._settings.redis_patience)
