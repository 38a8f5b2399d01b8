"""Fields of OpenAI's clients and of other servers: heeded, refused by name, or without any bearing on the answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from served import HELLO, Served


@pytest.fixture(scope="module")
def served(serve_bundle: Callable[..., Any]) -> Iterator[Served]:
    """A chat model in PyTorch."""
    with serve_bundle("chat", slots=2) as found:
        yield found


def text(served: Served, **more: Any) -> Any:
    return served.http.post("/v1/completions", json={"prompt": "I was", "seed": 1, "temperature": 1.5, **more}).json()


def chat(served: Served, *messages: dict[str, Any], **more: Any) -> Any:
    return served.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 3, **more})


@pytest.mark.parametrize("name", ["n_predict", "max_new_tokens", "max_tokens"])
def test_other_names_of_the_length(served: Served, name: str) -> None:
    found = text(served, **{name: 2})
    assert "usage" in found, found
    assert found["usage"]["completion_tokens"] == 2


def test_other_name_of_the_penalty(served: Served) -> None:
    wanted = text(served, repetition_penalty=9, max_tokens=12)["choices"]
    assert text(served, repeat_penalty=9, max_tokens=12)["choices"] == wanted
    assert text(served, max_tokens=12)["choices"] != wanted


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_a_schema_beside_the_type_is_kept_to(served: Served, kind: str) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    found = text(served, response_format={"type": kind, "schema": schema}, max_tokens=40)
    assert json.loads(found["choices"][0]["text"]) == {"n": 7}


@pytest.mark.parametrize("content", ["hello", None])
def test_an_answer_is_sent_back_as_it_came(served: Served, content: str | None) -> None:
    answer = {"role": "assistant", "content": content, "tool_calls": [], "refusal": None, "annotations": []}
    found = chat(served, *HELLO, answer, {"role": "user", "content": "bye", "name": "ann"})
    assert found.status_code == 200, found.text


def test_a_user_without_content_is_refused(served: Served) -> None:
    found = chat(served, {"role": "user", "content": None})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"options": {"num_predict": 1}}, "options"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"temprature": 0.1}, "temprature"),
        ({"max_token": 5}, "max_token"),
        ({"num_beams": 4}, "num_beams"),
        ({"max_tokens": 4, "n_predict": 5}, "n_predict"),
        ({"response_format": {"type": "text", "regex": "a+"}}, "response_format"),
        ({"stream_options": {"chunk": 5}}, "stream_options"),
        ({"messages": [{**HELLO[0], "images": ["x"]}]}, "messages"),
        ({"messages": [{**HELLO[0], "prefix": True}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "image": "x"}]}]}, "messages"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]}, "messages"),
    ],
    ids=str,
)
def test_what_would_change_the_answer_is_refused_by_name(served: Served, more: dict[str, Any], param: str) -> None:
    found = served.http.post("/v1/chat/completions", json={"messages": HELLO, **more})
    assert (found.status_code, found.json()["error"]["param"]) == (400, param), found.text
    assert param in found.json()["error"]["message"]


def test_what_cannot_change_it_passes(served: Served) -> None:
    more = {
        "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "x",
        "parallel_tool_calls": True, "num_beams": 1, "options": {}, "enable_thinking": False, "keep_alive": "5m",
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    }  # fmt: skip
    assert chat(served, *HELLO, **more).status_code == 200
