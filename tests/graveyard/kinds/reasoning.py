"""Reasoning and history."""

from __future__ import annotations

from typing import Final

from tests.graveyard.case import Case, assistant, call, chat, jsonl, rows, tool, trained, user

_TWO: Final = (
    user("2+2?"),
    assistant("4", reasoning_content="easy"),
    user("Sure?"),
    assistant("Yes.", reasoning_content="again"),
)
_FIRST: Final = "<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵⟦<think>↵easy↵</think>↵↵4<|im_end|>⟧↵"
_SECOND: Final = (
    "<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵4<|im_end|>↵<|im_start|>user↵Sure?<|im_end|>↵"
    "<|im_start|>assistant↵⟦<think>↵again↵</think>↵↵Yes.<|im_end|>⟧↵"
)

CASES: Final = (
    Case(
        "THUDM/slime#330",
        "Each message was rendered by itself, and its reasoning got lost on the way.",
        "The whole conversation is rendered; the reasoning is trained.",
        chat(user("2+2?"), assistant("4", reasoning_content="easy")),
        "THINKING",
        rows(_FIRST),
    ),
    Case(
        "axon-rl/gem#44",
        "The template removes reasoning from earlier replies, so what the model said was not what it was trained on.",
        "Two examples, each as the model sees and says that turn; in the first the reasoning is there.",
        chat(
            user("2+2?"),
            assistant("<think>\neasy\n</think>\n\n4"),
            user("Sure?"),
            assistant("<think>\nagain\n</think>\n\nYes."),
        ),
        "THINKING",
        rows(_FIRST, _SECOND),
        also=("huggingface/open-r1#604",),
        lints=("history_dropped",),
    ),
    Case(
        "verl-project/verl#3477",
        "Messages joined one by one got an empty thought in every reply and lost headers of users.",
        "Texts are the template's own: a thought only where the template shows one.",
        chat(user("2+2?"), assistant("4"), user("Sure?"), assistant("Yes.")),
        "THINKING",
        rows(
            "<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵⟦<think>↵↵</think>↵↵4<|im_end|>⟧↵",
            "<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵4<|im_end|>↵<|im_start|>user↵Sure?<|im_end|>↵"
            "<|im_start|>assistant↵⟦<think>↵↵</think>↵↵Yes.<|im_end|>⟧↵",
        ),
    ),
    Case(
        "OpenRLHF/OpenRLHF#1227",
        "Ranges measured on shorter renders drifted into the user's words once the template dropped reasoning.",
        "Ranges are measured on the text that is trained.",
        chat(*_TWO),
        "THINKING",
        rows(_FIRST, _SECOND),
        also=("PrimeIntellect-ai/prime-rl#2968",),
    ),
    Case(
        "THUDM/slime#1742",
        "For the last reply only, masks brought back reasoning of earlier turns that the template hides.",
        "on_unextendable=last trains the last turn on the history as the template shows it.",
        chat(*_TWO),
        "THINKING",
        rows(_SECOND),
        options={"on_unextendable": "last"},
    ),
    Case(
        "huggingface/trl#6361",
        "A sampled reply that holds only `</think>` got an empty thought before it, and its own was left outside.",
        "With Qwen3.5's template the reply is trained as it was sampled: the prompt opened the thought.",
        chat(user("2+2?"), assistant("2+2 equals 4.\n</think>\n\nFour.")),
        "hfjs__Qwen_Qwen3.5-4B",
        trained("2+2 equals 4.\n</think>\n\nFour.<|im_end|>", shows=("assistant\n<think>\n2+2",)),
        also=("huggingface/trl#6363",),
    ),
    Case(
        "thinking-machines-lab/tinker-cookbook#885",
        "With thinking disabled, a turn that reasons trained reasoning on a prompt that forbids it.",
        "A warning says that the text does not begin with the prompt that the model would get.",
        chat(user("2+2?"), assistant("4", reasoning_content="easy")),
        "THINKING",
        trained("<think>\neasy\n</think>\n\n4<|im_end|>", warns=("messages[1]",)),
        options={"chat_template_kwargs": {"enable_thinking": False}},
    ),
    Case(
        "thinking-machines-lab/tinker-cookbook#837",
        "Reasoning of earlier turns was dropped although the template has an option to keep it.",
        "chat_template_kwargs reach the template; then nothing is dropped and one example holds both turns.",
        chat(*_TWO),
        "THINKING",
        rows(
            "<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵⟦<think>↵easy↵</think>↵↵4<|im_end|>⟧↵"
            "<|im_start|>user↵Sure?<|im_end|>↵<|im_start|>assistant↵⟦<think>↵again↵</think>↵↵Yes.<|im_end|>⟧↵"
        ),
        options={"chat_template_kwargs": {"keep_thinking": True}},
    ),
    Case(
        "axolotl-ai-cloud/axolotl#3114",
        "Harmony hides the reasoning of all but the last turn, which broke masks; data had to be restructured.",
        "Two examples, each with the channels and the end that the model says in that turn.",
        chat(user("2+2?"), assistant("4", thinking="easy"), user("Sure?"), assistant("Yes.", thinking="again")),
        "CHANNELS",
        rows(
            "<|start|>user<|message|>2+2?<|end|><|start|>assistant⟦<|channel|>analysis<|message|>easy<|end|>"
            "<|start|>assistant<|channel|>final<|message|>4<|return|>⟧",
            "<|start|>user<|message|>2+2?<|end|><|start|>assistant<|channel|>final<|message|>4<|end|>"
            "<|start|>user<|message|>Sure?<|end|><|start|>assistant⟦<|channel|>analysis<|message|>again<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Yes.<|return|>⟧",
        ),
    ),
    Case(
        "NVIDIA-NeMo/Megatron-Bridge#5389",
        "For gpt-oss no mask could be made; one that begins with the final channel would leave reasoning out.",
        "With gpt-oss's template the turn is trained from its first channel to `<|return|>`.",
        chat(user("2+2?"), assistant("4", thinking="easy")),
        "trl__gptoss",
        trained(
            "<|channel|>analysis<|message|>easy<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
        ),
    ),
    Case(
        "NVIDIA-NeMo/Nemotron#274",
        "Rows whose reasoning is null or white space were counted as errors and dropped.",
        "They are trained as the template renders them.",
        chat(
            user("2+2?"),
            assistant("4", reasoning_content="\n\n"),
            user("Sure?"),
            assistant("Yes.", reasoning_content=None),
        ),
        "THINKING",
        rows(
            "<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵⟦<think>↵↵</think>↵↵4<|im_end|>⟧↵",
            "<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵4<|im_end|>↵<|im_start|>user↵Sure?<|im_end|>↵"
            "<|im_start|>assistant↵⟦<think>↵↵</think>↵↵Yes.<|im_end|>⟧↵",
        ),
    ),
    Case(
        "NVIDIA-NeMo/Automodel#2348",
        "The conversion from ShareGPT kept the text and the calls of a turn, and dropped its reasoning.",
        "Further keys of a turn are taken along.",
        jsonl(
            {
                "conversations": [
                    {"from": "human", "value": "2+2?"},
                    {"from": "gpt", "value": "4", "reasoning_content": "easy"},
                ]
            }
        ),
        "THINKING",
        rows(_FIRST),
    ),
    Case(
        "axolotl-ai-cloud/axolotl#2591",
        "Data sets name their reasoning in many ways, and templates read one of them.",
        "Reasoning under `thinking` is given to templates that read reasoning_content.",
        chat(user("2+2?"), assistant("4", thinking="easy")),
        "THINKING",
        rows(_FIRST),
    ),
    Case(
        "hiyouga/LlamaFactory#10773",
        "Reasoning was removed by fixed positions, also in the chain of tool steps where Qwen3 keeps it.",
        "With Qwen3's template both steps of the chain keep and train their reasoning.",
        chat(
            user("Time?"),
            assistant("", reasoning_content="look", tool_calls=[call("now", {})]),
            tool("12"),
            assistant("Noon.", reasoning_content="so"),
        ),
        "llamacpp__Qwen-Qwen3-0.6B",
        trained(
            '<think>\nlook\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>',
            "<think>\nso\n</think>\n\nNoon.<|im_end|>",
        ),
    ),
    Case(
        "hiyouga/LlamaFactory#9218",
        "Data with thoughts of its own got an empty one in front of them.",
        "With Qwen3's template the thought is trained once.",
        chat(user("2+2?"), assistant("<think>\neasy\n</think>\n\n4")),
        "llamacpp__Qwen-Qwen3-0.6B",
        trained("<think>\neasy\n</think>\n\n4<|im_end|>", never=("<think>\n\n</think>",)),
    ),
    Case(
        "hiyouga/LlamaFactory#8832",
        "A model that never thinks learned empty thoughts from its thinking siblings' template.",
        "With the model's own template no thought is trained.",
        chat(user("2+2?"), assistant("4")),
        "trl__qwen3_instruct_2507",
        rows("<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵⟦4<|im_end|>⟧↵"),
        also=("unslothai/unsloth#3383", "QwenLM/Qwen3#1618", "hiyouga/LlamaFactory#9392"),
    ),
    Case(
        "huggingface/open-r1#585",
        "DeepSeek's template cuts `<think>` out of the reply, so the reasoning in the data was not trained.",
        "Reasoning that the template cuts off is warned of by its place; a lost part of the answer would be refused.",
        chat(user("2+2?"), assistant("<think>\neasy\n</think>\n\n4")),
        "hfjs__deepseek-ai_DeepSeek-R1",
        trained("\n\n4<｜end▁of▁sentence｜>", warns=("messages[1]",)),  # noqa: RUF001
        special_tokens={"bos_token": "<s>", "eos_token": "<｜end▁of▁sentence｜>"},  # noqa: RUF001
    ),
    Case(
        "verl-project/verl#7378",
        "Qwen3.5's template refuses a system message by itself, so data encoded one message at a time failed.",
        "The conversation is rendered as a whole.",
        chat({"role": "system", "content": "Be kind."}, user("2+2?"), assistant("4", reasoning_content="easy")),
        "hfjs__Qwen_Qwen3.5-4B",
        trained("easy\n</think>\n\n4<|im_end|>", shows=("<|im_start|>system\nBe kind.<|im_end|>",)),
        also=("verl-project/verl#7322",),
    ),
)
