"""The end of a turn."""

from __future__ import annotations

from typing import Final

from tests.graveyard.case import Case, assistant, call, chat, jsonl, refused, rows, tool, trained, user

CASES: Final = (
    Case(
        "huggingface/trl#976",
        "With pad_token set to eos_token the collator masked every eos, so models never stopped.",
        "Masks follow the text, not ids: the end of each reply is trained whatever the padding token is.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "VICUNA",
        rows(
            "A chat between a curious user and an assistant. USER: Hi ASSISTANT:⟦ Hello</s>⟧"
            " USER: Bye ASSISTANT:⟦ Ciao</s>⟧"
        ),
        also=("huggingface/blog#1302", "huggingface/trl#992", "huggingface/trl#456"),
        special_tokens={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},
    ),
    Case(
        "huggingface/trl#1191",
        "The marker that was searched for held the padding token, was never found, and the whole data set was masked.",
        "No marker is searched for; the reply begins after the generation prompt.",
        chat(user("Hi"), assistant("Hello")),
        "COLON_SPACE",
        rows("Correct User: Hi<|end|>Correct Assistant:⟦ Hello<|end|>⟧"),
        special_tokens={"eos_token": "<|end|>", "pad_token": "<|end|>"},
    ),
    Case(
        "axolotl-ai-cloud/axolotl#3754",
        "Gemma's turns end with another token than eos_token, so that end was never trained.",
        "Trains the token that the template prints after a turn, whatever eos_token is.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "MODEL_ROLE",
        rows(
            "<|turn|>user↵Hi<|end|>↵<|turn|>model↵⟦Hello<|end|>⟧↵<|turn|>user↵Bye<|end|>↵<|turn|>model↵⟦Ciao<|end|>⟧↵"
        ),
        also=("axolotl-ai-cloud/axolotl#3756", "axolotl-ai-cloud/axolotl#3762"),
    ),
    Case(
        "axolotl-ai-cloud/axolotl#1921",
        "eos_token was inserted after every turn, beside the end that the template prints.",
        "Trains the rendered text only; nothing is inserted.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "MODEL_ROLE",
        trained("Hello<|end|>", "Ciao<|end|>", never=("</s>", "<|end|><|end|>")),
        options={"ensure_final_stop": True},
    ),
    Case(
        "meta-pytorch/torchtune#949",
        "The end token of a conversation was always masked out for Llama 3.",
        "Every reply trains the end of its turn.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "HEADERS",
        rows(
            "<s><|start|>user<|message|>↵↵Hi<|end|><|start|>assistant<|message|>↵↵⟦Hello<|end|>⟧"
            "<|start|>user<|message|>↵↵Bye<|end|><|start|>assistant<|message|>↵↵⟦Ciao<|end|>⟧"
        ),
    ),
    Case(
        "THUDM/slime#514",
        "GLM has no token of its own for the end of a turn: the next <|user|> ends it, and that was masked.",
        "The header that is the stop token is trained as the end of the reply before it.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "OPEN_ENDED",
        trained("Hello<|user|>", "Ciao<|user|>"),
        special_tokens={"eos_token": "<|endoftext|>"},
        options={"ensure_final_stop": True},
    ),
    Case(
        "PrimeIntellect-ai/prime-rl#2644",
        "After a tool call GLM stops with <|observation|>, which belonged to the tool's message and was masked;"
        " models went on calling.",
        "<|observation|> after the calls is trained as their end.",
        chat(
            user("Time?"),
            assistant("", tool_calls=[call("now", {})]),
            tool("12:00"),
            assistant("Noon."),
        ),
        "OPEN_ENDED",
        trained("<tool_call>now</tool_call><|observation|>", "Noon."),
        also=("PrimeIntellect-ai/renderers#66",),
        special_tokens={"eos_token": "<|endoftext|>"},
    ),
    Case(
        "NVIDIA-NeMo/Megatron-Bridge#4265",
        "Masks were made of the content alone, so the end that the template adds was never supervised.",
        "A trained reply reaches up to and including the end of its turn.",
        chat(user("Hi"), assistant("Hello")),
        "CHATML",
        rows("<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵"),
        also=("snowflakedb/ArcticTraining#339",),
    ),
    Case(
        "huggingface/trl#3299",
        "Base models whose eos_token is <|endoftext|> were trained on ChatML, which ends with another token.",
        "Trains <|im_end|>, the end that the template prints, and appends nothing.",
        chat(user("Hi"), assistant("Hello")),
        "CHATML",
        rows("<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵"),
        also=("huggingface/trl#2059",),
        special_tokens={"eos_token": "<|endoftext|>"},
        options={"ensure_final_stop": True},
    ),
    Case(
        "hiyouga/LlamaFactory#943",
        "Between the turns of ChatML stood <|endoftext|> as the label in place of <|im_end|>.",
        "Labels are the tokens of the rendered text.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "CHATML",
        trained("Hello<|im_end|>", "Ciao<|im_end|>", never=("<|endoftext|>",)),
        special_tokens={"eos_token": "<|endoftext|>"},
    ),
    Case(
        "huggingface/trl#3091",
        "Data that closes no reply taught no end at all.",
        "Warns that the template closes no turn; ensure_final_stop appends eos_token to the last reply, once.",
        chat(user("Hi"), assistant("Hello")),
        "ROLE_COLON",
        rows("User: Hi↵↵Assistant: ⟦Hello</s>⟧"),
        options={"ensure_final_stop": True},
    ),
    Case(
        "thinking-machines-lab/tinker-cookbook#888",
        "Where words end a turn (the next `User:`), only the last turn learned the whole stop.",
        "Trains the replies and warns that the template prints no end of turn that could be learned.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "ROLE_COLON",
        trained("Hello", "Ciao", warns=("end-of-turn",)),
    ),
    Case(
        "allenai/open-instruct#1800",
        "Templates that close only the last reply broke the derivation of masks by prefixes, for every longer chat.",
        "Two examples, each as the model sees and says that turn, both with their end.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "LAST_CLOSED",
        rows(
            "<|user|>↵Hi↵<|assistant|>↵⟦Hello</s>⟧",
            "<|user|>↵Hi↵<|assistant|>↵Hello↵<|user|>↵Bye↵<|assistant|>↵⟦Ciao</s>⟧",
        ),
    ),
    Case(
        "huggingface/trl#5526",
        "A template adds eos_token to every text that is no prompt, so no conversation was a prefix of a longer one.",
        "What follows the end of the last turn is not the reply's: it carries no weight.",
        chat(user("Hi"), assistant("Hello")),
        "EPILOGUE",
        rows("<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵</s>"),
    ),
    Case(
        "huggingface/trl#5988",
        "Templates whose generation blocks leave the end of the turn out trained models that never stop.",
        "Regions are proved from the render, not taken from the blocks, so the end is trained.",
        chat(user("Hi"), assistant("Hello")),
        "SHORT_BLOCK",
        rows("<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵"),
        also=("huggingface/trl#7230",),
    ),
    Case(
        "NovaSky-AI/SkyRL#710",
        "The header of the reply and the newline after its end were trained as if the model had said them.",
        "A reply begins after the generation prompt and ends with the end-of-turn token.",
        chat(user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")),
        "CHATML",
        rows(
            "<|im_start|>user↵Hi<|im_end|>↵<|im_start|>assistant↵⟦Hello<|im_end|>⟧↵"
            "<|im_start|>user↵Bye<|im_end|>↵<|im_start|>assistant↵⟦Ciao<|im_end|>⟧↵"
        ),
        also=("PrimeIntellect-ai/renderers#33",),
    ),
    Case(
        "pytorch/torchtitan#3130",
        "The end of a document was a label but never an input, so packed documents saw each other.",
        "The end stands in the row's tokens and is its last target; a conversation is a row of its own.",
        chat(user("Hi"), assistant("Hello")),
        "INSTRUCT",
        rows("<s>[INST] Hi [/INST]⟦ Hello</s>⟧"),
        also=("huggingface/trl#3067", "huggingface/trl#784", "unslothai/unsloth#1207", "huggingface/trl#805"),
    ),
    Case(
        "PrimeIntellect-ai/prime-rl#978",
        "Samples without anything to train gave a loss of NaN.",
        "Refused: no message of the conversation can be trained.",
        chat(user("Hi"), user("Anybody?")),
        "CHATML",
        refused("NoAssistantTurn"),
    ),
    Case(
        "tatsu-lab/stanford_alpaca#265",
        "Some rows of a well-known data set have an empty output.",
        "Only the end of the turn is trained, and `turnloom lint` names the row.",
        jsonl({"instruction": "Be silent.", "input": "", "output": ""}),
        "CHATML",
        rows("<|im_start|>user↵Be silent.<|im_end|>↵<|im_start|>assistant↵⟦<|im_end|>⟧↵"),
        lints=("empty_assistant",),
    ),
)
