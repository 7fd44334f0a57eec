"""Lengths and cuts."""

from __future__ import annotations

from typing import Final

from tests.graveyard.case import Case, assistant, chat, refused, rows, system, trained, user

_LONG: Final = "Please answer this question: how many are two and two? " * 3

CASES: Final = (
    Case(
        "huggingface/trl#6668",
        "Where the limit cut every trained token, the loss was reported as 0.0 and the run as a success.",
        "Refused: all trained tokens lie in what max_length cuts.",
        chat(user(_LONG), assistant("Four.")),
        "CHATML",
        refused("NothingToTrain", "max_length=32", "raise it"),
        also=(
            "huggingface/trl#6320",
            "huggingface/trl#5826",
            "huggingface/trl#6025",
            "huggingface/trl#4052",
            "huggingface/trl#1053",
            "bytedance/UniVR#13",
        ),
        options={"max_length": 32},
    ),
    Case(
        "MakazhanAlpamys/Soup#532",
        "A row of which one trained token was left and a row of which none was left ended in a model of NaNs.",
        "One token that is left is trained, and the cut is reported.",
        chat(user("Hi"), assistant("Four.")),
        "HEADERS",
        trained("F"),
        options={"max_length": 15},
    ),
    Case(
        "NVIDIA-NeMo/Automodel#2366",
        "Cutting long dialogues from the right dropped the last answer, which is what they were for.",
        "drop_turns leaves out whole oldest turns after the system prompt, and keeps the last.",
        chat(system("Be kind."), user(_LONG), assistant("Four."), user("Sure?"), assistant("Yes.")),
        "CHATML",
        rows(
            "<|im_start|>system↵Be kind.<|im_end|>↵<|im_start|>user↵Sure?<|im_end|>↵"
            "<|im_start|>assistant↵⟦Yes.<|im_end|>⟧↵"
        ),
        options={"max_length": 48, "truncation": "drop_turns"},
    ),
    Case(
        "huggingface/trl#3646",
        "A cut prompt lost its first control token, so what was left was no conversation.",
        "drop_turns renders what is left anew: it begins with a header.",
        chat(user(_LONG), assistant("Four."), user("Sure?"), assistant("Yes.")),
        "CHATML",
        rows("<|im_start|>user↵Sure?<|im_end|>↵<|im_start|>assistant↵⟦Yes.<|im_end|>⟧↵"),
        options={"max_length": 32, "truncation": "drop_turns"},
    ),
    Case(
        "QwenLM/Qwen3-ASR#70",
        "With padding on the left the masked prefix was counted from the padding, so part of the prompt was trained.",
        "Rows are never padded: a long neighbour in the batch changes nothing (tried in every case).",
        chat(user("Hi"), assistant("Hello")),
        "CHATML",
        rows("<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵"),
        also=("QwenLM/Qwen3-ASR#212", "NVIDIA-NeMo/Automodel#2314"),
    ),
)
