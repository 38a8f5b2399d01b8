"""A running server of a language model, with clients of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from halfpint.bundle import Bundle

PATIENCE_S = 300.0
HELLO = [{"role": "user", "content": "Where is my card?"}]


@dataclass
class Served:
    """A running server with clients of it."""

    address: str
    name: str
    bundle: Bundle
    openai: openai.OpenAI
    http: httpx.Client
    app: Any

    def metrics(self) -> dict[str, float]:
        lines = self.http.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def until(self, true: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        end = time.monotonic() + PATIENCE_S
        while not true(found := self.metrics()):
            assert time.monotonic() < end, found
            time.sleep(0.01)
        return found

    def chat(self, **more: Any) -> Any:
        given = {"model": self.name, "messages": HELLO, "max_tokens": 12, "seed": 5, **more}
        return self.openai.chat.completions.create(**given)

    def text(self, **more: Any) -> Any:
        return self.openai.completions.create(**{"model": self.name, "prompt": "I was", "max_tokens": 12, **more})
