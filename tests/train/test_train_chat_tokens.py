"""What the loss counts of a conversation: the answers and the ends of their turns, under any chat template."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.bundle import Bundle
from halfpint.data.messages import Conversation, Message
from halfpint.errors import HalfpintError
from halfpint.progress import SILENT
from halfpint.report.mask import show_mask
from halfpint.tokenizers.train import CHAT_TEMPLATE, TokenizerSettings, train_tokenizer
from halfpint.train._chat_fields import readable
from halfpint.train._chat_tokens import ChatTokenizer, Rendered
from halfpint.train.chat import masked_tokens

pytest.importorskip("transformers", reason="chat templates need transformers")

LLAMA = (
    "{{- '<|begin|>' }}{% for m in messages %}{{- '<|head|>' + m['role'] + '<|body|>\n\n' + m['content'] | trim + "
    "'<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{- '<|head|>assistant<|body|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<|begin|>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{{ '<|head|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + "
    "m['content'] | trim + '<|eot|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|head|>model\n' }}{% endif %}"
)
# An end of the text after the last turn, as in Phi-3; nothing that a prompt ends with, as in Mistral's.
PHI = (
    "{% for m in messages %}{{ '<|head|>' + m['role'] + '\n' + m['content'] + '<|eot|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
)
MISTRAL = (
    "{{ '<|begin|>' }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + '<|eot|>' "
    "}}{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
# Thoughts in the last turn alone, as in Qwen3: what was written before changes as the conversation goes on.
THINKING = (
    "{% for m in messages %}{{ '<|head|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|eot|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant\n' }}{% endif %}"
)
# No prompt to go on from, the number of turns in front: only its marks tell what the assistant said.
MARKED = (
    "{{ messages | length }}\n{% for m in messages %}{{ m['role'] + ':\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] | trim }}{% endgeneration %}{{ '<|eot|>' }}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '\n' }}{% endfor %}"
)
TEMPLATES = {"chatml": CHAT_TEMPLATE, "llama": LLAMA, "gemma": GEMMA, "phi": PHI, "mistral": MISTRAL,
             "thinking": THINKING, "marked": MARKED}  # fmt: skip
SPECIAL = ("<|begin|>", "<|head|>", "<|body|>", "<|eot|>")

SAID = ("one", "two", "three", "assistant", "user", "system", "red", "green", "blue", "north", "south")


def conversation(*contents: str, system: str = "", row: int = 1) -> Conversation:
    first = [Message("system", system)] if system else []
    turns = [Message(("user", "assistant")[place % 2], content) for place, content in enumerate(contents)]
    return Conversation((*first, *turns), row)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tokenizer that has the marks of all templates, and no template; there is no model."""
    folder = tmp_path_factory.mktemp("base")
    texts = [f"Say {word}, then {word} and {other}.\n" for word in SAID for other in SAID] * 5
    train_tokenizer(texts, TokenizerSettings(vocab_size=330, special_tokens=SPECIAL), folder, SILENT)
    (folder / "chat_template.jinja").unlink()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "card.json").write_text("{}", encoding="utf-8")
    return Bundle(folder)


@pytest.fixture(scope="module")
def with_template(tmp_path_factory: pytest.TempPathFactory, base: Bundle) -> Callable[[str], ChatTokenizer]:
    """The tokenizer of the base with a template of its own."""
    made: dict[str, ChatTokenizer] = {}

    def get(name: str) -> ChatTokenizer:
        if name not in made:
            folder = tmp_path_factory.mktemp("template")
            for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                (folder / file).write_bytes((base.path / file).read_bytes())
            (folder / "chat_template.jinja").write_text(TEMPLATES.get(name, name), encoding="utf-8")
            made[name] = ChatTokenizer(folder)
        return made[name]

    return get


contents = st.text(alphabet="ab e\n\t.ü🙂<|>/", min_size=1, max_size=12).filter(lambda text: text.strip() != "")
written = st.one_of(contents, st.sampled_from(["assistant", "one two", "<|eot|>", "a<|im_end|>b", "</think>", "user"]))
chats = st.lists(written, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0)


