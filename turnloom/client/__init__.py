"""The client: one connection to a Turnloom server, with its nouns as resources.

    with TurnloomClient("127.0.0.1:50051") as client:
        dataset = client.datasets.create(read("chats.jsonl"), model="qwen3", max_length=1024)
        job = client.jobs.create(model="qwen3", training_dataset=dataset.id, lora_rank=16)
        for update in client.jobs.watch(job.id): ...

Calls take keyword arguments and return the contract's messages and numpy views. Every call has a deadline and raises
the classes of turnloom.errors.
"""

from turnloom.client.client import ADDRESS, Preprocessed, TurnloomClient
from turnloom.client.datasets import MADE
from turnloom.client.jobs import TERMINAL

__all__ = ["ADDRESS", "MADE", "TERMINAL", "Preprocessed", "TurnloomClient"]
