"""Real small things that the tests share: an encoder, a data set, and one bundle of every kind, each made once."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from halfpint import cli
from halfpint.bundle import Bundle, open_bundle
from halfpint.data.conversations import ChatData, Conversations, prepare_chat
from halfpint.data.corpus import Corpus, CorpusData, prepare_corpus
from halfpint.data.examples import Example
from halfpint.data.prepare import Data, Prepared, prepare
from halfpint.lookup import open_task
from halfpint.progress import SILENT
from halfpint.stage import Stage, Work

# Before any numerical package starts its threads: small models gain nothing from a second one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # llama.cpp's threads, two a process, wait without spinning

# Tests of properties take the same examples each time, `make test-random` others each time. A busy machine is no fault
# of the code, hence no deadline.
settings.register_profile("halfpint", deadline=None, derandomize=True, database=None)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HALFPINT_EXAMPLES", "halfpint"))

sys.path.insert(0, str(Path(__file__).parent))
from ready import Ready  # noqa: E402
from rows import NEEDS, ROWS, Learns, Row  # noqa: E402
from rows import learns_from as own_data  # noqa: E402

READY = Ready()
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "tickets.csv"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def pytest_configure() -> None:
    """What halfpint runs in processes of its own need not import PyTorch anew each time; Ctrl-C ends it."""
    subprocess.run = READY  # type: ignore[assignment]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has it ignored by what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the fixtures of a test are made. What is drawn without a seed is the same whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    READY.from_scratch = item.get_closest_marker("from_scratch") is not None


def write_tokenizer(folder: Path, texts: list[str], size: int = 700) -> int:
    """A WordPiece tokenizer as BERT's: lower case, frequent words and endings, every ASCII character; gives its size.

    The vocabulary is counted here: the trainer of `tokenizers` breaks ties in another way in every process.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    endings: Counter[str] = Counter()
    for word, count in words.items():
        for width in (2, 3):
            endings[f"##{word[-width:]}"] += count * (len(word) > width)
    single = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*SPECIALS, *single, *(f"##{letter}" for letter in single)]
    for counts, share in ((words, 0.9), (endings, 0.1)):
        frequent = sorted(counts, key=lambda token: (-counts[token], token))
        tokens += frequent[: round(share * (size - len(SPECIALS) - 2 * len(single)))]
    tokens = list(dict.fromkeys(tokens))
    whole = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    whole.normalizer, whole.pre_tokenizer = normalizer, splitter
    whole.add_special_tokens(SPECIALS)
    whole.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIALS.index("[CLS]")), ("[SEP]", SPECIALS.index("[SEP]"))],
    )
    whole.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True, "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return len(tokens)


