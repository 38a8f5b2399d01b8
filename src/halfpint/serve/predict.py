"""Serving language models that go on with a text (and answer in a chat, where they have a chat template)."""

from __future__ import annotations

from functools import partial

from halfpint.serve import _openai

build_app = partial(_openai.build_app, task="predict")
how_to_call = _openai.how_to_call
