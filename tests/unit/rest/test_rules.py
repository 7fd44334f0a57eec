"""Rules of the HTTP service that need no server: hyperparameters, names, states, errors, lines, settings."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rest import names, problems
from services.rest.bodies import CreateJob, SupervisedHyperparameters
from services.rest.chat_bodies import CreateChat, CreateCompletion
from services.rest.hyperparameters import MOST_EPOCHS, MOST_SEEN, auto_epochs, base_rate, chosen, told
from services.rest.results import COLUMNS, results_csv
from services.rest.routes.chat import in_callers_words
from services.rest.settings import read_settings
from services.rest.unforeseen import answer
from services.rest.uploads import LineCheck
from services.rest.views import STATUS, TERMINAL, job_object
from services.variables import BadSetting
from tests.support.rest_server import lines
from turnloom import errors
from turnloom.v1 import training_pb2 as tr
from turnloom.v1 import types_pb2 as ty
from turnloom.wire.options import hyperparameters


@given(st.integers(1, 10**7))
def test_auto_epochs_show_enough_and_not_too_much(conversations: int) -> None:
    epochs = auto_epochs(conversations)
    assert 1 <= epochs <= MOST_EPOCHS
    assert epochs * conversations <= max(MOST_SEEN, conversations)
    assert epochs == MOST_EPOCHS or epochs * conversations >= 100
    assert auto_epochs(conversations + 1) <= epochs


@given(
    st.sampled_from(["owner/base", "Qwen/Qwen3-4B", "turnloom/tiny-qwen3"]),
    st.integers(1, 10**6),
    st.floats(1e-3, 1e3),
    st.integers(1, 50),
    st.integers(1, 512),
)
def test_what_is_asked_is_what_is_told(
    model: str, conversations: int, multiplier: float, epochs: int, batch: int
) -> None:
    asked = SupervisedHyperparameters(n_epochs=epochs, batch_size=batch, learning_rate_multiplier=multiplier)
    made = hyperparameters(chosen(model, asked, {}, None, conversations))
    assert made.learning_rate == pytest.approx(base_rate(model, batch) * multiplier)
    back = told(tr.Job(model=model, hyperparameters=made))
    assert (back.n_epochs, back.batch_size) == (epochs, batch)
    assert back.learning_rate_multiplier == pytest.approx(multiplier)


def test_every_state_has_a_status_and_only_ended_jobs_have_results() -> None:
    states = [value for value in tr.JobState.values() if value != tr.JOB_STATE_UNSPECIFIED]
    assert set(STATUS) == set(states)
    for state in states:
        job = job_object(tr.Job(id="job-abc", model="m", state=state, progress=tr.Progress(step=3)))
        assert bool(job.result_files) == (state in TERMINAL) == (job.finished_at is not None)
        assert (job.fine_tuned_model is None) == (state != tr.JOB_STATE_SUCCEEDED)
        assert job.turnloom.state == tr.JobState.Name(state).removeprefix("JOB_STATE_")


def test_a_failed_job_tells_code_sentence_and_hint() -> None:
    failed = ty.Error(code="OUT_OF_MEMORY", message="It was too much.", hint="Use fewer tokens.")
    error = job_object(tr.Job(id="job-a", state=tr.JOB_STATE_FAILED, error=failed)).error
    assert error is not None
    assert (error.code, error.message, error.param) == ("out_of_memory", "It was too much. Use fewer tokens.", None)


def test_every_class_of_error_has_an_answer_and_only_what_may_pass_is_sent_again() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert set(problems.ANSWERS) == set(classes)
    for kind in classes:
        problem = problems.problem_of(kind("It is so.", hint="Do that.", field="f"))
        assert problem.body()["error"]["message"] == "It is so. Do that."
    passing = {kind for kind in classes if problems.ANSWERS[kind].status in (408, 409, 429, 500, 502, 503, 504)}
    assert not passing & {errors.InvalidInput, errors.InvalidArgument, errors.FailedPrecondition, errors.NotFound}
    assert passing >= {errors.Unavailable, errors.ServerUnreachable, errors.DeadlineExceeded, errors.ServerFault}
    refused = problems.problem_of(errors.NotAllowed("No.", code="UNAUTHENTICATED"))
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    large = problems.problem_of(errors.ResourceExhausted("No.", code="TOO_LARGE"))
    assert large.status == 413
    assert problems.problem_of(errors.ResourceExhausted("No.", code="WORK_EXCEEDED")).status == 413


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.ResourceExhausted("No.", code="QUOTA_REACHED", retry_after=60), "60"),
        (errors.ResourceExhausted("No.", code="RATE_EXCEEDED", retry_after=0.2), "1"),
        (errors.ResourceExhausted("No.", code="TOO_LARGE", retry_after=0), None),
        (errors.Unavailable("No.", code="HOST_BUSY", retry_after=30), "30"),
        (errors.Unavailable("No.", code="STORE_REFUSED"), None),
        (errors.ServerUnreachable("No."), "2"),
    ],
)
def test_the_wait_is_the_one_that_the_api_gave_for_this_reason(error: errors.TurnloomError, said: str | None) -> None:
    assert answer(problems.problem_of(error)).headers.get("retry-after") == said


@given(st.lists(st.integers(1, 60), max_size=30))
def test_lines_are_counted_alike_however_the_bytes_are_cut(sizes: list[int]) -> None:
    data = lines(3) + b"\r\n\n" + lines(2).rstrip(b"\n")
    check, position = LineCheck("f"), 0
    for size in [*sizes, len(data)]:
        check.feed(data[position : position + size])
        position += size
    check.finish()
    assert (check.conversations, check.mistake) == (5, None)


@given(st.lists(st.integers(1, 60), max_size=30))
def test_a_bad_line_has_the_same_number_however_the_bytes_are_cut(sizes: list[int]) -> None:
    data = lines(2) + b"\n[1,\n" + lines(2)
    check, position = LineCheck("f"), 0
    for size in [*sizes, len(data)]:
        check.feed(data[position : position + size])
        position += size
    check.finish()
    assert check.mistake is not None
    assert check.mistake.message.startswith("f, line 4 is not JSON")


def test_a_line_longer_than_any_conversation_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.rest.uploads.MAX_LINE", 100)
    check = LineCheck("f")
    check.feed(b"x" * 1000)
    assert len(check._open) <= 1101
    for _ in range(50):
        check.feed(b"x" * 1000)
    assert len(check._open) <= 1101
    check.feed(b"\n" + lines(1))
    check.finish()
    assert check.mistake is not None
    assert "f, line 1 is longer than" in check.mistake.message


def test_results_read_back_exactly() -> None:
    steps = [tr.Step(step=0, test_nll_sum=3.0, test_weight_sum=2.0)]
    steps += [tr.Step(step=n, nll_sum=n / 7, weight_sum=3.0, learning_rate=1e-4 / n, tokens=n) for n in range(1, 1201)]
    text = b"".join(results_csv(steps)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["train_loss"], rows[0]["valid_loss"]) == ("", "1.5")
    assert [float(row["train_loss"]) for row in rows[1:]] == [n / 7 / 3.0 for n in range(1, 1201)]
    assert [float(row["learning_rate"]) for row in rows[1:]] == [1e-4 / n for n in range(1, 1201)]


def test_names_hold_the_job_and_a_suffix_cannot_break_them() -> None:
    job = tr.Job(id="job-abc123", model="owner/base", owner="ann", metadata={names.SUFFIX: "mine"})
    assert names.model_name(job) == "ft:owner/base:ann:mine:abc123"
    assert names.checkpoint_name(job, 7) == "ft:owner/base:ann:mine:abc123:ckpt-step-7"
    with pytest.raises(problems.Problem, match="suffix"):
        names.check_suffix("a:b")
    assert CreateJob(model="m", training_file="f").turnloom.hyperparameters == {}


def test_settings_name_what_is_wrong(tmp_path: Path) -> None:
    assert read_settings({"TURNLOOM_REST_FILES_URL": "s3://bucket/files/"}).files_url == "s3://bucket/files"
    assert read_settings({"TURNLOOM_REST_API_TLS_CA": str(tmp_path)}).api_tls is not None
    for environment, sentence in (
        ({"TURNLOOM_TOKEN": "secret"}, "TURNLOOM_TOKEN: is set"),
        ({"TURNLOOM_REST_ADDRESS": "x"}, "TURNLOOM_REST_ADDRESS: 'x' can't be used; give HOST:PORT"),
        ({"TURNLOOM_REST_THREADS": "0"}, "TURNLOOM_REST_THREADS: '0' can't be used; give"),
        ({"TURNLOOM_REST_API": "http://a:1"}, "give HOST:PORT of the API"),
    ):
        with pytest.raises(BadSetting, match=sentence) as caught:
            read_settings(environment)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "of_chat", "of_text"),
    [
        ("conversation", "messages", "prompt"),
        ("conversation.messages", "messages", "prompt"),
        ("conversation.messages[2].role", "messages[2].role", "prompt"),
        ("temperature", "temperature", "temperature"),
    ],
)
def test_a_refused_sample_names_the_field_that_its_caller_sent(field: str, of_chat: str, of_text: str) -> None:
    error = errors.InvalidArgument(f"{field}: is wrong.", field=field, code="INVALID_REQUEST")
    chat = CreateChat(model="m", messages=[])
    for body, param in ((chat, of_chat), (CreateCompletion(model="m", prompt="x"), of_text)):
        problem = in_callers_words(error, body)
        assert (problem.status, problem.param, problem.message) == (400, param, f"{param}: is wrong.")
