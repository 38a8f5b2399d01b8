"""The text of tokens as they come: whole characters, up to a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BEFORE = 4  # tokens of the prompt that a text's first ones are decoded with: some tokenizers go by what is before
_LONGEST_CHARACTER = 8  # tokens that may go by before a character is whole


class Text:
    """The text of tokens as they come, in whole characters, up to a stop text.

    Args:
        decode: gives the text of ids.
        before: the ids that they go on from.
        stop: texts at which it ends.

    Attributes:
        length: characters of the tokens so far.
        told: characters that were given.
        stopped: whether a stop text came; what is before it was given.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, stop
        # Decoding goes on from the last tokens that gave text: all of them each time would take long.
        self._ids = list(before[-_BEFORE:])
        self._done, self._before = len(self._ids), decode(self._ids)
        self._held = ""
        self.length = self.told = 0
        self.stopped = False

    def add(self, token: int) -> str:
        """What can be given now that `token` came."""
        self._ids = [*self._ids, token]  # not in place: beams copy this
        waiting = len(self._ids) - self._done
        return self._give(self._decoded(waiting >= _LONGEST_CHARACTER))

    def rest(self) -> str:
        """What was held back, at the end."""
        given = self._give(self._decoded(True))
        held, self._held = self._held, ""
        self.told += len(held)
        return given + held

    def _decoded(self, all_of_it: bool) -> str:
        now = self._decode(self._ids)
        if now.endswith("\ufffd") and not all_of_it:
            return ""
        new = now[len(self._before) :]
        if not new:
            return ""
        self._ids = self._ids[self._done :]
        self._done, self._before = len(self._ids), self._decode(self._ids)
        self.length += len(new)
        return new

    def _give(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [place for one in self._stop if (place := text.find(one)) >= 0]
        if found:
            self.stopped = True
            given, self._held = text[: min(found)], ""
        else:
            keep = max((_overlap(text, one) for one in self._stop), default=0)
            given, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self.told += len(given)
        return given


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` may begin with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
