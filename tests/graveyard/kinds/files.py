"""Formats, files and columns."""

from __future__ import annotations

from typing import Final

from tests.graveyard.case import (
    Case,
    assistant,
    call,
    jsonl,
    parquet,
    refused,
    rows,
    schema,
    system,
    trained,
    user,
)

_HI: Final = "<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵"

CASES: Final = (
    Case(
        "hiyouga/LlamaFactory#4683",
        "Earlier rounds in `history` seemed not to reach the training texts.",
        "They come before the instruction, as messages; their answers are trained like any reply.",
        jsonl({"instruction": "Bye", "input": "", "output": "Ciao", "history": [["Hi", "Hello"]]}),
        "CHATML",
        rows(_HI + "<|im_start|>user↵Bye<|im_end|>↵<|im_start|>assistant↵⟦Ciao<|im_end|>⟧↵"),
    ),
    Case(
        "hiyouga/LlamaFactory#2464",
        "A system prompt among ShareGPT's turns crashed the conversion.",
        "It is the system message.",
        jsonl(
            {
                "conversations": [
                    {"from": "system", "value": "Be kind."},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ]
            }
        ),
        "CHATML",
        rows("<|im_start|>system↵Be kind.<|im_end|>↵" + _HI),
    ),
    Case(
        "axolotl-ai-cloud/axolotl#752",
        "ShareGPT's turns from `assistant` in place of `gpt` failed.",
        "Both names, and `user` beside `human`, are known.",
        jsonl({"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}]}),
        "CHATML",
        rows(_HI),
        also=("hiyouga/LlamaFactory#6878",),
    ),
    Case(
        "hiyouga/LlamaFactory#7577",
        "Rows of messages were taken for Alpaca's, and failed with a missing `instruction`.",
        "The format is told by the columns that a row fills.",
        jsonl({"instruction": None, "output": None, "messages": [user("Hi"), assistant("Hello")]}),
        "CHATML",
        rows(_HI),
        also=("hiyouga/LlamaFactory#8947", "hiyouga/LlamaFactory#8323"),
    ),
    Case(
        "ConardLi/easy-dataset#549",
        "Alpaca's `input` was left out of the question.",
        "It follows the instruction after an empty line.",
        jsonl({"instruction": "Translate.", "input": "Hallo", "output": "Hello"}),
        "CHATML",
        rows("<|im_start|>user↵Translate.↵↵Hallo<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵"),
        also=("tloen/alpaca-lora#362",),
    ),
    Case(
        "johnsmith0031/alpaca_lora_4bit#149",
        "Rows without `input` failed, or showed an empty heading.",
        "Absent, null or empty, it leaves nothing in the text.",
        parquet({"instruction": "Hi", "input": None, "output": "Hello"}),
        "CHATML",
        rows(_HI),
        also=("tloen/alpaca-lora#6",),
    ),
    Case(
        "tloen/alpaca-lora#55",
        "A row without its output stopped the run with a KeyError.",
        "The row is refused by its place and column; skipping bad rows keeps the rest.",
        jsonl({"instruction": "Hi", "input": "", "output": "Hello"}, {"instruction": "Hi", "input": ""}, row=1),
        "CHATML",
        refused("output"),
    ),
    Case(
        "huggingface/trl#3468",
        "Rows of plain prompt and completion were joined without the chat template, and models repeated themselves.",
        "They are a user's and an assistant's message, rendered by the template.",
        jsonl({"prompt": "Hi", "completion": "Hello"}),
        "CHATML",
        rows(_HI),
        also=("huggingface/trl#3140",),
    ),
    Case(
        "NVIDIA-NeMo/Megatron-Bridge#5742",
        "A null `value` in ShareGPT's data was trained as the word None.",
        "Null is empty text to the template.",
        jsonl({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": None}]}),
        "CHATML",
        rows("<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦<|im_end|>⟧↵"),
    ),
    Case(
        "huggingface/datasets#7169",
        "JSON lines in which a column appears later failed to load.",
        "Every line is read by itself.",
        jsonl(
            {"messages": [user("Hi"), assistant("Hello")]},
            {
                "id": 7,
                "tools": [schema("now")],
                "messages": [user("t?"), assistant("", tool_calls=[call("now", {})])],
            },
            row=1,
        ),
        "TOOLS",
        trained('<tool_call>{"name": "now", "arguments": {}}</tool_call><|im_end|>', shows=('"name": "now"',)),
    ),
    Case(
        "huggingface/trl#5311",
        "Whether tools are objects or JSON text of them depended on the page that one read.",
        "A column of JSON text is read like a list.",
        jsonl(
            {
                "messages": [user("t?"), assistant("", tool_calls=[call("now", {})])],
                "tools": '[{"type": "function", "function": {"name": "now"}}]',
            }
        ),
        "TOOLS",
        trained(
            '<tool_call>{"name": "now", "arguments": {}}</tool_call><|im_end|>',
            shows=('<|im_start|>system\n{"type": "function", "function": {"name": "now"}}\n<|im_end|>',),
        ),
    ),
    Case(
        "Kiln-AI/Kiln#95",
        "Exports escaped every letter that is not ASCII, and another number of tokens was trained.",
        "Escapes of JSON are read as the letters they stand for.",
        jsonl({"messages": [user("Ort?"), assistant("Köln, 東京")]}),
        "CHATML",
        rows("<|im_start|>user↵Ort?<|im_end|>↵<|im_start|>assistant↵⟦Köln, 東京<|im_end|>⟧↵"),
    ),
    Case(
        "verl-project/verl#6096",
        "A row that is a whole request to an API (model, messages, tools, tool_choice) could not be used.",
        "Messages and tools are read; what says nothing of the text is left.",
        jsonl(
            {
                "model": "m",
                "messages": [system("Be kind."), user("t?"), assistant("", tool_calls=[call("now", {})])],
                "tools": [schema("now")],
                "tool_choice": "auto",
            }
        ),
        "TOOLS",
        trained('<tool_call>{"name": "now", "arguments": {}}</tool_call><|im_end|>', shows=('"name": "now"',)),
    ),
)
