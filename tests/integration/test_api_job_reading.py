"""FineTuningService: jobs, their steps, checkpoints and adapters are listed and read."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path

import grpc
import pytest

from services.store.records import StepRecord
from services.store.store import Store
from tests.support.api_calls import TUFT_MODEL, Api, make_dataset, make_job, refusal
from tests.support.job_steps import LIMIT, checkpoint, commit, finished_job, get, later, running
from turnloom.v1 import training_pb2 as pb


@pytest.mark.usefixtures("gpu_host")
class TestReading:
    """Lists, steps, checkpoints, adapters."""

    def test_jobs_are_listed_newest_first_by_state_and_label(self, api: Api) -> None:
        dataset = make_dataset(api).id
        jobs = [make_job(api, dataset, metadata={"n": str(i % 2)}).job.id for i in range(5)]
        api.jobs.CancelJob(pb.CancelJobRequest(id=jobs[0]), timeout=LIMIT)

        def listed(**filters: object) -> list[str]:
            found, token = [], ""
            while True:
                page = api.jobs.ListJobs(
                    pb.ListJobsRequest(page_size=2, page_token=token, **filters),  # type: ignore[arg-type]
                    timeout=LIMIT,
                )
                found += [job.id for job in page.jobs]
                token = page.next_page_token
                if not token:
                    return found

        assert listed() == jobs[::-1]
        assert listed(states=[pb.JOB_STATE_CANCELLED]) == [jobs[0]]
        assert listed(metadata={"n": "0"}) == [jobs[4], jobs[2], jobs[0]]
        assert listed(metadata={"n": "0"}, states=[pb.JOB_STATE_QUEUED]) == [jobs[4], jobs[2]]
        said = refusal(lambda: listed(states=[0]))
        assert said.fields["states[0]"].startswith("is not set; choose one of JOB_STATE_VALIDATING,")

    def test_steps_come_in_pages_each_once_with_the_initial_evaluation_first(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        store.ledger.commit_step(
            job, StepRecord(0, attempt, time=time.time(), test_nll_sum=9.0, test_weight_sum=3.0, test_target_bytes=4)
        )
        for step in range(1, 8):
            commit(store, job, attempt, step)
        pages, token = [], ""
        while True:
            page = api.jobs.ListSteps(pb.ListStepsRequest(job=job, page_size=3, page_token=token), timeout=LIMIT)
            pages.append(page)
            token = page.next_page_token
            if not token:
                break
        assert [[step.step for step in page.steps] for page in pages] == [[1, 2, 3], [4, 5, 6], [7]]
        assert [page.HasField("initial") for page in pages] == [True, False, False]
        assert pages[0].initial.test_nll_sum == 9.0
        assert pages[0].steps[0].nll_sum == 5.0
        late = api.jobs.ListSteps(pb.ListStepsRequest(job=job, start_step=6), timeout=LIMIT)
        assert [step.step for step in late.steps] == [6, 7]

    @pytest.mark.parametrize("position", ["x", "٣", "-1", "9" * 20, "9" * 5000])
    def test_a_token_of_a_page_that_can_not_be_is_refused(self, api: Api, position: str) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        token = base64.urlsafe_b64encode(position.encode()).decode()
        for call in (
            lambda: api.jobs.ListSteps(pb.ListStepsRequest(job=job, page_token=token), timeout=LIMIT),
            lambda: api.jobs.ListReplies(pb.ListRepliesRequest(job=job, page_token=token), timeout=LIMIT),
        ):
            assert refusal(call).fields["page_token"].startswith("is not a token of this server")

    def test_progress_shows_exact_means_and_an_estimated_finish(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api, 20).id).job.id
        attempt = running(store, job)
        commit(store, job, attempt, 1)
        commit(store, job, attempt, 2)
        later(store)
        commit(store, job, attempt, 3, nll_sum=20.0)
        before = time.time()
        shown = get(api, job).progress
        assert (shown.step, shown.planned_steps, shown.epoch) == (3, 5, 1)
        assert (shown.last_train_nll, shown.mean_train_nll) == (2.0, 1.0)
        assert (shown.tokens, shown.trained_tokens) == (300, 30)
        assert shown.tokens_per_second > 0
        asked = shown.estimated_finish.ToNanoseconds() / 1e9 - 200 / shown.tokens_per_second
        assert before - 0.001 <= asked <= time.time() + 0.001

    def test_checkpoints_are_listed_oldest_first(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        names = [checkpoint(store, job, attempt, 0)]
        commit(store, job, attempt, 1)
        names.append(checkpoint(store, job, attempt, 1))
        found = api.jobs.ListCheckpoints(pb.ListCheckpointsRequest(job=job), timeout=LIMIT).checkpoints
        assert [(item.id, item.step) for item in found] == [(names[0], 0), (names[1], 1)]

    def test_an_adapter_streams_file_after_file_with_its_hash(self, api: Api, store: Store, tmp_path: Path) -> None:
        job = finished_job(api, store, tmp_path)
        files: dict[str, bytes] = {}
        for part in api.jobs.DownloadAdapter(pb.DownloadAdapterRequest(job=job), timeout=LIMIT):
            assert len(part.data) <= 1024 * 1024
            files[part.file] = files.get(part.file, b"") + part.data
            size, sha256 = part.file_bytes, part.file_sha256
        assert list(files) == ["adapter_config.json", "adapter_model.safetensors"]
        assert len(files["adapter_model.safetensors"]) == size == 2 * 1024 * 1024
        assert hashlib.sha256(files["adapter_model.safetensors"]).hexdigest() == sha256
        assert get(api, job).adapter_sha256

    def test_of_a_kept_checkpoint_only_the_adapter_is_streamed(self, api: Api, store: Store, tmp_path: Path) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        name = checkpoint(store, job, attempt, 0)
        for part in ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "optimizer/0.pt", "meta.json"):
            file = tmp_path / "saved" / part
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(part)
        asked = pb.DownloadAdapterRequest(job=job, checkpoint=name)
        said = refusal(lambda: list(api.jobs.DownloadAdapter(asked, timeout=LIMIT)))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        stored = store.objects.put_folder(job, name, tmp_path / "saved")
        store.ledger.checkpoint_stored(job, attempt, name, uri=stored.uri, sha256=stored.sha256, bytes=1)
        parts = list(api.jobs.DownloadAdapter(asked, timeout=LIMIT))
        assert [(part.file, part.data) for part in parts] == [
            ("adapter_config.json", b"adapter/adapter_config.json"),
            ("adapter_model.safetensors", b"adapter/adapter_model.safetensors"),
        ]

    def test_a_damaged_adapter_is_data_loss_and_never_passed_on_as_whole(
        self, api: Api, store: Store, tmp_path: Path
    ) -> None:
        job = finished_job(api, store, tmp_path)
        (file,) = (tmp_path / "store").rglob("adapter_model.safetensors")
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        said = refusal(lambda: list(api.jobs.DownloadAdapter(pb.DownloadAdapterRequest(job=job), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.DATA_LOSS

    def test_an_adapter_that_is_not_there_yet_says_so(self, api: Api) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        said = refusal(lambda: list(api.jobs.DownloadAdapter(pb.DownloadAdapterRequest(job=job), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert said.message == (
            f"Job {job!r} is QUEUED and has no adapter in the store yet; WatchJob shows when it is there."
        )

    def test_hosts_show_what_they_serve(self, api: Api) -> None:
        (host,) = api.jobs.ListHosts(pb.ListHostsRequest(), timeout=LIMIT).hosts
        assert (host.name, host.backend_up, host.queued_jobs) == ("gpu-a", True, 0)
        assert [(model.name, model.max_lora_rank) for model in host.models] == [(TUFT_MODEL, 64)]
