"""Keys of other tools for what is trained."""

from __future__ import annotations

from typing import Final

from tests.graveyard.case import Case, assistant, call, chat, jsonl, rows, tool, trained, user

_WITHOUT_BAD: Final = (
    "<|im_start|>user↵a<|im_end|>↵<|im_start|>assistant↵0⟦bad<|im_end|>⟧↵"
    "<|im_start|>user↵b<|im_end|>↵<|im_start|>assistant↵⟦good<|im_end|>⟧↵"
)

CASES: Final = (
    Case(
        "verl-project/verl#5316",
        "There was no key that keeps a reply as context only; `loss_mask` of a message is the one that was proposed.",
        "loss_mask is read as what it means.",
        chat(user("a"), assistant("bad", loss_mask=0), user("b"), assistant("good", loss_mask=1)),
        "CHATML",
        rows(_WITHOUT_BAD),
        also=("baidu-baige/LoongForge#89", "verl-project/verl#3507"),
    ),
    Case(
        "hiyouga/LlamaFactory#10471",
        "`loss: false` at a turn of ShareGPT's data is how people mark replies that are not to be learned.",
        "loss is read as what it means.",
        jsonl(
            {
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "gpt", "value": "bad", "loss": False},
                    {"from": "human", "value": "b"},
                    {"from": "gpt", "value": "good", "loss": True},
                ]
            }
        ),
        "CHATML",
        rows(_WITHOUT_BAD),
        also=("hiyouga/LlamaFactory#2305", "modelscope/ms-swift#5215"),
    ),
    Case(
        "modelscope/ms-swift#9263",
        "`loss: false` was obeyed at replies, but not at tool calls.",
        "What holds for a reply holds for one that only calls.",
        chat(
            user("t?"),
            assistant("", tool_calls=[call("now", {})], loss=False),
            tool("12"),
            assistant("Noon."),
        ),
        "TOOLS",
        trained("Noon.<|im_end|>"),
    ),
    Case(
        "verl-project/verl#5472",
        "`trainable: false` was the other key that was proposed, and was not read either.",
        "A message with trainable=false is not trained, whatever train_on says.",
        chat(user("a"), assistant("bad", trainable=False), user("b"), assistant("good")),
        "CHATML",
        rows(_WITHOUT_BAD),
    ),
    Case(
        "hiyouga/LlamaFactory#9630",
        "A list `loss_mask` beside the turns lost its alignment where results of tools were merged.",
        "Such a list has an entry for each message as it was sent; another length is refused.",
        jsonl(
            {
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "gpt", "value": "bad"},
                    {"from": "human", "value": "b"},
                    {"from": "gpt", "value": "good"},
                ],
                "loss_mask": [0, 0, 0, 1],
            }
        ),
        "CHATML",
        rows(_WITHOUT_BAD),
    ),
)
