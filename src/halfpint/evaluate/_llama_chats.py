"""Print chats (a JSON list) as llama.cpp's server renders them: `python -m halfpint.evaluate._llama_chats GGUF CHATS`.

It runs in a process of its own that ends without taking the server down: that waits for ever now and then
(xllamacpp 2026.10, one run in some fifty).
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfpint.errors import need
from halfpint.machine import end_with_parent

_ALIVE: list[Any] = []  # nothing takes a server down


def rendered(file: Path, chats: Sequence[Any]) -> list[str]:
    """The chats as the server renders them with the template in a GGUF file."""
    package = need("xllamacpp", "checking a chat template")
    settings = package.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.warmup, settings.use_jinja = 64, 1, False, True
    settings.verbosity = 0
    server = package.Server(settings)
    _ALIVE.append(server)
    found = []
    for chat in chats:
        body = json.dumps({"messages": chat}).encode()
        asked = urllib.request.Request(
            f"{server.listening_address}/apply-template", body, {"Content-Type": "application/json"}
        )  # fmt: skip
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found.append(str(json.load(answer)["prompt"]))
    return found


if __name__ == "__main__":
    end_with_parent()
    print(json.dumps(rendered(Path(sys.argv[1]), json.loads(sys.argv[2]))), flush=True)
    os._exit(0)
