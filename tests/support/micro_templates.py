"""Random small templates that decide by texts, and conversations that hit what they decide by. Knows no engine."""

from __future__ import annotations

from random import Random
from typing import Final

from turnloom.masks.domain.conversation import Conversation, Message

#: What templates compare with and messages say: one letter, one word, no word, two words.
WORDS: Final = ("x", "y", "yes", "no", "", " ", "7", "x y", "</think>", "<think>")
TEXTS: Final = (*WORDS, " x", "x ", "xx", "X", "yes!", "12", "x\n", "a</think>b", "<think>a</think>b")
ROLES: Final = ("user", "assistant")


class MicroTemplate:
    """Writes one template from chance."""

    def __init__(self, chance: Random) -> None:
        """Take the source of chance."""
        self._chance = chance

    def source(self) -> str:
        """A ChatML template with a few decisions in its head, its turns and its end."""
        counting = self._chance.random() < 0.6
        head = self._head() if counting else ""
        show = self._print() if counting else ""
        before, inside, after = (self._decision(counting) for _ in range(3))
        messages = self._chance.choice(("messages", "messages", "messages", "messages[0:]"))
        content = self._chance.choice(("m.content", "m.content", "m.content | trim", "m['content']", "m.content + ''"))
        closing = self._chance.choice(("", "", "{% if loop.last %}<|endoftext|>{% endif %}", self._decision(counting)))
        return (
            f"{{% set ns = namespace(n=0, seen='', flag=false) %}}{head}{show}{{% for m in {messages} %}}{before}"
            f"<|im_start|>{{{{ m.role }}}}\n{inside}{{{{ {content} }}}}{after}<|im_end|>\n{closing}{{% endfor %}}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )

    def _head(self) -> str:
        filtered = f"messages | {self._choosing()} | list"
        return self._chance.choice(
            (
                f"{{% for m in messages %}}{{% if {self._asks()} %}}{{% set ns.n = ns.n + 1 %}}{{% endif %}}"
                "{% endfor %}",
                f"{{% for m in messages[::-1] %}}{{% if not ns.flag and {self._asks()} %}}"
                "{% set ns.n = loop.index0 %}{% set ns.flag = true %}{% endif %}{% endfor %}",
                f"{{% for m in messages if {self._asks(loop=False)} %}}{{% set ns.n = ns.n + loop.index %}}"
                "{% endfor %}",
                f"{{% set ns.n = {filtered} | length %}}",
                f"{{% set ns.seen = {filtered} | map(attribute='content') | join %}}",
                f"{{% if {filtered} %}}{{% set ns.flag = true %}}{{% endif %}}",
                "{% set ns.n = messages | map(attribute='content') | unique | list | length %}",
            )
        )

    def _choosing(self) -> str:
        test = self._chance.choice(("equalto", "==", "in", "sameas", "ne"))
        argument = repr(list(self._chance.sample(WORDS, 2))) if test == "in" else repr(self._chance.choice(WORDS))
        return f"{self._chance.choice(('selectattr', 'rejectattr'))}('content', '{test}', {argument})"

    def _print(self) -> str:
        return self._chance.choice(("{{ ns.n }}", "{{ '#' if ns.flag else '' }}", "{% if ns.n > 1 %}+{% endif %}", ""))

    def _decision(self, counting: bool) -> str:
        kind = self._chance.random()
        if kind < 0.4:
            return ""
        if kind < 0.5 and counting:
            return self._print()
        sign = self._chance.choice(("!", "?", "<think>", "<|endoftext|>", "\n"))
        if kind < 0.6:
            return f"{{% if {self._asks()} %}}{{% set ns.n = ns.n + 1 %}}{{% endif %}}{{{{ ns.n }}}}"
        other = self._chance.choice(("", "", "{% else %}."))
        return f"{{% if {self._asks()} %}}{sign}{other}{{% endif %}}"

    def _asks(self, *, loop: bool = True) -> str:
        one = self._condition(loop)
        kind = self._chance.random()
        if kind < 0.15:
            return f"not ({one})"
        if kind < 0.35:
            return f"({one}) {self._chance.choice(('and', 'or'))} ({self._condition(loop)})"
        return one

    def _condition(self, loop: bool) -> str:
        word = repr(self._chance.choice(WORDS))
        two = repr(self._chance.sample(WORDS, 2))
        of_text = (
            f"m.content == {word}",
            f"{word} == m.content",
            f"m.content != {word}",
            f"m.content in {two}",
            f"{word} in m.content",
            f"m.content is sameas {word}",
            f"m.content is equalto {word}",
            f"m.content is in {two}",
            f"m.content.startswith({word})",
            f"(m.content | trim) == {word}",
            f"m.content.split(' ')[-1] == {word}",
            "m.content.split('</think>')[0]",
            f"(' ' ~ m.content ~ {word} ~ '\\n') | trim == {word}",
            f"{word} in m.role[:0] ~ m.content ~ {word}[1:] ~ m.content",
            f"{word} in {word}[1:] ~ m.content",
            f"('!' ~ m.content ~ {word}).split({word})[-1]",
            f"(m.content | upper) == {word}",
            f"(m.content | replace('x', 'y')) == {word}",
            f"(m.content | first) == {word}",
            f"m.content[0] == {word}",
            "m.content | length > 1",
            f"m.content < {word}",
            "m.content | int > 5",
            "m.content",
            "m.content == messages[0].content",
            "m.content == messages[-1].content",
            f"messages[-1].content == {word}",
            f"(messages | {self._choosing()} | list | length) > 1",
            "m.role == 'assistant'",
            "messages | length > 3",
        )
        of_loop = (
            "loop.last",
            "loop.first",
            "loop.index0 % 2 == 1",
            "loop.index0 > ns.n",
            "loop.revindex == 2",
            "loop.previtem is defined and loop.previtem.content == m.content",
            f"loop.nextitem is defined and loop.nextitem.content == {word}",
            "loop.changed(m.content)",
            "ns.n > 1",
            "m.content in ns.seen",
        )
        return self._chance.choice(of_text + of_loop if loop else of_text)


def micro_conversations(chance: Random, count: int) -> list[Conversation]:
    """Conversations of one to six messages that say what the templates ask for; many have one shape."""
    texts = chance.sample(TEXTS, 5)
    return [_conversation(chance, texts) for _ in range(count)]


def _conversation(chance: Random, texts: list[str]) -> Conversation:
    messages: list[Message] = []
    if chance.random() < 0.2:
        messages.append({"role": "system", "content": chance.choice(texts)})
    count = chance.choice((2, 2, 2, 2, 4, 4, 3, 6))
    messages += [{"role": ROLES[at % 2], "content": chance.choice(texts)} for at in range(count)]
    return Conversation(messages)
