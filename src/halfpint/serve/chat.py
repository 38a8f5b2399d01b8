"""Serving language models that were taught to answer in a conversation."""

from __future__ import annotations

from functools import partial

from halfpint.serve import _openai

build_app = partial(_openai.build_app, task="chat")
how_to_call = _openai.how_to_call