def answers_of(tokenizer: ChatTokenizer, one: Rendered) -> list[str]:
    """The text of each run of counted tokens."""
    counted = np.concatenate([[0], one.counted.astype(int), [0]])
    edges = np.flatnonzero(np.diff(counted))
    decode = tokenizer.tokenizer.decode
    return [
        decode(one.ids[start:stop].tolist(), skip_special_tokens=False)
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(max_examples=60)
@given(turns=chats, system=st.sampled_from(["", "Be brief."]))
def test_the_answers_count_and_nothing_else(
    name: str, turns: list[str], system: str, with_template: Callable[[str], ChatTokenizer]
) -> None:
    """Each run of counted tokens reads as an answer and the end of its turn, whatever was said."""
    tokenizer = with_template(name)
    one = conversation(*turns, system="" if name == "gemma" else system)
    found = next(tokenizer.tokens([one]))
    trims = name in ("llama", "gemma", "mistral", "marked")
    end = "<|im_end|>" if name == "chatml" else "<|eot|>"
    wanted = [(turn.strip() if trims else turn) + end for turn in turns[1::2]]
    if name == "mistral":
        wanted = [" " + answer for answer in wanted]
    if name == "thinking":
        wanted[-1] = "<think>\n\n</think>\n\n" + wanted[-1]
    assert answers_of(tokenizer, found) == wanted
    # What was said never becomes a token that the template did not write.
    ends = tokenizer.tokenizer.token_to_id(end)
    turns_ended = len(turns) // 2 if name in ("mistral", "marked") else len(one.messages)
    assert int((found.ids == ends).sum()) == turns_ended
    assert tokenizer.ends == {ends}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_tokens_are_those_of_transformers(name: str, with_template: Callable[[str], ChatTokenizer]) -> None:
    tokenizer = with_template(name)
    some = [conversation("Say one.", "one", "Say ü 🙂.", " ü 🙂\n"), conversation("two", "three", row=2)]
    for one, found in zip(some, tokenizer.tokens(some), strict=True):
        wanted = tokenizer._loaded.apply_chat_template(one.as_dicts(), return_dict=True)["input_ids"]
        assert found.ids.tolist() == wanted and found.row == one.row


def test_the_prompt_is_tokenised_as_when_the_model_answers(with_template: Callable[[str], ChatTokenizer]) -> None:
    """Where tokens would reach from the prompt into the answer, they are cut there."""
    tokenizer = with_template("chatml")
    one = conversation("a", "\n\n\none")
    found = next(tokenizer.tokens([one]))
    first = int(np.flatnonzero(found.counted)[0])
    prompt = tokenizer.tokenizer.encode(tokenizer.prompt(one.as_dicts()[:1]), add_special_tokens=False).ids
    assert found.ids[:first].tolist() == prompt


def test_templates_that_do_not_tell(with_template: Callable[[str], ChatTokenizer]) -> None:
    no_end = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    with pytest.raises(HalfpintError, match=r"row 7: expected a template that .* generation"):
        list(with_template(no_end).tokens([conversation("a", "b", row=7)]))
    with pytest.raises(HalfpintError, match=r"row 9: .*System role not supported"):
        list(with_template("gemma").tokens([conversation("a", "b"), conversation("a", "b", system="c", row=9)]))


def test_the_mask_is_shown(base: Bundle) -> None:
    one = conversation("Say \x07 ü", "ü one\ntwo")
    pieces, counted = masked_tokens(base, [one], "chatml", SILENT)
    whole = "<|im_start|>user\nSay \x07 ü<|im_end|>\n<|im_start|>assistant\nü one\ntwo<|im_end|>\n"
    assert "".join(pieces) == whole
    plain = show_mask(pieces, counted, colour=False)
    assert "assistant\n【ü one\ntwo<|im_end|>】" in plain and "\x07" not in plain
    assert plain.endswith(f"({sum(counted)} of {len(counted)} tokens count: those between 【 and 】)")
    coloured = show_mask(pieces, counted, colour=True)
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured).startswith(whole.replace("\x07", "\\x07").rstrip())
    assert "\x1b[1;32mü one" in coloured


def test_masked_answers_do_not_count(with_template: Callable[[str], ChatTokenizer]) -> None:
    turns = (Message("user", "a"), Message("assistant", "one", learn=False), Message("user", "b"))
    one = Conversation((*turns, Message("assistant", "two")), 1)
    for name in ("chatml", "phi", "marked"):
        tokenizer = with_template(name)
        answers = answers_of(tokenizer, next(tokenizer.tokens([one])))
        assert [answer.removesuffix("<|im_end|>").removesuffix("<|eot|>") for answer in answers] == ["two"]


# Tools, their calls and thoughts, as Qwen3 writes them.
WITH_TOOLS = (
    "{% if tools %}{{ '<|head|>tools\n' + tools | tojson + '<|eot|>' }}{% endif %}{% for m in messages %}"
    "{{ '<|head|>' + m['role'] + '<|body|>' }}{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + "
    "'</think>' }}{% endif %}{{ m['content'] }}{% for call in m.tool_calls %}{{ '<|begin|>' + "
    "call.function.name + ' ' + call.function.arguments | tojson }}{% endfor %}{{ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|body|>' }}{% endif %}"
)
CALLS = '[{"type": "function", "function": {"name": "red", "arguments": {"blue": "<|eot|>"}}}]'
TOOLS = (("tools", '[{"type": "function", "function": {"name": "red"}}]'),)
CALLING = Conversation(
    (Message("user", "a"), Message("assistant", "", extras=(("tool_calls", CALLS),)), Message("tool", "north"),
     Message("assistant", "two", extras=(("reasoning_content", '"south"'), ("mood", '"good"')))), 7, TOOLS,
)  # fmt: skip


def test_tools_calls_and_thoughts_are_written_where_the_template_can(
    with_template: Callable[[str], ChatTokenizer], interrupting: Any
) -> None:
    tokenizer, log = with_template(WITH_TOOLS), interrupting()
    assert readable(tokenizer, [CALLING], "train", log) == [CALLING]
    assert [line.strip() for line in log.lines] == [
        "train: the chat template does not write mood: left out (row 7)"
    ]  # fmt: skip
    found = next(tokenizer.tokens([CALLING]))
    # The call counts as a whole, with its special token; what reads like one inside of it is text.
    assert answers_of(tokenizer, found) == [
        '<|begin|>red {"blue": "<|eot|>"}<|eot|>', "<think>south</think>two<|eot|>"
    ]  # fmt: skip
    assert int((found.ids == tokenizer.tokenizer.token_to_id("<|eot|>")).sum()) == 5
    assert "<|head|>tools" in tokenizer.tokenizer.decode(found.ids.tolist(), skip_special_tokens=False)


def test_a_conversation_whose_calls_the_template_does_not_write_is_dropped(
    with_template: Callable[[str], ChatTokenizer], interrupting: Any
) -> None:
    tokenizer, log, plain = with_template("llama"), interrupting(), conversation("a", "b")
    assert readable(tokenizer, [CALLING, plain], "train", log) == [plain]
    assert any("does not write tools: left out (row 7)" in line for line in log.lines)
    assert any("dropped 1 conversation with tool calls" in line and "(row 7)" in line for line in log.lines)
    with pytest.raises(HalfpintError, match="none: all have tool calls"):
        readable(tokenizer, [CALLING], "train", log)
