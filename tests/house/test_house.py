"""The rules of the house, held over the syntax trees: a rule that nothing checks does not count."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from halfpint import registry
from halfpint.command import Result, command_class, command_names, settings_of
from halfpint.errors import HalfpintError
from halfpint.lookup import tasks
from halfpint.models import architectures
from halfpint.search.fit import Request
from halfpint.search.limits import Limits
from halfpint.stage import Stage, stage_class
from halfpint.tokenizers.train import TokenizerSettings

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "halfpint"
FILES = sorted(SOURCE.rglob("*.py"))

# A room imports from floors below its own: never from above, never from another room of its own floor.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "terminal", "settings"),
    ("files", "progress", "registry", "machine", "counts", "outputs"),
    ("energy", "command", "machine_speed"),
    ("bundle",),
    ("task", "workspace"),
    ("lookup",),
    ("data", "tokenizers"),
    ("stage",),
    ("models", "tasks"),
    ("engines",),
    ("train", "compress", "export", "evaluate", "report", "serve"),
    ("distil",),
    ("pipeline",),
    ("recipe",),
    ("search",),
    ("model",),
    ("commands",),
    ("functions", "cli"),
    ("__main__",),
)
LIGHT = ("errors", "progress", "registry", "machine", "energy", "command", "commands", "functions", "cli")
"""What every command line loads: no NumPy either, not even by what these files import from the house."""

HEAVY = {
    "accelerate", "cleanlab", "datasets", "fastapi", "huggingface_hub", "onnx", "onnxruntime", "onnxscript", "pandas",
    "peft", "pyarrow", "pydantic", "rich", "safetensors", "scipy", "sklearn", "starlette", "tokenizers", "torch",
    "transformers", "compressed_tensors", "gguf", "uvicorn", "xllamacpp", "jinja2", "llguidance",
}  # fmt: skip
WEB = {"fastapi", "pydantic", "starlette"}
# Files that are classes of a heavy package, and are themselves imported inside functions alone.
HEAVY_FILES = {
    "models.pooled_classifier": {"torch", "transformers"},
    "models.tagger": {"torch", "transformers"},
    "models._adaptive_softmax": {"torch"},
    "models._low_rank": {"torch"},
    "models._relative_attention": {"torch"},
    "models.word_tagger": {"torch"},
    "serve.classify": {"pydantic"},
    "serve._labels_app": WEB,
    "serve.tag": {"pydantic"},
    "serve._http": WEB,
    "serve._events": {"starlette"},
    "serve._about": WEB,
    "serve._connections": {"uvicorn"},
    "serve.language": WEB,
    "serve._openai_fields": {"pydantic"},
    "serve._openai_requests": {"pydantic"},
    "models._quick_attention": {"torch"},
    "models._quick_scan": {"torch"},
    "train._cross_entropy": {"torch"},
    "models.quick_passes": {"torch", "transformers"},
    "train._muon": {"torch"},
}
HEAVY_FILES |= {
    module.removeprefix("halfpint."): {"torch", "transformers"}
    for module in architectures.own().values()
    if module.startswith("halfpint.")
}
for _task in tasks():  # what serves a task and the head of its network are such files too
    HEAVY_FILES.setdefault(f"serve.{_task.routes}", WEB)
    if _task.head:
        HEAVY_FILES.setdefault(f"models.{_task.head}", {"torch", "transformers"})


def name_of(path: Path) -> str:
    """The module's name below `halfpint`, such as "train.loop"; a package has its own."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes(root: ast.AST, *, run_at_import: bool = False) -> Iterator[ast.AST]:
    """All nodes below `root`; with `run_at_import` those in no function and under no TYPE_CHECKING."""
    for node in ast.iter_child_nodes(root):
        skipped = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or for_types_alone(node)
        if not (run_at_import and skipped):
            yield node
            yield from nodes(node, run_at_import=run_at_import)


def imported(path: Path, *, run_at_import: bool = False) -> Iterator[str]:
    """Full names of what a file imports; "from a import b" gives both a and a.b."""
    for node in nodes(tree(path), run_at_import=run_at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)


def own(name: str) -> str:
    return name.removeprefix("halfpint").removeprefix(".")


def is_module(name: str) -> bool:
    path = SOURCE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def file_of(name: str) -> Path | None:
    """The file of a module of the house by its name in an import; None of anything else."""
    path = SOURCE.joinpath(*own(name).split("."))
    found = (path / "__init__.py", path.with_suffix(".py")) if name.startswith("halfpint.") else ()
    return next((one for one in found if one.is_file()), None)


