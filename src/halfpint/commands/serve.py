"""`halfpint serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from halfpint.command import Command, Group, Result, option, positional
from halfpint.progress import Log


@dataclass(frozen=True)
class Served(Result):
    """A server that has ended."""

    @property
    def is_shown(self) -> bool:
        """The log has said all."""
        return True

    def __str__(self) -> str:
        return "Stopped."


@dataclass(frozen=True, kw_only=True)
class Serve(Command):
    """Serve a model over HTTP, with a page to try it: /v1/classify, /v1/tag, or OpenAI's API for a language model.

    Args:
        bundle: Model folder, such as OUT/best.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: API key that requests must send.
        max_batch: Most texts per request.
        max_body: Largest request, such as 1MB.
        max_queue: Most requests that may wait; further ones are refused and asked to retry.
        timeout: Time limit per request in seconds; 0 takes 30 for classifiers, 600 for language models.
        slots: Texts generated at the same time by a language model; 0 takes 4.
        context: Context length in tokens, prompt and answer together; 0 goes by the model and the memory.
        threads: Threads of the engine; 0 takes all cores.
        allow_host: Other name by which a server without a key may be called, as behind a proxy; repeatable.
    """

    group: ClassVar[Group] = Group.USE
    synonyms: ClassVar[tuple[str, ...]] = ("server", "deploy", "api")

    bundle: str = positional(metavar="BUNDLE")
    host: str = option("127.0.0.1", metavar="ADDRESS")
    port: int = 8000
    api_key: str = option("", metavar="KEY", env="HALFPINT_API_KEY")
    max_batch: int = 256
    max_body: str = option("1MB", metavar="SIZE")
    max_queue: int = 64
    timeout: float = option(0.0, metavar="SECONDS")
    slots: int = 0
    context: int = 0
    threads: int = 0
    allow_host: tuple[str, ...] = option((), metavar="NAME")

    def run(self, log: Log) -> Served:
        """Serve until SIGTERM or Ctrl-C."""
        from halfpint.models.pull_language import find_bundle
        from halfpint.search.limits import parse_size
        from halfpint.serve.run import serve

        serve(
            find_bundle(self.bundle, log).path,
            host=self.host,
            port=self.port,
            api_key=self.api_key or None,
            max_batch=self.max_batch,
            max_body_bytes=parse_size(self.max_body, "--max-body"),
            max_queue=self.max_queue,
            timeout_s=self.timeout or None,
            slots=self.slots or None,
            context=self.context or None,
            threads=self.threads or None,
            allow_hosts=self.allow_host,
            log=log,
        )
        return Served()
