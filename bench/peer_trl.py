"""TRL's own preparation of a dataset, as a contender of bench.preprocess. Imported only where TRL is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import datasets
import transformers
import trl

from turnloom.masks.domain.conversation import Conversation


def prepare(tokenizer: transformers.PreTrainedTokenizerFast, template: str) -> Callable[[Sequence[Conversation]], int]:
    """SFTTrainer._prepare_dataset with assistant_only_loss, without a trainer's model around it."""
    tokenizer.chat_template = template
    datasets.disable_caching()
    datasets.disable_progress_bars()
    settings = SimpleNamespace(
        dataset_num_proc=None,
        dataset_text_field="text",
        assistant_only_loss=True,
        max_length=None,
        truncation_mode="keep_start",
        packing=False,
        use_liger_kernel=False,
        shuffle_dataset=False,
        seed=0,
    )
    trainer = SimpleNamespace(_tokenizer=tokenizer, chat_template=template, completion_only_loss=False)

    def work(conversations: Sequence[Conversation]) -> int:
        rows = datasets.Dataset.from_list([{"messages": list(one.messages)} for one in conversations])
        ready = trl.SFTTrainer._prepare_dataset(trainer, rows, tokenizer, settings, False, None, "train")
        return sum(sum(label != -100 for label in labels) for labels in ready["labels"])

    return work