def write_encoder(folder: Path, texts: list[str], layers: int, seed: int = 0, positions: int = 512) -> Path:
    """A randomly initialised BERT in Hugging Face layout."""
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder, texts)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A CSV with the first so many rows of examples/tickets.csv."""
    folder = tmp_path_factory.mktemp("rows")

    def write(number: int) -> Path:
        with EXAMPLES.open(encoding="utf-8", newline="") as file:
            kept = list(csv.reader(file))[: number + 1]
        path = folder / f"tickets{number}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(kept)
        return path

    return write


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """examples/tickets.csv, split."""
    return prepare(Data(source=str(EXAMPLES)), SILENT, probe_labels=False)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Path:
    """The folder of a BERT with 2 layers of 32."""
    texts = [example.text for example in prepared.train]
    return write_encoder(tmp_path_factory.mktemp("encoders") / "tiny", texts, layers=2)


@pytest.fixture(scope="session")
def tiny_language(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Path:
    """The folder of a Llama with 1 layer of 32, in Hugging Face layout: no bundle."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("languages") / "tiny"
    folder.mkdir()
    size = write_tokenizer(folder, [example.text for example in prepared.train])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def three_layer_encoder(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Path:
    """The folder of a BERT with 3 layers of 32."""
    texts = [example.text for example in prepared.train]
    return write_encoder(tmp_path_factory.mktemp("encoders") / "three", texts, layers=3, seed=1)


@pytest.fixture(scope="session")
def short_encoder(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Path:
    """The folder of a BERT with places for 24 tokens alone."""
    texts = [example.text for example in prepared.train]
    return write_encoder(tmp_path_factory.mktemp("encoders") / "short", texts, layers=1, positions=24)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Corpus:
    """The texts of the prepared data as running text."""
    folder = tmp_path_factory.mktemp("corpus")
    text = "\n\n".join(example.text for example in prepared.train)
    (folder / "tickets.txt").write_text(text, encoding="utf-8")
    (folder / "held.txt").write_text("\n\n".join(example.text for example in prepared.validation), encoding="utf-8")
    data = CorpusData(sources=(str(folder / "tickets.txt"),), validation=str(folder / "held.txt"), clean=False)
    return prepare_corpus(data, folder / "made", SILENT)


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Conversations:
    """Short questions with their answers."""
    rows = [{"instruction": f"What is {number} plus one?", "output": f"It is {number + 1}."} for number in range(30)]
    path = tmp_path_factory.mktemp("conversations") / "sums.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return prepare_chat(ChatData(source=str(path)), SILENT)


@pytest.fixture(scope="session")
def learns_from(corpus: Corpus, conversations: Conversations) -> Callable[[str], Any]:
    """The split that the stage of a name in `rows` learns from; None is the labelled texts."""

    def find(name: str) -> Any:
        if (found := own_data(name)) is not None:
            return found
        root = ROWS[name]
        while root.parent:
            root = ROWS[root.parent]
        if root.use in ("models/pull", "train/majority", "train/tfidf_linear"):
            return None
        return conversations if ROWS[name].use == "train/chat" else corpus

    return find


@pytest.fixture(scope="session")
def work(prepared: Prepared) -> Callable[..., Work]:
    """Makes the `Work` of a stage that writes to `target`, on the labelled texts or on what is given.

    `learns` is running text, conversations, or data of another task to learn from instead.
    """

    def make(target: Path, *, learns: Any = None, **changes: Any) -> Work:
        sides = {side: changes.pop(side, getattr(prepared, side)) for side in ("train", "validation")}
        split, task = replace(prepared, **sides), open_task("classify")
        labels = task.labels(prepared.train)
        if isinstance(learns, Learns):
            split, task = learns.split, open_task(learns.task)
            labels = task.labels(split.train)
            changes.setdefault("primary", task.primary(split.train))
        elif learns is not None:
            split, task = learns, open_task("predict" if isinstance(learns, Corpus) else "chat")
        settings: dict[str, Any] = {
            "scratch": target.with_name(f"unfinished-{target.name}"), "task": task, "split": split,
            "labels": labels,
        }  # fmt: skip
        return Work(target=target, **{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def text_work(work: Callable[..., Work], corpus: Corpus) -> Callable[..., Work]:
    """`work` on running text."""
    return partial(work, learns=corpus)


@pytest.fixture(scope="session")
def rows() -> dict[str, Row]:
    """How each bundle of `bundles` is made."""
    return ROWS


@pytest.fixture(scope="session")
def stage_of(tiny_encoder: Path, tiny_language: Path) -> Callable[[str], Stage]:
    """The stage that makes the bundle with a name in `rows`."""

    def make(name: str) -> Stage:
        from halfpint.stage import stage_class

        row, tiny = ROWS[name], {"TINY": str(tiny_encoder), "TINY-LANGUAGE": str(tiny_language)}
        settings = {key: tiny.get(value, value) for key, value in row.settings.items()}
        return stage_class(row.use, name)(**settings)

    return make


@pytest.fixture(scope="session")
def bundles(
    tmp_path_factory: pytest.TempPathFactory,
    work: Callable[..., Work],
    stage_of: Callable[[str], Stage],
    learns_from: Callable[[str], Any],
    few: list[Example],
) -> Callable[[str], Bundle]:
    """The bundle with a name in `rows`, made when first asked for; nobody may change it."""
    folder = tmp_path_factory.mktemp("bundles")

    def get(name: str) -> Bundle:
        target = folder / name
        if name in NEEDS:
            pytest.importorskip(NEEDS[name], reason="a row of the contract needs it")
        if not target.exists():
            parent = ROWS[name].parent
            stage_of(name).run(get(parent) if parent else None, work(target, train=few, learns=learns_from(name)))
        return open_bundle(target)

    return get


@pytest.fixture(scope="session")
def few(prepared: Prepared) -> list[Example]:
    """The training texts of `bundles`: enough to have every label, few enough to leave tokens unused."""
    return prepared.train[:120]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Types a command here, and `given` into it; gives its exit code, standard output and standard error."""

    def run(*words: object, given: str = "") -> tuple[int, str, str]:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["halfpint", *map(str, words)])
            patched.setattr(sys, "stdin", io.StringIO(given))
            with pytest.raises(SystemExit) as ended:
                cli.main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return run
