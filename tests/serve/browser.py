"""A headless Chromium, driven through its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 300.0
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The program, if it is installed, and a bash to start it with."""
    return next((found for name in NAMES if (found := shutil.which(name)) and shutil.which("bash")), None)


class Page:
    """A page that is open.

    Args:
        send, take: ends of the pipes.
    """

    def __init__(self, send: int, take: int) -> None:
        self._send, self._take, self._held, self._number, self._session = send, take, b"", 0, ""
        self.messages: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command; what it tells meanwhile goes to `messages`."""
        self._number += 1
        body: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            body["sessionId"] = self._session
        os.write(self._send, json.dumps(body).encode() + b"\0")
        while True:
            while b"\0" not in self._held:
                assert select.select([self._take], [], [], PATIENCE_S)[0], f"no answer to {method}"
                more = os.read(self._take, 1 << 20)
                assert more, "the browser ended"
                self._held += more
            line, _, self._held = self._held.partition(b"\0")
            found = json.loads(line)
            if found.get("id") == self._number:
                assert "error" not in found, found
                return dict(found["result"])
            self.messages.append(found)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait for an expression to be true."""
        end = time.monotonic() + PATIENCE_S
        while not (found := self.run(script)):
            assert time.monotonic() < end, (script, self.run("document.body.innerText"))
            time.sleep(0.05)
        return found

    def open(self, address: str, width: int = 1200, height: int = 800, *, dark: bool = False) -> None:
        """Open a page at a size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        self.until(f"location.href.startsWith({address!r}) && document.readyState === 'complete'")

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key; modifiers: 2 is Ctrl, 8 is Shift."""
        codes = {"Enter": (13, "\r"), "Escape": (27, "")}
        code, text = codes[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def shot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def faults(self) -> list[str]:
        """What the browser complained of: what it blocked, and exceptions; not a server's refusals."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
        told = [message["params"] for message in self.messages if message.get("method") in kinds]
        entries = [(one, one.get("entry", {"level": "error", "source": "script"})) for one in told]
        return [json.dumps(one) for one, entry in entries if entry["level"] == "error" and entry["source"] != "network"]


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page in a browser whose files go to `folder`."""
    program = chromium()
    assert program
    take_in, send = os.pipe()
    take, give_out = os.pipe()
    options = (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
        f"--user-data-dir={folder}",
    )  # fmt: skip
    # The browser reads its commands from the descriptor 3 and writes to 4; a plain sh knows numbers up to 9 alone.
    line = f'exec "$0" "$@" 3<&{take_in} 4>&{give_out}'
    process = subprocess.Popen(
        ["bash", "-c", line, program, *options], pass_fds=(take_in, give_out), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(take_in)
    os.close(give_out)
    try:
        yield Page(send, take)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        os.close(send)
        os.close(take)
