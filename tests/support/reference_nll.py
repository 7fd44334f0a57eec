"""NLL by transformers and PEFT alone, for comparison. Runs in the TuFT environment; knows nothing of this project.

PYTHON reference_nll.py MODEL, JSON in and out:
    [{"adapter": folder or null, "rows": [{"tokens": [...], "weights": [...]}]}] -> [[nats of each row]]

All cases in one process: importing takes longer than computing.
"""

from __future__ import annotations

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def nll(adapter: str | None, rows: list[dict[str, list[float]]]) -> list[float]:
    """Nats of each row, by the model in a folder and an adapter on top of it."""
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    found: list[float] = []
    for row in rows:
        tokens = torch.tensor([row["tokens"]])
        with torch.no_grad():
            logits = model(input_ids=tokens[:, :-1]).logits[0].double()
        logprobs = torch.log_softmax(logits, -1).gather(1, tokens[0, 1:, None])[:, 0]
        found.append(float(-(logprobs * torch.tensor(row["weights"]).double()).sum()))
    return found


torch.set_num_threads(1)
json.dump([nll(**case) for case in json.load(sys.stdin)], sys.stdout)
