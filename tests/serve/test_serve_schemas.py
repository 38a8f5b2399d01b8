"""JSON schemas that are sent to a server, with every engine: kept to, refused, or told; never passed over.

And chat templates that do too much.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from halfpint.bundle import CARD, Bundle, new_bundle, open_bundle
from halfpint.serve._llama_server import LlamaServer

sys.path.insert(0, str(Path(__file__).parent))
from served import HELLO, Served

pytest.importorskip("llguidance")

HOSTILE: dict[str, Any] = {
    "multiple": {"type": "integer", "multipleOf": 4000037},
    "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 3_000_000},
    "properties": {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(12_000)}},
    "alternatives": {"anyOf": [{"type": "object", "required": [f"p{n}"]} for n in range(3000)]},
    "itself": {"$ref": "#"},
}


@pytest.fixture(scope="module")
def gguf(serve_bundle: Callable[..., Any]) -> Iterator[Served]:
    """llama.cpp."""
    pytest.importorskip("xllamacpp")
    with serve_bundle("gguf", slots=2) as served:
        yield served


def by(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_hostile_schemas_are_refused(served: Served, schema: Any, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        served.chat(response_format=by(schema), stream=stream)
    assert refused.value.param == "response_format"


def test_others_are_answered_while_a_schema_is_compiled(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiling waits here until another request was answered."""
    model: Any = served.app.state.model
    begun, go, real = threading.Event(), threading.Event(), model.check_schema

    def slow(schema: Any) -> None:
        begun.set()
        assert go.wait(60)
        real(schema)

    monkeypatch.setattr(model, "check_schema", slow)
    found: list[Any] = []
    form = by({"enum": ["yes"]})
    asking = threading.Thread(target=lambda: found.append(served.chat(response_format=form)))
    asking.start()
    assert begun.wait(60)
    assert served.http.get("/health").status_code == 200
    assert served.text().choices[0].text
    assert not found
    go.set()
    asking.join(60)
    assert json.loads(found[0].choices[0].message.content) == "yes"


def test_json_that_ends_at_the_limit_says_so(served: Served) -> None:
    form = by({"type": "array", "items": {"type": "string", "minLength": 40}, "minItems": 9})
    choice = served.chat(response_format=form, max_tokens=5).choices[0]
    assert choice.finish_reason == "length"
    with pytest.raises(ValueError, match="line 1"):
        json.loads(choice.message.content)


def test_a_text_that_left_its_schema_is_an_error(gguf: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp writes on without its grammar where that fails; here it never had one."""
    real = LlamaServer.complete

    def ungoverned(self: LlamaServer, body: Any, told: Any) -> None:
        real(self, {name: value for name, value in body.items() if name != "json_schema"}, told)

    monkeypatch.setattr(LlamaServer, "complete", ungoverned)
    form, bias = by({"type": "object", "required": ["a"]}), {"12": -100}
    with pytest.raises(openai.BadRequestError, match="gave up on while writing"):
        gguf.chat(response_format=form, logit_bias=bias)
    body = {"messages": HELLO, "response_format": form, "stream": True, "max_tokens": 12, "seed": 5}
    answer = gguf.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400 or '"error"' in answer.text.splitlines()[-2], answer.text


def test_numbers_that_no_model_takes(gguf: Served) -> None:
    for field, value in (("logit_bias", {"1" * 5000: 1}), ("repetition_penalty", 1e-300), ("seed", "9" * 5000)):
        answer = gguf.http.post("/v1/completions", json={"prompt": "a", field: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_a_template_that_never_ends_leaves_the_rest_of_the_server(
    serve_bundle: Callable[..., Any], bundles: Callable[[str], Bundle], tmp_path: Path
) -> None:
    target = tmp_path / "endless"
    with new_bundle(target, bundles("chat")) as (folder, _):
        for file in bundles("chat").path.iterdir():
            if file.name != CARD:
                shutil.copyfile(file, folder / file.name)
        loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        (folder / "chat_template.jinja").write_text(loops, encoding="utf-8")
    with serve_bundle(open_bundle(target)) as served:
        assert served.http.get("/health").json()["chat"] is False
        with pytest.raises(openai.BadRequestError, match="cannot chat: its chat template: more than"):
            served.chat()
        assert served.text().choices[0].text