def light_files() -> set[Path]:
    """The files that a command line loads before it runs a command: those of `LIGHT`, and what they import on import.

    A private file of commands/ is among them only where a command imports it at its top, as the settings that several
    share; what a command imports inside `run` may be as heavy as its work is.
    """
    todo = [
        path for path in FILES
        if name_of(path).split(".")[0] in LIGHT and not (path.parent.name == "commands" and path.name.startswith("_"))
    ]  # fmt: skip
    found: set[Path] = set()
    while todo:
        if (path := todo.pop()) not in found:
            found.add(path)
            todo += [one for name in imported(path, run_at_import=True) if (one := file_of(name))]
    return found


def stages() -> Iterator[type[Stage]]:
    for room in ("models", "train", "compress", "distil", "export"):
        for name in registry.variants(room):
            try:
                yield stage_class(f"{room}/{name}", "here")
            except HalfpintError:
                continue


STAGES = list(stages())
COMMANDS = [command_class(name) for name in command_names()]
DATA = [task.data for task in tasks()]
SETTINGS: list[type[Any]] = [*STAGES, *COMMANDS, *DATA, TokenizerSettings, Limits, Request]


def test_every_file_has_its_floor() -> None:
    rooms = {name_of(path).split(".")[0] for path in FILES} - {"__init__"}
    listed = [room for floor in FLOORS for room in floor]
    assert sorted(rooms) == sorted(listed)


def test_imports_run_downwards() -> None:
    height = {room: number for number, floor in enumerate(FLOORS) for room in floor} | {"__init__": len(FLOORS)}
    wrong = []
    for path in FILES:
        room = name_of(path).split(".")[0]
        for name in imported(path):
            other = own(name).split(".")[0]
            if name.startswith("halfpint.") and other in height and other != room and height[other] >= height[room]:
                wrong.append(f"{name_of(path)} imports {name}")
    assert not wrong


def test_the_insides_of_a_room_stay_in_it() -> None:
    found = set()
    for path in FILES:
        for name in imported(path):
            parts = own(name).split(".")
            private = any(part.startswith("_") and not part.startswith("__") for part in parts)
            if name.startswith("halfpint.") and private and parts[0] != name_of(path).split(".")[0]:
                inside = ".".join(parts[:2])
                found.add((name_of(path), inside if is_module(inside) else own(name)))
    assert found == set()


def test_no_room_knows_a_task_by_its_name() -> None:
    """Outside tasks/ nothing imports one, and nothing decides by a name: rooms ask `halfpint.task`."""
    names = "|".join([*registry.variants("tasks"), "language"])
    wrong = []
    for path in FILES:
        if path.parent.name == "tasks":
            continue
        wrong += [f"{name_of(path)} imports {name}" for name in imported(path) if name.startswith("halfpint.tasks")]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            wrong += [f"{name_of(path)}:{number}: {word}" for word in re.findall(rf'"(?:{names})"', line)]
    assert not wrong


def test_heavy_packages_are_imported_inside_functions() -> None:
    wrong, light = [], light_files()
    for path in FILES:
        banned = HEAVY - HEAVY_FILES.get(name_of(path), set())
        if path in light:
            banned = banned | {"numpy"}
        wrong += [
            f"{name_of(path)} imports {name}"
            for name in imported(path, run_at_import=True)
            if name.split(".")[0] in banned
        ]
    assert not wrong


def test_importing_the_house_loads_nothing_heavy() -> None:
    names = [f"halfpint.{name_of(path)}" for path in FILES if name_of(path) not in (*HEAVY_FILES, "__main__")]
    code = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)
    code += f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_help_loads_next_to_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "halfpint", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Usage:" in done.stdout
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded, "the list of imports has another form"
    assert not loaded & (HEAVY | {"numpy"})


@pytest.mark.parametrize("folder", ["src", "tests", "docs", "examples", "benchmarks"])
def test_no_file_is_longer_than_400_lines(folder: str) -> None:
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__module__.removeprefix("halfpint."))
def test_every_setting_is_read(kind: type[Any]) -> None:
    """Settings of stages and commands are read in the room of the class that declares them, the others anywhere."""
    for item in dataclasses.fields(kind):
        holder = next(one for one in reversed(kind.__mro__) if item.name in vars(one).get("__annotations__", {}))
        if item.name in ("quiet", "json", "given") and kind in COMMANDS:
            continue  # they are read by the base class and by `cli`
        folder = SOURCE / holder.__module__.split(".")[1] if kind in [*STAGES, *COMMANDS] else SOURCE
        read = (
            isinstance(node, ast.Attribute) and node.attr == item.name and isinstance(node.ctx, ast.Load)
            for path in sorted(folder.rglob("*.py"))
            for node in nodes(tree(path))
        )  # fmt: skip
        assert any(read), f"nothing reads {kind.__name__}.{item.name}"


