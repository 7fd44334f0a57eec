import json
from collections import Counter
from pathlib import Path

from turnloom.embedded.sample_data import (
    SampleConversation,
    held_out_conversations,
    shuffled_replies,
    train_conversations,
    write_jsonl,
)

REPOSITORY = Path(__file__).resolve().parents[3]


def replies(conversations: list[SampleConversation]) -> list[str]:
    return [m["content"] for c in conversations for m in c["messages"] if m["role"] == "assistant"]


def prompts_and_replies(conversations: list[SampleConversation]) -> list[tuple[str, str]]:
    pairs = []
    for conversation in conversations:
        messages = conversation["messages"]
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                pairs.append((json.dumps(messages[:index]), message["content"]))
    return pairs


def test_no_conversation_is_held_out_and_trained_on() -> None:
    train, test = ([json.dumps(c) for c in split] for split in (train_conversations(), held_out_conversations()))
    assert (len(set(train)), len(set(test))) == (340, 60)
    assert not set(train) & set(test)


def held_out_conversations_have_a_system_prompt_and_one_to_three_turns() -> None:
    every = train_conversations() + held_out_conversations()
    turns = Counter()
    for conversation in every:
        roles = [message["role"] for message in conversation["messages"]]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)]
        turns[len(roles) // 2] += 1
    assert set(turns) == {1, 2, 3}
    assert min(turns.values()) > 50


def test_the_prompt_alone_decides_the_reply() -> None:
    reply_of: dict[str, str] = {}
    for prompt, reply in prompts_and_replies(train_conversations() + held_out_conversations()):
        assert reply_of.setdefault(prompt, reply) == reply


def test_shuffled_replies_are_the_same_replies_at_other_prompts() -> None:
    test = held_out_conversations()
    shuffled = shuffled_replies(test)
    assert Counter(replies(shuffled)) == Counter(replies(test))
    right = sum(a == b for a, b in zip(replies(test), replies(shuffled), strict=True))
    assert right < len(replies(test)) / 5  # farewells are few and may meet themselves
    assert [[m for m in c["messages"] if m["role"] != "assistant"] for c in shuffled] == [
        [m for m in c["messages"] if m["role"] != "assistant"] for c in test
    ]


def test_the_files_in_examples_are_what_the_module_writes(tmp_path: Path) -> None:
    for name, split in (("conversations", train_conversations()), ("conversations.test", held_out_conversations())):
        write_jsonl(tmp_path / name, split)
        assert (tmp_path / name).read_bytes() == (REPOSITORY / "examples" / f"{name}.jsonl").read_bytes()
