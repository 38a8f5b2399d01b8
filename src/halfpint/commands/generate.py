"""`halfpint generate`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import ClassVar

from halfpint.command import Group, Result, option, positional
from halfpint.commands._writing import CUT_OFF, Writing, Written, generate, scores_shown
from halfpint.progress import Log


@dataclass(frozen=True)
class Generated(Result):
    """What a language model wrote.

    Attributes:
        prompt: what it was given.
        written: its texts, best first, with tokens and seconds.
        with_prompt: whether the text is shown behind the prompt that it continues.
        with_scores: whether the log-probability of each token is shown.
        is_ranked: whether several texts were asked for.
        is_cut: whether a text that was to follow a JSON schema ended at the token limit: it is no whole value.
    """

    prompt: str
    written: Written
    with_prompt: bool = False
    with_scores: bool = False
    is_ranked: bool = False
    is_cut: bool = False

    @property
    def exit_code(self) -> int:
        """1 where JSON was cut off."""
        return int(self.is_cut)

    @property
    def text(self) -> str:
        """The text, the best one of several."""
        return self.written.texts[0].text if self.written.texts else ""

    @property
    def texts(self) -> list[str]:
        """All texts, best first."""
        return [one.text for one in self.written.texts]

    def as_json(self) -> str:
        """One object with the text and its figures."""
        figures = self.written.figures(scores=self.with_scores)
        return json.dumps({"prompt": self.prompt, **figures}, ensure_ascii=False)

    def __str__(self) -> str:
        lines = [] if self.is_ranked else [(self.prompt if self.with_prompt else "") + self.text]
        for one in self.written.texts:
            lines += [f"{one.mean_log_probability:9.3f}  {one.text}"] if self.is_ranked else []
            lines += scores_shown(one.tokens) if self.with_scores else []
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Generate(Writing):
    """Continue a text with a language model, or answer a message; the text appears as it is generated.

    Args:
        bundle: Folder of a language model, or a base model's name.
        prompt: Text to continue, or message to answer; - reads standard input.
        n_best: Number of texts, best first: sampled, or by beam search at --temperature 0.
        logprobs: Show each token's log-probability and this many of the most likely tokens there.
        chat: Treat PROMPT as a message to answer (default: for chat models).
        json: Print JSON and nothing else.
    """

    group: ClassVar[Group] = Group.USE
    synonyms: ClassVar[tuple[str, ...]] = ("complete", "continue", "write")

    bundle: str = positional(metavar="BUNDLE")
    prompt: str = positional("", metavar="PROMPT")
    n_best: int = option(1, least=1)
    logprobs: int | None = option(None, least=0)
    chat: bool | None = None
    json: bool = False

    def run(self, log: Log) -> Generated:
        """Generate; the pieces of one text go to `log.pieces` as they come."""
        from halfpint.engines import as_chat
        from halfpint.lookup import need_command
        from halfpint.models.pull_language import find_bundle

        settings = self.generation(logprobs=self.logprobs)
        bundle = find_bundle(self.bundle, log)
        need_command(bundle, self.word())
        prompt = sys.stdin.read().removesuffix("\n") if self.prompt == "-" else self.prompt
        with_prompt = not (as_chat(bundle, self.chat) or self.json_schema)
        pieces, begun = log.pieces, False

        def tell(piece: str) -> None:
            nonlocal begun
            assert pieces is not None
            pieces(piece if begun or not with_prompt else prompt + piece)
            begun = True

        streams = pieces is not None and self.n_best == 1 and not self.json
        written = generate(
            bundle, prompt, settings, best=self.n_best, chat=self.chat, system=self.system,
            tell=tell if streams else None,
        )  # fmt: skip
        is_cut = settings.schema is not None and any(one.finish == "length" for one in written.texts)
        if is_cut:
            log.write(CUT_OFF)
        return Generated(prompt, written, with_prompt, self.logprobs is not None, self.n_best > 1, is_cut)
