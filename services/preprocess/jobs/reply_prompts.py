"""Make the prompts that a job answers while it trains, and say whether a host can sample them."""

from __future__ import annotations

import json
from typing import Final

from services.preprocess.domain.job_draft import Sampled
from services.preprocess.domain.limits import Violations
from services.preprocess.domain.refusals import NotSampled, WrongState
from services.preprocess.jobs.prompt import prompt_of
from services.preprocess.wire.issues import violation
from services.preprocess.wire.options import options, options_from_json
from services.store.blobs.replies import ReplyPrompt, ReplyPrompts
from services.store.records import DatasetRecord
from services.store.store import Store
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import InvalidOption, PreprocessError
from turnloom.masks.domain.options import Options
from turnloom.masks.model import Model

ASKED: Final = 200  #: characters of a prompt's last message that are kept for people


def training_options(dataset: DatasetRecord, model: Model) -> Options:
    """Return the options that a dataset's rows were made with.

    Raises:
        WrongState: the model has another tokenizer or template by now, so prompts would differ from the rows.
    """
    chosen = options(options_from_json(json.loads(dataset.options_json)))
    changed = "tokenizer" if dataset.tokenizer_sha256 != model.tokenizer_sha256 else ""
    if chosen.chat_template is None and dataset.template_sha256 != model.template_sha256:
        changed = changed or "chat template"
    if changed:
        raise WrongState(
            f"Model {model.name!r} has another {changed} now than when dataset {dataset.id!r} was made, so the prompt "
            "would not be what the job was trained on; serve the former one, or train again."
        )
    return chosen


def reply_prompts(sampled: Sampled, dataset: DatasetRecord, model: Model, violations: Violations) -> ReplyPrompts:
    """Return the prompts as the training rows have them; what can't be rendered is a violation.

    Raises:
        WrongState: as training_options.
    """
    chosen = training_options(dataset, model)
    found: list[ReplyPrompt] = []
    for place, conversation in enumerate(sampled.prompts):
        try:
            prompt = prompt_of(conversation, chosen, model)
        except InvalidOption as error:  # nothing of this request
            raise WrongState(f"Dataset {dataset.id!r} can't be read here: {error}.") from error
        except PreprocessError as error:
            blamed = violation(f"sample_prompts[{place}]", error)
            violations.add(blamed.field, blamed.description)
            continue
        found.append(ReplyPrompt(_asked(conversation), tuple(prompt.token_ids.tolist()), prompt.stop_ids))
    return ReplyPrompts(tuple(found))


def check_sampling_host(store: Store, model: str, rank: int, host: str, prompts: ReplyPrompts) -> None:
    """Check that a live host that may have the job samples the model, and has room for the prompts.

    Raises:
        NotSampled: each of them trains only.
        InvalidRequest: a prompt is too long for the model there.
    """
    able = [one for one in store.hosts.able(model, rank, host) if one.samples(model)]
    if not able:
        raise NotSampled(model, host)
    limits = [served.max_model_len for one in able for served in one.models if served.name == model]
    limit = max(limits) if all(limits) else 0  # 0: unknown
    violations = Violations()
    for place, prompt in enumerate(prompts.prompts):
        if limit and len(prompt.token_ids) >= limit:
            violations.add(f"sample_prompts[{place}]", f"has {len(prompt.token_ids)} tokens; the model takes {limit}.")
    violations.refuse()


def _asked(conversation: Conversation) -> str:
    content = conversation.messages[-1].get("content")
    parts = content if isinstance(content, (list, tuple)) else [{"text": content}]
    text = "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
    return text if len(text) <= ASKED else text[: ASKED - 3] + "..."
