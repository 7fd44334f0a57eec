"""Small chat templates of our own, each with one habit that a reported bug needs."""

from __future__ import annotations

from typing import Final

_PROMPT: Final = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_TURN: Final = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"

#: Every role in a header, `content` as it is.
CHATML: Final = "{% for m in messages %}" + _TURN + "{% endfor %}" + _PROMPT

#: A system prompt of its own where the conversation has none.
DEFAULT_SYSTEM: Final = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}" + CHATML
)

#: Tools in a system block, calls as JSON, and one user turn for all results of a step.
TOOLS: Final = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}"
    "{% if loop.previtem and loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n' }}<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}<|im_end|>\n"
    "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _PROMPT
)

#: As TOOLS, but a turn may hold one call only.
ONE_CALL: Final = (
    "{% for m in messages %}{% if m.tool_calls and m.tool_calls | length > 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}{% endfor %}" + TOOLS
)

#: Arguments are put between the template's own braces, text as it is.
BRACES: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }}{{ '{' }}"
    "{% if call.function.arguments is string %}{{ call.function.arguments }}"
    "{% else %}{% for key, value in call.function.arguments.items() %}{{ key }}: {{ value }}"
    "{% if not loop.last %}, {% endif %}{% endfor %}{% endif %}{{ '}' }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}" + _PROMPT
)

#: Arguments are joined to text, so they must be text.
TEXT_ARGUMENTS: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}"
    "{{ '<tool_call>' + call.function.name + '\n' + call.function.arguments + '</tool_call>' }}{% endfor %}<|im_end|>\n"
    "{% endfor %}" + _PROMPT
)

#: Calls are told by their id alone, which must be functions.NAME:NUMBER.
CALL_IDS: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}"
    "<tool_call>{{ call.id }} {{ call.function.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}" + _PROMPT
)

#: Results of tools stand inside the assistant's turn, which only the final text closes.
RESULTS_INSIDE: Final = (
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>"
    "{% elif m.role == 'assistant' %}"
    "{% if not (loop.previtem and loop.previtem.role == 'tool') %}<|turn|>model\n{% endif %}{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}"
    "<tool_call>{{ call.function.name }}{{ call.function.arguments | tojson }}</tool_call>{% endfor %}"
    "{% if not m.tool_calls %}<|end|>\n{% endif %}"
    "{% else %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}<|turn|>model\n{% endif %}"
)

#: Reasoning of turns after the last user message only; one in `content` is taken out of it first.
THINKING: Final = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% set content = m.content or '' %}{% set reasoning = m.reasoning_content or '' %}"
    "{% if not reasoning and '</think>' in content %}"
    "{% set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last or keep_thinking %}<think>\n{{ reasoning | trim }}\n</think>\n\n{% endif %}"
    "{{ content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _PROMPT + "{% if add_generation_prompt and enable_thinking is"
    " defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)

#: The generation prompt opens the reasoning that every turn shows.
PREFILL: Final = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n<think>\n"
    "{{ m.reasoning_content or '' }}\n</think>\n\n{{ m.content }}<|im_end|>\n{% else %}"
    + _TURN
    + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)

#: The generation prompt holds an empty thought that no turn shows.
LONG_PROMPT: Final = CHATML.replace("assistant\n{% endif %}", "assistant\n<think></think>{% endif %}")

#: One opening token, stripped texts, a closing token for every turn.
HEADERS: Final = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|message|>\n\n{{ m.content | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|message|>\n\n{% endif %}"
)

#: The role of the assistant has another name, and turns end with another token than eos_token.
MODEL_ROLE: Final = (
    "{% for m in messages %}<|turn|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
)

#: The user's close begins the reply, and only eos_token ends it.
INSTRUCT: Final = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)

#: Plain words for roles, with a preamble, and eos_token after replies only.
VICUNA: Final = (
    "A chat between a curious user and an assistant."
    "{% for m in messages %}{% if m.role == 'user' %} USER: {{ m.content }}"
    "{% else %} ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)

#: Roles and their colon end where the reply's leading space begins.
COLON_SPACE: Final = (
    "{% for m in messages %}Correct {{ m.role | title }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}Correct Assistant:{% endif %}"
)

#: Instruction and response under headings.
ALPACA: Final = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}{{ eos_token }}\n\n"
    "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)

#: No token ends a turn; the role that follows does.
OPEN_ENDED: Final = (
    "[gMASK]<sop>{% for m in messages %}"
    "{% if m.role == 'tool' %}<|observation|>\n{{ m.content }}"
    "{% else %}<|{{ m.role }}|>\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }}</tool_call>{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

#: No token ends a turn; words do.
ROLE_COLON: Final = (
    "{% for m in messages %}{{ m.role | title }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)

#: Only the last reply is closed by eos_token.
LAST_CLOSED: Final = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' and loop.last %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

#: The whole text ends with eos_token unless it is a prompt.
EPILOGUE: Final = CHATML.replace("{% if add", "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}{% if add")

#: A reply has a channel for reasoning, dropped later on; the last turn is closed by another token.
CHANNELS: Final = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if loop.last and m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

#: `{% generation %}` around replies and their ends.
GENERATION: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endfor %}" + _PROMPT
)

#: `{% generation %}` leaves the end of the turn out.
SHORT_BLOCK: Final = GENERATION.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")

#: `{% generation %}` holds the header of the role.
LONG_BLOCK: Final = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}Assistant: {{ m.content }}{{ eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}User: {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)

#: `{% generation %}` begins where the text begins.
BARE_BLOCK: Final = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
)

#: Prints the day.
DATED: Final = "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n" + CHATML

#: Every added token of the tests' tokenizer -> whether it is special: ours, then those of published templates.
CONTROL_TOKENS: Final = {
    **dict.fromkeys(("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[INST]", "[/INST]"), True),
    **dict.fromkeys(("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]", "<sop>"), True),
    **dict.fromkeys(("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>", "<|turn|>"), True),
    **dict.fromkeys(
        ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"), False
    ),
    **dict.fromkeys(("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), True),
    **dict.fromkeys(("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"), True),  # noqa: RUF001  # so it spells them
    **dict.fromkeys(("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"), False),
}