def test_everything_public_says_what_it_is() -> None:
    silent = []
    for path in FILES:
        if ast.get_docstring(tree(path)) is None:
            silent.append(name_of(path))
        holders: list[ast.Module | ast.ClassDef] = [tree(path)]
        holders += [
            node for node in tree(path).body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
        for node in (node for holder in holders for node in holder.body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                silent += [] if ast.get_docstring(node) else [f"{name_of(path)}:{node.lineno}: {node.name}"]
    assert not silent


def test_every_setting_of_a_stage_is_explained() -> None:
    for kind in [*STAGES, *DATA, TokenizerSettings]:
        told = " ".join(one.__doc__ or "" for one in kind.__mro__ if one is not Stage)
        named = {word for line in re.findall(r"^ +([\w, ]+):", told, re.MULTILINE) for word in re.split(r", *", line)}
        assert {item.name for item in dataclasses.fields(kind)} <= named, kind


def test_every_setting_has_a_text_of_its_own() -> None:
    """Pages list settings one by one: "a, b: first of a, then of b" would stand there twice and fit neither."""
    for kind in [*STAGES, *DATA, TokenizerSettings, *COMMANDS]:
        told = "\n".join(one.__doc__ or "" for one in kind.__mro__ if one is not Stage)
        own = {item.name for item in dataclasses.fields(kind)}
        shared = re.findall(r"^ +(\w+(?:, \w+)+): ", told, re.MULTILINE)
        assert not [names for names in shared if own & set(names.split(", "))], kind


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.word())
def test_a_command_is_one_dataclass_that_explains_itself(kind: type[Any]) -> None:
    """One frozen class in a file, its result too; each flag has its help, and no word that is not plain."""
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    told = [kind.__doc__ or "", *(one.help for one in settings_of(kind))]
    assert all(text.endswith(".") for text in told[1:]), kind
    assert not re.search(r"\b(told|held|foretell|whatever|drawn|anew|beside)\b", " ".join(told))
    results = typing.get_type_hints(kind.run)["return"]
    for result in typing.get_args(results) or (results,):
        assert issubclass(result, Result) and result.__dataclass_params__.frozen and "__str__" in vars(result)


def test_nothing_runs_what_a_file_says() -> None:
    """No pickle in any form, no eval or exec, no code from the Hub."""
    wrong = []
    for path in FILES:
        wrong += [
            f"{name_of(path)}: imports {name}"
            for name in imported(path)
            if name.split(".")[0] in {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
        ]
        for node in nodes(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                wrong.append(f"{name_of(path)}:{node.lineno}: {node.func.id}()")
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
                wrong.append(f"{name_of(path)}:{node.lineno}: torch.load")
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                is_false = isinstance(node.value, ast.Constant) and node.value.value is False
                wrong += [] if is_false else [f"{name_of(path)}:{node.value.lineno}: {node.arg}"]
    assert not wrong


def test_who_expects_damaged_text_expects_deep_one() -> None:
    """What reads JSON or TOML and heeds its errors also heeds text that is nested more deeply than Python reads."""
    wrong = []
    for path in FILES:
        for node in nodes(tree(path)):
            if not isinstance(node, ast.Try):
                continue
            read = any(re.search(r"(json|tomllib)\.loads?\(|raw_decode\(", ast.unparse(one)) for one in node.body)
            heeded = [ast.unparse(one.type) for one in node.handlers if one.type]
            damaged, deep = r"\b(ValueError|JSONDecodeError|TOMLDecodeError)\b", r"\bRecursionError\b"
            if read and re.search(damaged, " ".join(heeded)) and not re.search(deep, " ".join(heeded)):
                wrong.append(f"{name_of(path)}:{node.lineno}: {', '.join(heeded)}")
    assert not wrong


def test_every_file_that_stays_is_written_by_one_writer() -> None:
    """Outside `files` nothing moves a file into place, or makes a temporary one beside another, in its own way."""
    others = ("data.corpus_make", "terminal")  # a part of a folder that is moved whole; a traceback
    pattern = r"os\.(replace|rename|chmod)\(|\bmkstemp\(|NamedTemporaryFile|\bmkdtemp\(|\.rename\(|\.chmod\("
    wrong = []
    for path in FILES:
        if name_of(path) not in ("files", *others):
            lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
            wrong += [f"{name_of(path)}:{number}: {line.strip()}" for number, line in lines if re.search(pattern, line)]
    assert not wrong


@pytest.mark.parametrize("room", ["tasks", "engines", "train", "compress", "distil", "export", "commands"])
def test_every_variant_can_be_loaded_by_its_name(room: str) -> None:
    files = {path.stem for path in (SOURCE / room).glob("*.py") if not path.stem.startswith("_")}
    assert files and files <= set(registry.variants(room))
    for name in registry.variants(room):
        assert registry.load(room, name).__doc__
