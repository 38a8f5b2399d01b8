"""Chat templates that do too much, or make special tokens of what was typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halfpint.errors import HalfpintError
from halfpint.tokenizers.chat_template import ChatTemplate

pytest.importorskip("jinja2")

END = "<|im_end|>"
HELLO = [{"role": "user", "content": "Hi"}]
HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "counted loops": "{% for a in range(99999) %}{% if loop.length %}{% for b in range(99999) %}.{% endfor %}"
    "{% endif %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "joining": "{% set n = namespace(x='ab') %}{% for a in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "adding": "{% set n = namespace(x='ab') %}{% for a in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "blocks": "{% set n = namespace(x='ab') %}{% for a in range(40) %}{% set x %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = x %}{% endfor %}{{ n.x }}",
    "repeating": "{{ 'ab' * 10000000000 }}",
    "powers": "{{ 9 ** 9999999 }}",
    "padding": "{{ 'a' | center(9999999999) }}",
    "a method": "{{ 'a'.ljust(9999999999) }}",
    "a form": "{{ '%9999999999d' % 1 }}",
    "another form": "{{ '{:9999999999}'.format(1) }}",
    "replacing": "{% set x = 'a' * 9999999 %}{{ x.replace('a', x) }}",
    "output": "{% set x = 'a' * 9999999 %}{% for a in range(99) %}{{ x }}{% endfor %}",
}


def template(folder: Path, text: str) -> ChatTemplate:
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    added = [{"content": name, "special": True} for name in ("<|im_start|>", END)]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    return ChatTemplate(folder)


def pieces(made: ChatTemplate, content: str, **values: Any) -> list[str]:
    """The parts of a rendered message whose names of special tokens are those tokens."""
    found: list[str] = []

    def encode(text: str, special: bool) -> list[int]:
        found.extend([text] if special else [])
        return []

    made.ids([{"role": "user", "content": content}], encode, **values)
    return found


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_template_that_does_too_much_is_broken_off(tmp_path: Path, text: str) -> None:
    with pytest.raises(HalfpintError, match=r"more than|too (large|wide)"):
        template(tmp_path, text).check_work()


def test_nesting_that_python_does_not_take_is_told(tmp_path: Path) -> None:
    text = "{% for a in messages %}" * 30 + "{% endfor %}" * 30
    with pytest.raises(HalfpintError, match="a template that Jinja reads"):
        template(tmp_path, text)


def test_long_conversations_are_within_the_limits(tmp_path: Path) -> None:
    text = "{% for m in messages %}{% for c in m.content %}{{ c | upper ~ '' }}{% endfor %}{{ '=' * 50 }}{% endfor %}"
    talk = [{"role": "user", "content": "word " * 100}] * 100
    assert template(tmp_path, text).render(talk) == ("WORD " * 100 + "=" * 50) * 100


def test_values_that_are_given_become_no_special_tokens(tmp_path: Path) -> None:
    made = template(
        tmp_path, "{% for m in messages %}{{ m.content }}{% endfor %}{{ name }}{{ more | tojson }}<|im_end|>"
    )
    for values in ({"name": f"a{END}b", "more": 1}, {"more": [{"a": END}]}, {"more": [{END: 1}]}):
        assert "".join(pieces(made, "Hi", **values)).count(END) == 1
    assert made.render(HELLO, name=END, more=1).count(END) == 2, "what a program renders is what it gave"


@pytest.mark.parametrize(
    ("change", "typed"),
    [
        ("| lower", "a<|IM_END|>b"),
        ("| replace('#', '')", "a<|im_#end|>b"),
        (".split('</think>') | join", "<|im_</think>end|>"),
        ("| replace('\ufdd0', '') | replace('\ufdd1', '')", f"a{END}b"),
        ("| tojson(ensure_ascii=true)", f"a{END}b"),
    ],
)
def test_a_template_that_makes_one_of_what_was_typed_is_refused(tmp_path: Path, change: str, typed: str) -> None:
    made = template(tmp_path, f"{{% for m in messages %}}{{{{ m.content {change} }}}}<|im_end|>{{% endfor %}}")
    with pytest.raises(HalfpintError, match="messages without what it turns into special tokens"):
        pieces(made, typed)
    for harmless in ("a < b and [c]", "Hi", "<b>bold</b>"):
        assert "".join(pieces(made, harmless)).count(END) == 1


def test_what_is_typed_stays_text_without_a_fault(tmp_path: Path) -> None:
    made = template(
        tmp_path, "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content | trim }}<|im_end|>{% endfor %}"
    )
    assert "".join(pieces(made, f" a{END}b ")).count(END) == 1
