"""Where a reply begins."""

from __future__ import annotations

from typing import Final

from tests.graveyard.case import Case, assistant, chat, jsonl, rows, system, trained, user

_FOUR: Final = (user("MASKED"), assistant("NOT MASKED"))

CASES: Final = (
    Case(
        "verl-project/verl#3287",
        "The mask was sliced one place too late, and the first token of every reply was not learned.",
        "Weights belong to targets: the last token of the prompt predicts the first of the reply, with weight.",
        chat(user("Prompt"), assistant("Response")),
        "CHATML",
        rows("<|im_start|>user↵Prompt<|im_end|>↵<|im_start|>assistant↵⟦Response<|im_end|>⟧↵"),
        also=("pytorch/torchtitan#2755", "NVIDIA-NeMo/Speech#6409", "NVIDIA-NeMo/Automodel#272"),
    ),
    Case(
        "OpenRLHF/OpenRLHF#973",
        "Single-turn rows lost the first token of the answer by a shift in two places.",
        "The shift is made in one place; the answer is trained from its first token on.",
        jsonl({"prompt": "Hello", "completion": ", World !"}),
        "CHATML",
        rows("<|im_start|>user↵Hello<|im_end|>↵<|im_start|>assistant↵⟦, World !<|im_end|>⟧↵"),
    ),
    Case(
        "tloen/alpaca-lora#306",
        "With eos added to the prompt's own tokens, the first token of the response was masked.",
        "The prompt is never encoded with an end; the response is trained whole.",
        jsonl({"instruction": "Name an element.", "input": "", "output": "As I know: iron."}),
        "ALPACA",
        rows("### Instruction:↵Name an element.↵↵### Response:↵⟦As I know: iron.</s>⟧↵↵"),
    ),
    Case(
        "huggingface/trl#4147",
        "Prompt-completion rows of messages were split without the generation prompt, so the role header was trained.",
        "The header is prompt.",
        jsonl({"prompt": [system("Be brief."), user("Hi")], "completion": [assistant("Hello")]}),
        "CHATML",
        rows(
            "<|im_start|>system↵Be brief.<|im_end|>↵<|im_start|>user↵Hi<|im_end|>↵"
            "<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵"
        ),
        also=("huggingface/trl#4201", "huggingface/trl#6105"),
    ),
    Case(
        "ml-explore/mlx-lm#584",
        "The loss was taken over `<start_of_turn>model` as well.",
        "The header of the model's role is prompt.",
        chat(user("Hi"), assistant("Hello")),
        "MODEL_ROLE",
        rows("<|turn|>user↵Hi<|end|>↵<|turn|>model↵⟦Hello<|end|>⟧↵"),
        also=("NVIDIA-NeMo/Automodel#3353",),
    ),
    Case(
        "PrimeIntellect-ai/prime-rl#2492",
        "Seven tokens a turn that the template always prints were trained, and made the loss look better.",
        "Neither headers nor the end of another's turn carry weight.",
        chat(system("Be brief."), user("Hi"), assistant("Hello")),
        "HEADERS",
        rows(
            "<s><|start|>system<|message|>↵↵Be brief.<|end|><|start|>user<|message|>↵↵Hi<|end|>"
            "<|start|>assistant<|message|>↵↵⟦Hello<|end|>⟧"
        ),
    ),
    Case(
        "NVIDIA-NeMo/Automodel#3738",
        "An empty thought that the template inserts was trained with thinking switched off.",
        "With enable_thinking=false the empty thought is the generation prompt's, so it is prompt.",
        chat(user("Hi"), assistant("Hello")),
        "THINKING",
        rows(
            "<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵<think>↵↵</think>↵↵⟦Hello<|im_end|>⟧↵",
        ),
        also=("NVIDIA-NeMo/Automodel#3739", "snowflakedb/ArcticTraining#286"),
        options={"chat_template_kwargs": {"enable_thinking": False}},
    ),
    Case(
        "thinking-machines-lab/tinker-cookbook#864",
        "`<think>`, which the generation prompt always supplies, was trained.",
        "The reply begins after the generation prompt, so `<think>` is prompt and the reasoning is trained.",
        chat(user("2+2?"), assistant("4", reasoning_content="easy")),
        "PREFILL",
        rows("<|im_start|>user↵2+2?<|im_end|>↵<|im_start|>assistant↵<think>↵⟦easy↵</think>↵↵4<|im_end|>⟧↵"),
        also=("thinking-machines-lab/tinker-cookbook#863", "thinking-machines-lab/tinker-cookbook#873"),
    ),
    Case(
        "huggingface/trl#5213",
        "The prompt's last newline and the reply's first became one token, so prompt and text did not agree.",
        "A token boundary stands where the prompt ends, as the sampler has it.",
        chat(user("This is my prompt."), assistant("This is my response.")),
        "PREFILL",
        rows(
            "<|im_start|>user↵This is my prompt.<|im_end|>↵<|im_start|>assistant↵<think>↵"
            "⟦↵</think>↵↵This is my response.<|im_end|>⟧↵"
        ),
    ),
    Case(
        "ml-explore/mlx-lm#1355",
        "The generation prompt holds more than the turns show, so the mask lay beyond the text and the loss was NaN.",
        "The longest beginning that both share is the prompt; a warning says that they differ.",
        chat(user("Hi"), assistant("Hello")),
        "LONG_PROMPT",
        rows("<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵", warns=("messages[1]",)),
    ),
    Case(
        "PrimeIntellect-ai/prime-rl#1103",
        "A reply that begins with a newline broke masks, until contents were stripped.",
        "The newline is the reply's: it is kept, trained, and a token of its own.",
        chat(user("Code?"), assistant("\n\nx = 1")),
        "CHATML",
        rows("<|im_start|>user↵Code?<|im_end|>↵<|im_start|>assistant↵⟦↵↵x = 1<|im_end|>⟧↵"),
    ),
    Case(
        "pytorch/torchtitan#4504",
        "Where a merge spans prompt and reply, the mask covered the wrong tokens without a word.",
        "The same on Qwen3's own tokenizer: `\\n` ends the prompt, `\\n\\n` begins the reply.",
        chat(user("Code?"), assistant("\n\nx = 1")),
        "CHATML",
        rows("<|im_start|>user↵Code?<|im_end|>↵<|im_start|>assistant↵⟦↵↵x = 1<|im_end|>⟧↵"),
        tokenizer="qwen3",
        special_tokens={"eos_token": "<|im_end|>"},
    ),
    Case(
        "NVIDIA-NeMo/RL#2844",
        "Replies encoded by themselves got a leading space from SentencePiece's dummy prefix.",
        "No piece gets a prefix that the text does not have.",
        chat(user("Hi"), assistant("The end"), user("Bye"), assistant("The start")),
        "HEADERS",
        rows(
            "<s><|start|>user<|message|>↵↵Hi<|end|><|start|>assistant<|message|>↵↵⟦The end<|end|>⟧"
            "<|start|>user<|message|>↵↵Bye<|end|><|start|>assistant<|message|>↵↵⟦The start<|end|>⟧"
        ),
        tokenizer="sentence_piece",
    ),
    Case(
        "huggingface/trl#1920",
        "A marker with a space after its colon was never found, since the space belongs to the next token.",
        "The space before the answer is the reply's first character.",
        jsonl({"prompt": "Sun or moon?", "completion": "Sun"}),
        "VICUNA",
        trained(" Sun</s>"),
    ),
    Case(
        "unslothai/unsloth#1262",
        "On Mistral's format both sides were masked: `[/INST]` was looked for with a space that is no token there.",
        "The reply begins where the user's close ends, space included.",
        chat(user("Hello, how are you?"), assistant("I am fine."), user("Good."), assistant("Yes.")),
        "INSTRUCT",
        rows("<s>[INST] Hello, how are you? [/INST]⟦ I am fine.</s>⟧[INST] Good. [/INST]⟦ Yes.</s>⟧"),
        also=("unslothai/unsloth#1290", "unslothai/unsloth#1229"),
    ),
    Case(
        "axolotl-ai-cloud/axolotl#2089",
        "From the seventh message on, turns of the same words were no longer found, and everything was masked.",
        "Turns are told apart by where their text comes from, not by what it says.",
        chat(*_FOUR, *_FOUR, *_FOUR, *_FOUR),
        "INSTRUCT",
        rows("<s>" + "[INST] MASKED [/INST]⟦ NOT MASKED</s>⟧" * 4),
    ),
    Case(
        "lm-sys/FastChat#2494",
        "From the second round on, the first token of each reply was masked by a length that was off by one.",
        "No lengths of separately encoded pieces are added up.",
        chat(user("Why?"), assistant("Pressure."), user("Really?"), assistant("It is true.")),
        "VICUNA",
        trained(" Pressure.</s>", " It is true.</s>"),
        also=("lm-sys/FastChat#500", "lm-sys/FastChat#1289", "haotian-liu/LLaVA#661"),
    ),
    Case(
        "lm-sys/FastChat#183",
        "The preamble before the first turn was not counted, so every mask lay too far left.",
        "The preamble is prompt; masks lie on the replies.",
        chat(user("Hi"), assistant("Hello")),
        "VICUNA",
        rows("A chat between a curious user and an assistant. USER: Hi ASSISTANT:⟦ Hello</s>⟧"),
    ),
    Case(
        "thinking-machines-lab/tinker-cookbook#176",
        "With thinking disabled the empty thought was left unfinished in training texts.",
        "Text and prompt are the template's own: the thought is closed before the reply.",
        chat(user("What is 2+2?"), assistant("The answer is 4.")),
        "llamacpp__Qwen-Qwen3-0.6B",
        trained("The answer is 4.<|im_end|>", shows=("<|im_start|>assistant\n<think>\n\n</think>\n\nThe answer",)),
        options={"chat_template_kwargs": {"enable_thinking": False}},
    ),
)
