"""The pages of language models in a real browser, under the policy that lets nothing of others run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from halfpint.bundle import Bundle
from halfpint.serve.language import build_app

sys.path.insert(0, str(Path(__file__).parent))
from browser import Page, browser, chromium

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
CTRL = 2


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page in a browser."""
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


def fits(page: Page) -> bool:
    return bool(page.run("document.documentElement.scrollWidth <= window.innerWidth"))


def test_a_conversation(
    page: Page,
    bundles: Callable[[str], Bundle],
    listening: Callable[[Any], AbstractContextManager[str]],
    tmp_path: Path,
) -> None:
    app = build_app(bundles("chat").path, threads=1, api_key="schlüssel")
    with listening(app) as address:
        page.open(f"{address}/", 390, 844, dark=True)
        page.until("!at('go').disabled")
        assert page.run("document.title") == "chat – halfpint"
        page.type("<b>Where</b>?")
        page.press("Enter")
        assert "API key" in page.until("at('fault').textContent")
        assert page.run("at('text').value") == "<b>Where</b>?", "what was typed is not lost"
        page.run("at('key').value = 'schlüssel'; at('tokens').value = 4; at('temperature').value = 0")
        page.press("Enter")
        page.until("at('figures').textContent.startsWith('4 tokens')")
        assert page.run("at('fault').hidden")
        assert page.run("document.querySelector('.user .said').innerHTML") == "&lt;b&gt;Where&lt;/b&gt;?"
        first = page.run("document.querySelector('.assistant .said').textContent")
        assert first
        page.type("And?")
        page.press("Enter")
        page.until("document.querySelectorAll('.turn').length === 4 && !running")
        assert page.run("turns.map((turn) => turn.role).join()") == "user,assistant,user,assistant"
        assert page.run("turns[1].content") == first
        assert fits(page)
        page.shot(tmp_path / "chat.png")
        assert (tmp_path / "chat.png").stat().st_size > 5000
        page.run("at('new').click()")
        assert page.run("[turns.length, at('talk').hidden, at('new').disabled].join()") == "0,true,true"
        assert page.faults() == []


def test_a_text_is_gone_on_with_and_stopped(
    page: Page, bundles: Callable[[str], Bundle], listening: Callable[[Any], AbstractContextManager[str]]
) -> None:
    with listening(build_app(bundles("ngram").path)) as address:
        page.open(f"{address}/?text=I%20was%20charged")  # begins by itself
        written = page.until("at('figures').textContent && at('text').value")
        assert written.startswith("I was charged ") and len(written) > len("I was charged ")
        assert page.run("[at('go').textContent, at('system-field').hidden].join()") == "Continue,true"
        written = "My card "
        for _ in range(20):  # what is drawn may be the end at once
            page.run("at('text').value = 'My card '; at('figures').textContent = ''")
            page.press("Enter", CTRL)
            written = page.until("at('figures').textContent && at('text').value")
            if len(written) > len("My card "):
                break
        assert written.startswith("My card ") and len(written) > len("My card ")
        page.press("Escape")  # with nothing to stop it does nothing
        assert fits(page)
        assert page.faults() == []
