"""Load a trained adapter in PEFT, measure it on rows, merge it into its model. Needs torch, transformers, peft.

    turnloom adapter download JOB --to my-adapter
    turnloom dataset download DS --to rows.jsonl           # the test dataset of the job
    python examples/adapter.py MODEL my-adapter --rows rows.jsonl --merge my-model

Prints one JSON document: test NLL (nats per trained token) of the base model, with the adapter, and of the merged model
as it was read back from its folder. The second is the last test NLL of the job.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def nll(model: torch.nn.Module, rows: Path) -> float:
    """Sum of -logprob x weight over all targets, by the sum of weights. Target t is token t + 1."""
    total = weights = 0.0
    model.eval()
    for row in read(rows):
        tokens = torch.tensor([row["token_ids"]], device=model.device)
        weight = torch.tensor(row["target_weights"], dtype=torch.float64)
        with torch.no_grad():
            logits = model(input_ids=tokens[:, :-1]).logits[0].double().cpu()
        logprobs = torch.log_softmax(logits, -1).gather(1, tokens[0, 1:, None].cpu())[:, 0]
        total -= float((logprobs * weight).sum())
        weights += float(weight.sum())
    return total / weights


def read(rows: Path) -> Iterator[dict[str, list[float]]]:
    """Lines of `turnloom dataset download`."""
    with rows.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Loads an adapter in PEFT, measures and merges it.")
    parser.add_argument("model", help="folder or hub name of the base model")
    parser.add_argument("adapter", help="folder of `turnloom adapter download`")
    parser.add_argument("--rows", type=Path, help="JSON lines of `turnloom dataset download`")
    parser.add_argument("--merge", type=Path, help="folder for the merged model")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16")
    asked = parser.parse_args()
    dtype = getattr(torch, asked.dtype)
    found: dict[str, float | str] = {}
    base = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype)
    if asked.rows:
        found["base_nll"] = nll(base, asked.rows)
    model = PeftModel.from_pretrained(base, asked.adapter)
    if asked.rows:
        found["adapter_nll"] = nll(model, asked.rows)
    if asked.merge:
        model.merge_and_unload().save_pretrained(asked.merge)
        AutoTokenizer.from_pretrained(asked.model).save_pretrained(asked.merge)
        found["merged"] = str(asked.merge)
        if asked.rows:
            found["merged_nll"] = nll(AutoModelForCausalLM.from_pretrained(asked.merge, dtype=dtype), asked.rows)
    print(json.dumps(found))  # noqa: T201  # a script


if __name__ == "__main__":
    main()
