"""Tool calls and tools."""

from __future__ import annotations

from typing import Final

from tests.graveyard.case import (
    Case,
    assistant,
    call,
    chat,
    jsonl,
    parquet,
    refused,
    rows,
    schema,
    system,
    tool,
    trained,
    user,
)

_OSLO: Final = '<tool_call>{"name": "get_time", "arguments": {"zone": "Oslo"}}</tool_call><|im_end|>'

CASES: Final = (
    Case(
        "oumi-ai/oumi#2599",
        "Arguments in OpenAI's form (JSON text) were encoded a second time, and trained as a quoted string.",
        "Arguments are parsed before the template sees them, as inference servers do.",
        chat(user("t?"), assistant("", tool_calls=[call("get_time", '{"zone": "Oslo"}')])),
        "TOOLS",
        trained(_OSLO),
        also=("vortico/flama#258",),
    ),
    Case(
        "ai-dynamo/dynamo#4161",
        "Llama 3.1's template prints text arguments with escaped quotes, unlike what vLLM gives the model.",
        "With Llama 3.1's template text and object give the same tokens.",
        chat(user("t?"), assistant("", tool_calls=[call("get_time", '{"zone": "Oslo"}')]), tools=[schema("get_time")]),
        "trl__llama3_1",
        trained('{"name": "get_time", "parameters": {"zone": "Oslo"}}<|eot_id|>'),
    ),
    Case(
        "Layr-Labs/d-inference#249",
        "A template with braces of its own printed text arguments inside them, so calls had two pairs.",
        "Arguments are parsed before the template sees them.",
        chat(user("t?"), assistant("", tool_calls=[call("get_time", '{"zone": "Oslo"}')])),
        "BRACES",
        trained("<tool_call>get_time{zone: Oslo}</tool_call><|im_end|>"),
    ),
    Case(
        "ml-explore/mlx-lm#1065",
        "Templates that join arguments to text failed on objects with Python's own words.",
        "Refused by the place of the arguments; normalize_messages=false sends them as text.",
        chat(user("ls"), assistant(None, tool_calls=[call("exec", {"command": "ls"})])),
        "TEXT_ARGUMENTS",
        refused("messages[1].tool_calls[0].function.arguments", "set normalize_messages to false"),
        also=("oumi-ai/oumi#2603",),
    ),
    Case(
        "verl-project/verl#4112",
        "A list among the arguments in a Parquet file broke the reader.",
        "Lists and structs in columns are read as JSON.",
        parquet(
            {
                "messages": [
                    {"role": "user", "content": "Find", "tool_calls": None},
                    assistant("", tool_calls=[call("search", {"entities": ["Office 365"]})]),
                ]
            }
        ),
        "TOOLS",
        trained('<tool_call>{"name": "search", "arguments": {"entities": ["Office 365"]}}</tool_call><|im_end|>'),
        also=("verl-project/verl#4125",),
    ),
    Case(
        "huggingface/trl#5118",
        "Arrow gives every tool of a data set all parameters of all tools, filled with null.",
        "Keys that a column filled in are absent: each row has its own parameters.",
        parquet(
            {
                "messages": [user("a?"), assistant("", tool_calls=[call("read", {"path": "a"})])],
                "tools": [schema("read", path={"type": "string"})],
            },
            {
                "messages": [user("b?"), assistant("", tool_calls=[call("add", {"x": 1})])],
                "tools": [schema("add", x={"type": "integer"})],
            },
        ),
        "TOOLS",
        trained(
            '<tool_call>{"name": "read", "arguments": {"path": "a"}}</tool_call><|im_end|>',
            shows=('"properties": {"path": {"type": "string"}}',),
            never=("null",),
        ),
    ),
    Case(
        "PrimeIntellect-ai/prime-rl#2942",
        "Rows of prompt and completion passed their nested calls on as Arrow had filled them.",
        "A filled-in key is absent in every format, also one that is called `content`.",
        parquet(
            {"prompt": [user("a?")], "completion": [assistant("", tool_calls=[call("read", {"path": "a"})])]},
            {"prompt": [user("b?")], "completion": [assistant("", tool_calls=[call("write", {"content": "b"})])]},
        ),
        "TOOLS",
        trained('<tool_call>{"name": "read", "arguments": {"path": "a"}}</tool_call><|im_end|>'),
    ),
    Case(
        "modelscope/ms-swift#4600",
        "A call without arguments was parsed to None, and its row was discarded.",
        "A call without arguments is trained with an empty object, as inference has it.",
        chat(user("Time?"), assistant("", tool_calls=[call("now", None)])),
        "TOOLS",
        trained('<tool_call>{"name": "now", "arguments": {}}</tool_call><|im_end|>'),
    ),
    Case(
        "OpenRLHF/OpenRLHF#1079",
        "Tools of a row were not given to the template, so prompts in training had none.",
        "Tools stand in the prompt as at inference.",
        jsonl(
            {
                "messages": [user("t?"), assistant("", tool_calls=[call("get_time", {"zone": "Oslo"})])],
                "tools": [schema("get_time", zone={"type": "string"})],
            }
        ),
        "TOOLS",
        trained(_OSLO, shows=('<|im_start|>system\n{"type": "function", "function": {"name": "get_time"',)),
        also=("OpenRLHF/OpenRLHF#1228", "fw-ai/cookbook#442", "THUDM/slime#1008"),
    ),
    Case(
        "PrimeIntellect-ai/prime-rl#2494",
        "Tools under `tool_defs` were passed over: the model was trained without a system block that inference has.",
        "Tools under other names are read as tools.",
        jsonl(
            {
                "messages": [user("t?"), assistant("", tool_calls=[call("get_time", {"zone": "Oslo"})])],
                "tool_defs": [{"name": "get_time", "description": "Time.", "parameters": {}}],
            }
        ),
        "TOOLS",
        trained(_OSLO, shows=("Time.",)),
    ),
    Case(
        "axolotl-ai-cloud/axolotl#3824",
        "Role and content were copied and nothing else: calls vanished from the prompt, null content failed.",
        "The whole message reaches the template.",
        chat(
            user("t?"),
            assistant(None, tool_calls=[call("get_time", {"zone": "Oslo"})]),
            tool("12:00"),
            assistant("Noon."),
        ),
        "TOOLS",
        rows(
            "<|im_start|>user↵t?<|im_end|>↵<|im_start|>assistant↵⟦" + _OSLO + "⟧↵"
            "<|im_start|>user↵<tool_response>↵12:00↵</tool_response><|im_end|>↵<|im_start|>assistant↵⟦Noon.<|im_end|>⟧↵"
        ),
        also=("cubist38/mlx-openai-server#205",),
    ),
    Case(
        "unslothai/unsloth#7426",
        "Llama 3's template takes one call a turn; on two, a fallback dropped the conversation but for the question.",
        "Refused by the message's place, in the template's words; nothing is trained in its stead.",
        chat(user("t?"), assistant("", tool_calls=[call("a", {}), call("b", {})])),
        "ONE_CALL",
        refused("messages[1]", "one call at a time"),
    ),
    Case(
        "NovaSky-AI/SkyRL#1675",
        "Rows with a tool's result were refused, and a system prompt in a column of its own was not read.",
        "Results are prompt; a system prompt beside messages becomes the first message.",
        jsonl({"system": "Be kind.", "messages": [user("t?"), assistant("I look."), tool("12"), assistant("Noon.")]}),
        "CHATML",
        trained("I look.<|im_end|>", "Noon.<|im_end|>", shows=("<|im_start|>system\nBe kind.<|im_end|>",)),
    ),
    Case(
        "THUDM/slime#2263",
        "Results of parallel calls, encoded one by one, became a turn each; at inference they share one.",
        "The conversation is rendered as a whole: one turn holds both results.",
        chat(
            user("a and b?"),
            assistant("", tool_calls=[call("a", {}), call("b", {})]),
            tool("A"),
            tool("B"),
            assistant("Both."),
        ),
        "TOOLS",
        rows(
            "<|im_start|>user↵a and b?<|im_end|>↵<|im_start|>assistant↵"
            '⟦<tool_call>{"name": "a", "arguments": {}}</tool_call>'
            '<tool_call>{"name": "b", "arguments": {}}</tool_call>'
            "<|im_end|>⟧↵<|im_start|>user↵<tool_response>↵A↵</tool_response>"
            "↵<tool_response>↵B↵</tool_response><|im_end|>↵"
            "<|im_start|>assistant↵⟦Both.<|im_end|>⟧↵"
        ),
    ),
    Case(
        "PrimeIntellect-ai/renderers#131",
        "Null content beside tool calls, OpenAI's own form, was trained as the word None.",
        "Null content is empty text to the template, as at inference.",
        chat(user("t?"), assistant(None, tool_calls=[call("get_time", {"zone": "Oslo"})])),
        "llamacpp__GLM-4.6",
        trained(
            "\n<think></think>\n<tool_call>get_time\n<arg_key>zone</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
            never=("None",),
        ),
        also=("huggingface/transformers#45422", "vllm-project/vllm#54368"),
    ),
    Case(
        "Blaizzy/mlx-vlm#1864",
        "Qwen3-VL's template iterates over null content, and failed with Python's own words.",
        "Null content is empty text to the template.",
        chat(user("t?"), assistant(None, tool_calls=[call("get_time", {"zone": "Oslo"})])),
        "trl__qwen3_vl_training",
        trained('<tool_call>\n{"name": "get_time", "arguments": {"zone": "Oslo"}}\n</tool_call><|im_end|>'),
        also=("Blaizzy/mlx-vlm#1837",),
    ),
    Case(
        "thinking-machines-lab/tinker-cookbook#248",
        "Kimi's calls are told by ids of the form functions.name:0; where data has none, the name was lost.",
        "Refused with the form of the ids, which make_tool_call_ids writes; a call never loses its name.",
        chat(user("t?"), assistant("", tool_calls=[call("get_time", {"zone": "Oslo"})])),
        "CALL_IDS",
        refused("messages[1].tool_calls[0].function.name", "functions.NAME:0", "make_tool_call_ids"),
    ),
    Case(
        "ml-explore/mlx-lm#821",
        "Ids of another form than Kimi's (UUIDs) in the history taught the model to make such ids.",
        "A call whose name the template prints by its id alone is refused; make_tool_call_ids writes the right form.",
        chat(
            user("t?"),
            assistant("", tool_calls=[call("get_time", {"zone": "Oslo"}, id="call_9f3a")]),
            tool("12", tool_call_id="call_9f3a"),
            assistant("Noon."),
        ),
        "CALL_IDS",
        refused("messages[1].tool_calls[0].function.name", "functions.NAME:0", "make_tool_call_ids"),
    ),
    Case(
        "huggingface/transformers#31079",
        "Tools and arguments were printed with \\u escapes for every letter that is not ASCII.",
        "tojson prints letters as they are, as transformers does today.",
        chat(
            system("Sei nett."),
            user("Zeit?"),
            assistant("", tool_calls=[call("zeit", {"ort": "Köln"})]),
            tools=[{"type": "function", "function": {"name": "zeit", "description": "Uhrzeit für Städte: 東京"}}],
        ),
        "TOOLS",
        trained(
            '<tool_call>{"name": "zeit", "arguments": {"ort": "Köln"}}</tool_call><|im_end|>',
            shows=("Uhrzeit für Städte: 東京",),
            never=("\\u",),
        ),
        also=("PaddlePaddle/PaddleNLP#11134", "theroyallab/tabbyAPI#459"),
    ),
    Case(
        "hiyouga/LlamaFactory#3330",
        "ShareGPT's turns from `function_call` and `observation` left people guessing how they become messages.",
        "They are read as a tool call and its result.",
        jsonl(
            {
                "conversations": [
                    {"from": "human", "value": "t?"},
                    {"from": "function_call", "value": '{"name": "get_time", "arguments": {"zone": "Oslo"}}'},
                    {"from": "observation", "value": "12:00"},
                    {"from": "gpt", "value": "Noon."},
                ]
            }
        ),
        "TOOLS",
        trained(_OSLO, "Noon.<|im_end|>"),
        also=("hiyouga/LlamaFactory#5866", "hiyouga/LlamaFactory#2529"),
    ),
)
