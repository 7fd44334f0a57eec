"""NLL by transformers and PEFT alone, for comparison. Runs in the TuFT environment; knows nothing of this project.

PYTHON reference_nll.py MODEL, JSON in and out:
    {"adapter": folder or null, "rows": [{"tokens": [...], "weights": [...]}]} -> {"nll": [...]}
"""

from __future__ import annotations

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    order = json.load(sys.stdin)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    if order["adapter"]:
        model = PeftModel.from_pretrained(model, order["adapter"])
    model.eval()
    nll: list[float] = []
    for row in order["rows"]:
        tokens = torch.tensor([row["tokens"]])
        with torch.no_grad():
            logits = model(input_ids=tokens[:, :-1]).logits[0].double()
        logprobs = torch.log_softmax(logits, -1).gather(1, tokens[0, 1:, None])[:, 0]
        nll.append(float(-(logprobs * torch.tensor(row["weights"]).double()).sum()))
    json.dump({"nll": nll}, sys.stdout)


main()
