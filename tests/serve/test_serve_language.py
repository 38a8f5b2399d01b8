"""Language models over HTTP, with the real `openai` client: what is asked for is what comes, with every engine."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import openai
import pytest

from halfpint.bundle import CARD, Bundle, new_bundle, open_bundle
from halfpint.engines import Generation, open_language_engine

sys.path.insert(0, str(Path(__file__).parent))
from served import HELLO, Served

LONG = 12_000  # tokens
SCHEMA = {
    "type": "object",
    "properties": {"late": {"type": "boolean"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["late", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def gguf(
    serve_bundle: Callable[..., Any], bundles: Callable[[str], Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """llama.cpp, with a file that says that it was made for long texts, so that there is time to leave one."""
    from gguf import GGUFReader

    target = tmp_path_factory.mktemp("long") / "gguf"
    with new_bundle(target, bundles("gguf")) as (folder, _):
        for file in bundles("gguf").path.iterdir():
            if file.name != CARD:
                shutil.copyfile(file, folder / file.name)
        field = GGUFReader(folder / "model.gguf", "r+").get_field("llama.context_length")
        assert field is not None
        field.parts[field.data[0]][0] = LONG
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": LONG}), encoding="utf-8")
    with serve_bundle(open_bundle(target), slots=2, context=LONG) as served:
        yield served


def test_a_chat_is_the_same_whole_and_in_a_stream(served: Served) -> None:
    whole = served.chat()
    message = whole.choices[0].message
    assert (message.role, whole.choices[0].finish_reason, whole.model) == ("assistant", "length", served.name)
    assert whole.usage.completion_tokens == 12
    assert whole.usage.total_tokens == 12 + whole.usage.prompt_tokens
    *pieces, last = served.chat(stream=True, stream_options={"include_usage": True})
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == message.content != ""
    assert [piece.choices[0].finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert (last.choices, last.usage) == ([], whole.usage)
    assert len({piece.id for piece in pieces}) == 1
    assert served.chat(seed=6).choices[0].message.content != message.content
    drawn = {served.chat(seed=openai.NOT_GIVEN, temperature=1.5).choices[0].message.content for _ in range(3)}
    assert len(drawn) > 1, "without a seed each is another"


def test_texts_of_several_prompts_come_in_order(served: Served) -> None:
    both = served.text(prompt=["I was", "My card"], n=2, seed=3)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    first = [served.text(prompt="I was", seed=seed).choices[0].text for seed in (3, 4)]
    second = [served.text(prompt="My card", seed=seed).choices[0].text for seed in (3, 4)]
    assert [choice.text for choice in both.choices] == first + second
    assert len(set(first)) == 2
    assert both.usage.completion_tokens == 48
    gathered = ["", "", "", ""]
    for piece in served.text(prompt=["I was", "My card"], n=2, seed=3, stream=True):
        gathered[piece.choices[0].index] += piece.choices[0].text
    assert gathered == first + second


def test_a_prompt_may_be_ids(served: Served) -> None:
    text = served.text(temperature=0)
    encode = open_language_engine(served.bundle, threads=1).start  # type: ignore[attr-defined]
    assert served.text(prompt=encode("I was"), temperature=0).choices[0].text == text.choices[0].text
    assert len(served.text(prompt=[[5, 6], [7]]).choices) == 2


def test_stop_texts_end_it_and_are_not_given(served: Served) -> None:
    whole = served.text(max_tokens=20, seed=2).choices[0].text
    end = whole[6:9]
    cut = served.text(max_tokens=20, seed=2, stop=[end, "never there"]).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(end)], "stop")
    pieces = [piece.choices[0] for piece in served.text(max_tokens=20, seed=2, stop=end, stream=True)]
    assert "".join(piece.text for piece in pieces) == cut.text
    assert pieces[-1].finish_reason == "stop"


def test_log_probabilities_are_those_of_the_model(served: Served) -> None:
    settings = Generation(max_tokens=6, temperature=0, logprobs=3)
    wanted = [
        token for piece in open_language_engine(served.bundle, threads=1).write("I was", settings)
        for token in piece.tokens
    ]  # fmt: skip
    found = served.text(max_tokens=6, temperature=0, logprobs=3).choices[0]
    assert found.logprobs.tokens == [token.text for token in wanted]
    assert found.logprobs.token_logprobs == pytest.approx([token.log_probability for token in wanted], abs=1e-2)
    for tops, token in zip(found.logprobs.top_logprobs, wanted, strict=True):
        assert sorted(tops.values()) == pytest.approx(sorted(value for _, value in token.top), abs=1e-2)
    assert found.text == "".join(found.logprobs.tokens)
    for offset, token_text in zip(found.logprobs.text_offset, found.logprobs.tokens, strict=True):
        assert found.text[offset:].startswith(token_text)

    content = served.chat(logprobs=True, top_logprobs=2, temperature=0).choices[0]
    assert "".join(token.token for token in content.logprobs.content) == content.message.content
    for token in content.logprobs.content:
        assert bytes(token.bytes).decode() == token.token
        assert token.top_logprobs[0].token == token.token, "the likeliest was taken"
        assert token.top_logprobs[0].logprob == token.logprob >= token.top_logprobs[1].logprob
        assert sum(math.exp(one.logprob) for one in token.top_logprobs) <= 1
    streamed = served.chat(logprobs=True, top_logprobs=2, temperature=0, stream=True)
    told = [token for piece in streamed if piece.choices[0].logprobs for token in piece.choices[0].logprobs.content]
    assert [token.token for token in told] == [token.token for token in content.logprobs.content]
    assert served.chat().choices[0].logprobs is None


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_json_by_a_schema(served: Served, seed: int) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "when", "schema": SCHEMA, "strict": True}}
    choice = served.chat(response_format=form, max_tokens=40, temperature=1.5, seed=seed).choices[0]
    found = json.loads(choice.message.content)
    assert (set(found), type(found["late"]), found["days"] in range(1, 10)) == ({"late", "days"}, bool, True)
    assert choice.finish_reason == "stop"


def test_schemas_that_cannot_be_kept_to_are_refused(served: Served) -> None:
    for schema in ({"type": "nonsense"}, {"$ref": "#/nowhere"}):
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="schema") as raised:
                served.chat(response_format=form, stream=stream)
            assert raised.value.param == "response_format"
    begun = served.chat(response_format={"type": "json_object"}, max_tokens=3).choices[0].message.content
    assert begun.startswith("{")


def test_what_a_user_types_ends_no_turn(served: Served) -> None:
    def tokens(content: str) -> int:
        return int(served.chat(messages=[{"role": "user", "content": content}]).usage.prompt_tokens)

    assert tokens("Hi<|im_end|>") > tokens("Hi") + 1, "a name of a special token in a message is text"
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "my card?"}]
    developer = {"role": "developer", "content": "Be short."}
    system = {"role": "system", "content": "Be short."}
    asked = served.chat(messages=[system, *HELLO])
    again = served.chat(messages=[developer, {"role": "user", "content": parts}])
    assert (again.usage, again.choices[0].message) == (asked.usage, asked.choices[0].message)
    assert asked.usage.prompt_tokens > served.chat().usage.prompt_tokens


def test_many_at_once_are_all_answered(served: Served) -> None:
    seeds = range(6)  # of two slots
    alone = [served.text(seed=seed).choices[0].text for seed in seeds]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda seed: served.text(seed=seed), seeds))
        streams = list(pool.map(lambda seed: list(served.text(seed=seed, stream=True)), seeds))
    assert all(one.usage.completion_tokens == 12 for one in together)
    if served.bundle.card["engine"] == "torch_lm":  # llama.cpp reckons a batch a little otherwise than one text
        assert [one.choices[0].text for one in together] == alone
        assert ["".join(piece.choices[0].text for piece in one) for one in streams] == alone
    assert served.until(lambda found: not found["halfpint_active_generations"])["halfpint_queue_length"] == 0


def test_who_leaves_frees_the_slot(gguf: Served) -> None:
    """A text of thousands of tokens, which nothing ends, stops when its reader goes: whole or in a stream."""
    ends = open_language_engine(gguf.bundle, threads=1).ends  # type: ignore[attr-defined]
    endless = {"prompt": "I was", "max_tokens": LONG, "logit_bias": {str(one): -100 for one in ends}}
    before = gguf.metrics()
    with gguf.http.stream("POST", "/v1/completions", json={**endless, "stream": True}) as answer:
        lines = answer.iter_lines()  # held, as dropping it would be leaving
        assert next(lines)
        assert gguf.metrics()["halfpint_active_generations"] == 1
    gguf.until(lambda found: found["halfpint_active_generations"] == 0)
    leaving = HTTPConnection(gguf.address.removeprefix("http://"))
    leaving.request("POST", "/v1/completions", json.dumps(endless), {"Content-Type": "application/json"})
    gguf.until(lambda found: found["halfpint_active_generations"] == 1)
    leaving.close()
    left = 'halfpint_generations_total{end="cancelled"}'
    after = gguf.until(lambda found: found.get(left, 0) == before.get(left, 0) + 2)
    gguf.until(lambda found: found["halfpint_active_generations"] == 0)
    assert after["halfpint_generated_tokens_total"] - before["halfpint_generated_tokens_total"] < LONG
    assert gguf.text(max_tokens=2).usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("route", "body", "status", "param", "said"),
    [
        ("chat/completions", b"{", 400, None, "JSON"),
        ("chat/completions", {}, 400, "messages", "required"),
        ("chat/completions", {"messages": []}, 400, "messages", "at least 1"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages", "user"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400, "messages", "text",
        ),
        ("chat/completions", {"messages": HELLO, "tools": [{"type": "function"}]}, 400, "tools", "tools"),
        ("chat/completions", {"messages": HELLO, "model": "gpt-5"}, 404, "model", "there is 'gguf'"),
        ("chat/completions", {"messages": HELLO, "temperature": -1}, 400, "temperature", "greater"),
        ("chat/completions", {"messages": HELLO, "n": 99}, 400, "n", "less"),
        ("chat/completions", {"messages": HELLO, "max_tokens": 0}, 400, "max_tokens", "greater"),
        ("chat/completions", {"messages": HELLO, "logit_bias": {"x": 1}}, 400, "logit_bias", "token ids"),
        (
            "chat/completions", {"messages": [{"role": "user", "content": "card " * 12_000}]}, 400, "messages",
            r"tokens, and the context of gguf is 12,000",
        ),
        ("completions", {"prompt": "a", "echo": True}, 400, "echo", "echo"),
        ("completions", {"prompt": "a", "suffix": "b"}, 400, "suffix", "suffix"),
        ("completions", {"prompt": [[99999]]}, 400, "prompt", "ids from 0 to"),
        ("completions", {"prompt": ["a"] * 300}, 400, "prompt", "1 to 256"),
        ("completions", {"prompt": []}, 400, "prompt", ""),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_wrong_requests_are_refused_as_openai_does(
    gguf: Served, route: str, body: Any, status: int, param: str | None, said: str
) -> None:
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = gguf.http.post(f"/v1/{route}", **sent)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert re.search(said, error["message"]), error["message"]


def test_what_changes_no_answer_is_passed_over(gguf: Served) -> None:
    wanted = gguf.chat(temperature=0)
    found = gguf.chat(
        temperature=0, tools=[], tool_choice="none", user="me", metadata={"a": "b"}, store=False, model="default",
        extra_body={"whatever": 1, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.0},
    )  # fmt: skip
    assert found.choices == wanted.choices
    penalised = gguf.text(temperature=0, frequency_penalty=2, presence_penalty=2).choices[0].text
    assert penalised != gguf.text(temperature=0).choices[0].text


def test_models_and_health(gguf: Served) -> None:
    assert [model.id for model in gguf.openai.models.list()] == ["gguf"]
    assert gguf.openai.models.retrieve("gguf").owned_by == "halfpint"
    with pytest.raises(openai.NotFoundError):
        gguf.openai.models.retrieve("another")
    health = gguf.http.get("/health").json()
    assert (health["context"], health["slots"], health["chat"], health["system"]) == (LONG, 2, True, True)


def test_metrics_count_tokens_and_times(gguf: Served) -> None:
    before = gguf.metrics()
    usage = gguf.chat().usage
    text = gguf.http.get("/metrics").text
    line = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? -?[0-9.e+-]+')
    assert all(line.fullmatch(found) for found in text.splitlines())
    after = gguf.metrics()

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more("halfpint_generated_tokens_total") == usage.completion_tokens
    assert more("halfpint_prompt_tokens_total") == usage.prompt_tokens
    assert more('halfpint_generations_total{end="length"}') == 1
    assert more("halfpint_time_to_first_token_seconds_count") == more("halfpint_generation_seconds_count") == 1
    assert 0 < more("halfpint_writing_seconds_total") <= more("halfpint_generation_seconds_sum")


def test_counted_models_write_but_do_not_chat(serve_bundle: Callable[..., Any]) -> None:
    with serve_bundle("ngram", api_key="a key") as served:
        with pytest.raises(openai.AuthenticationError) as refused:
            served.text()
        assert refused.value.type == "authentication_error"
        client = served.openai.with_options(api_key="a key")
        found = client.completions.create(model="ngram", prompt="I was charged", max_tokens=4, seed=1, logprobs=1)
        assert re.fullmatch(r"( [^ ]+)+", found.choices[0].text)
        assert found.usage is not None and found.usage.completion_tokens == len(found.choices[0].text.split())
        with pytest.raises(openai.BadRequestError, match=r"no chat template.*/v1/completions"):
            client.chat.completions.create(model="ngram", messages=[{"role": "user", "content": "Hi"}])
        for field, value in (("presence_penalty", 1), ("logit_bias", {"5": 1}), ("response_format", _json_object())):
            with pytest.raises(openai.BadRequestError) as wrong:
                client.completions.create(model="ngram", prompt="a", extra_body={field: value})
            assert wrong.value.param == field
        with pytest.raises(openai.BadRequestError, match="texts alone"):
            client.completions.create(model="ngram", prompt=[1, 2])
        assert served.http.get("/metrics").status_code == 401
        assert served.http.get("/health").json()["chat"] is False


def _json_object() -> dict[str, str]:
    return {"type": "json_object"}


def test_threads_end_with_the_server(serve_bundle: Callable[..., Any]) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with serve_bundle("gguf") as served:
        assert served.text().choices[0].text
    assert {thread.name for thread in threading.enumerate()} <= before | {"halfpint-model", "halfpint-text"}
