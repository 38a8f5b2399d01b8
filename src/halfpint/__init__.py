"""halfpint: small language models, from raw text to production, on hardware you own.

Every command is a function: `halfpint.fit("tickets.csv", max_size="25MB")`; `halfpint.load("out/best")` gives a model.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

__version__ = "0.1.0"

_ELSEWHERE = {"load": "model", "Model": "model", "Answer": "model", "Score": "model", "HalfpintError": "errors"}


def _is_command(name: str) -> bool:
    return not name.startswith("_") and os.path.isfile(os.path.join(__path__[0], "commands", f"{name}.py"))


def __getattr__(name: str) -> object:
    """A command as a function, or what is public elsewhere; nothing is loaded before it is asked for."""
    if name in _ELSEWHERE:
        from importlib import import_module

        return getattr(import_module(f"halfpint.{_ELSEWHERE[name]}"), name)
    if _is_command(name):
        from halfpint.functions import function

        return function(name)
    raise AttributeError(f"module 'halfpint' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = os.listdir(os.path.join(__path__[0], "commands"))
    return sorted({*globals(), *_ELSEWHERE, *(name[:-3] for name in names if _is_command(name[:-3]))})


def _function(module: ModuleType) -> object:
    from halfpint.functions import function

    return function(module.__name__.rpartition(".")[2])


class _Room(ModuleType):  # a module with the name of a command, such as halfpint.evaluate: calling it runs the command
    __doc__ = property(lambda self: _function(self).__doc__)
    __signature__ = property(lambda self: _function(self).__signature__)

    def __call__(self, *args: object, **keywords: object) -> object:
        return _function(self)(*args, **keywords)


class _House(ModuleType):
    """This package. Importing one of its modules sets an attribute, which would hide a command of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _is_command(name):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _House
