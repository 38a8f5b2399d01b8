"""Instruction tuning: rows that hold conversations whole, a plain bundle that answers, exact adapters and resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from halfpint.bundle import Bundle
from halfpint.data.conversations import ChatData, Conversations, prepare_chat
from halfpint.data.corpus import Corpus
from halfpint.data.packing import IGNORED
from halfpint.errors import HalfpintError, RefusedError
from halfpint.progress import SILENT
from halfpint.task import Split
from halfpint.tokenizers.train import CHAT_TEMPLATE
from halfpint.train._chat_rows import ChatRows, within
from halfpint.train._chat_tokens import ChatTokenizer, Rendered
from halfpint.train.chat import Chat

torch = pytest.importorskip("torch", reason="training needs torch")
transformers = pytest.importorskip("transformers", reason="training needs transformers")
pytest.importorskip("peft", reason="adapters need peft")

_WORDS = "one two three four five six seven eight nine ten red green blue north south east west"
WORDS = tuple(_WORDS.split())
TINY = Chat(template="chatml", epochs=2, batch_tokens=256, learning_rate=1e-2, evaluations=2, precision="fp32")
LORA = replace(TINY, lora=True, lora_rank=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Conversations:
    """Words said twice, in one turn or two."""
    rows = []
    for place, word in enumerate(WORDS):
        for other in WORDS[: 1 + place % 5]:
            turns = [("user", f"Say {word} and {other}."), ("assistant", f"{word} {other}, {word} {other}!")]
            if place % 3 == 0:
                turns += [("user", "Once more?"), ("assistant", f"{other}.")]
            rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    path = tmp_path_factory.mktemp("chat") / "words.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return prepare_chat(ChatData(source=str(path), validation_share=0.2), SILENT)


@pytest.fixture(scope="module")
def base(random_llama: Callable[..., Bundle], data: Conversations) -> Bundle:
    """A random Llama with the words, and no template."""
    return random_llama([message.content for one in data.train for message in one.messages] * 20, template=False)


@pytest.fixture(scope="module")
def run(run_stage: Callable[..., Any], data: Conversations, base: Bundle) -> Callable[..., tuple[Bundle, Any]]:
    """Runs a stage on the base and the conversations: gives the bundle and what was logged."""

    def go(stage: Chat, folder: Path | None = None, after: int = 0, **changes: Any) -> tuple[Bundle, Any]:
        wanted = {"parent": base, "learns": data, "task": "chat", **changes}
        return cast("tuple[Bundle, Any]", run_stage(stage, folder, after, **wanted))

    return go


@pytest.fixture(scope="module")
def tuned(run: Callable[..., tuple[Bundle, Any]]) -> tuple[Bundle, Any]:
    """What TINY makes."""
    return run(TINY)


@pytest.fixture(scope="module")
def adapted(run: Callable[..., tuple[Bundle, Any]]) -> tuple[Bundle, Any]:
    """What LORA makes."""
    return run(replace(LORA, merge=False))


def test_without_a_template(base: Bundle, run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=r"^random: expected .*a chat template, got none\. Set template to chatml"):
        run(replace(TINY, template=""), tmp_path)
    with pytest.raises(HalfpintError, match=r"template .*Did you mean 'chatml'"):
        run(replace(TINY, template="chat-ml"), tmp_path)
    assert not list(tmp_path.iterdir())


def rendered(*lengths: int) -> list[Rendered]:
    random = np.random.default_rng(0)
    return [
        Rendered(random.integers(5, 300, length), np.arange(length) >= length // 2, row)
        for row, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("packing", [True, False])
def test_rows_keep_conversations_whole(packing: bool) -> None:
    some = rendered(*range(4, 30))
    stage = replace(TINY, packing=packing, batch_tokens=128, accumulate=1)
    rows = ChatRows(stage, some, 32, 1, shuffle=False)
    seen: dict[bytes, bytes] = {}
    for number in range(rows.batches_per_epoch):
        arrays = rows.batch(number)
        for ids, labels, positions, sequences in zip(*(arrays[name] for name in (
            "input_ids", "labels", "position_ids", "sequence_ids")), strict=True):  # fmt: skip
            for piece in range(int(sequences.max()) + 1):
                inside = sequences == piece
                assert positions[inside].tolist() == list(range(inside.sum()))
                seen[ids[inside].tobytes()] = labels[inside].tobytes()
            assert (labels[sequences < 0] == IGNORED).all()
    assert seen == {one.ids.tobytes(): np.where(one.counted, one.ids, IGNORED).tobytes() for one in some}
    for step in range(3):
        parts = rows.step(step)[1]
        labels = sum(int((part.arrays["labels"] != IGNORED).sum()) for part in parts)
        assert parts[0].share == pytest.approx(len(parts) / labels)


def test_what_is_too_long_is_cut_behind_an_answer_or_dropped(interrupting: Any) -> None:
    log = interrupting()
    two = Rendered(np.arange(20), np.isin(np.arange(20), [5, 6, 7, 14, 15]), 11)
    kept = within([*rendered(8, 18), two], 12, "train", log)
    assert [len(one.ids) for one in kept] == [8, 8]
    assert kept[1].counted.sum() == 3
    assert "1 conversation longer than 12 tokens: cut" in log.lines[0] and "(row 11)" in log.lines[0]
    assert "dropped, as no whole answer fits (row 1)" in log.lines[1]


@pytest.mark.parametrize("which", ["tuned", "adapted"])
def test_a_plain_bundle_that_answers(which: str, request: pytest.FixtureRequest, base: Bundle) -> None:
    bundle, log = request.getfixturevalue(which)
    entry = bundle.card["stages"][-1]
    assert (bundle.card["task"], bundle.card["engine"], bundle.card["parent"]) == ("chat", "torch_lm", base.fingerprint)
    assert entry["nats_per_assistant_token"] < entry["nats_before"] - 0.5
    assert "per assistant token" in log.lines[-1]
    model = transformers.AutoModelForCausalLM.from_pretrained(bundle.path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle.path)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert set(model.state_dict()) == set(transformers.AutoModelForCausalLM.from_pretrained(base.path).state_dict())
    assert tokenizer.chat_template == CHAT_TEMPLATE
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    held = json.loads((bundle.path / "generation_config.json").read_text(encoding="utf-8"))
    assert held["eos_token_id"] == [end, 0] == model.config.eos_token_id
    assert entry["end_of_turn"] == [end]


def test_the_score_is_of_the_answers_alone(tuned: tuple[Bundle, Any], data: Conversations) -> None:
    """The figure in the card, computed again with transformers alone, one conversation at a time."""
    bundle, _ = tuned
    model = transformers.AutoModelForCausalLM.from_pretrained(bundle.path).eval()
    tokenizer = ChatTokenizer(bundle.path)
    nats, count = 0.0, 0
    for one in tokenizer.tokens(data.validation):
        ids = torch.from_numpy(one.ids)
        with torch.no_grad():
            logs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        scores = logs.gather(1, ids[1:, None])[:, 0].numpy()
        nats -= float(scores[one.counted[1:]].sum())
        count += int(one.counted.sum())
    assert nats / count == pytest.approx(bundle.card["stages"][-1]["nats_per_assistant_token"], abs=1e-4)


def test_it_learned_to_answer_and_to_stop(tuned: tuple[Bundle, Any], run: Callable[..., Any]) -> None:
    bundle, _ = run(replace(TINY, epochs=12, evaluations=1))
    model = transformers.AutoModelForCausalLM.from_pretrained(bundle.path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle.path)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say red and one."}], add_generation_prompt=True, return_tensors="pt",
        return_dict=True,
    )  # fmt: skip
    made = model.generate(**asked, max_new_tokens=60, do_sample=False)
    answer = tokenizer.decode(made[0, asked["input_ids"].shape[1] :])
    assert answer.endswith("!<|im_end|>") or answer.endswith(".<|im_end|>")


def test_adapters_merge_exactly_and_are_kept_apart(
    adapted: tuple[Bundle, Any], base: Bundle, run: Callable[..., Any]
) -> None:
    from peft import PeftModel

    bundle, _ = adapted
    entry = bundle.card["stages"][-1]
    assert entry["merge_difference"] < 1e-4
    merged = transformers.AutoModelForCausalLM.from_pretrained(bundle.path).eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(base.path)
    ids = torch.tensor([[5, 40, 7, 90, 12]])
    with torch.no_grad():
        apart = PeftModel.from_pretrained(plain, bundle.path / "adapter").eval()(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, apart, atol=1e-4, rtol=1e-4)
    held = json.loads((bundle.path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert held["base_model_name_or_path"] is None
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(held["target_modules"]) == names


def test_a_merge_that_answers_otherwise_is_refused(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from halfpint.train import lora

    model = transformers.AutoModelForCausalLM.from_pretrained(base.path)
    settings = Chat(lora=True, lora_rank=2, lora_alpha=4, lora_dropout=0.0, lora_targets="q_proj,up_proj")
    wrapped = lora.add_adapters(model, settings, "here")
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trained and all("lora_" in name and ("q_proj" in name or "up_proj" in name) for name in trained)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                tensor.normal_(generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(type(wrapped.base_model), "merge_and_unload", lambda self, safe_merge: self.unload())
    with pytest.raises(RefusedError, match="merge: expected logits within"):
        lora.merge(wrapped, [[5, 6, 7, 8]], "here")
    with pytest.raises(HalfpintError, match=r"lora_targets .*Did you mean 'q_proj'"):
        lora.add_adapters(model, replace(settings, lora_targets="q_prj"), "here")


@pytest.mark.parametrize("stage", [LORA, replace(TINY, packing=False)], ids=["lora", "padded"])
def test_resume_is_exact(stage: Chat, run: Callable[..., Any], tmp_path: Path) -> None:
    whole, log = run(stage)
    with pytest.raises(KeyboardInterrupt):
        run(stage, tmp_path, after=max(log.losses) // 2 + 2)
    kept = tmp_path / "unfinished" / "checkpoint" / "tensors.safetensors"
    names = {name for name in read_names(kept) if name.startswith("model.")}
    assert names
    if stage.lora:
        assert all("lora_" in name or "embed_tokens" in name for name in names)
    torch.manual_seed(99)
    again, rest = run(stage, tmp_path)
    assert min(rest.losses) > 1
    assert rest.losses == {step: log.losses[step] for step in rest.losses}
    assert again.fingerprint == whole.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def read_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_a_plan_by_time_is_kept(run: Callable[..., Any], tmp_path: Path) -> None:
    stage = replace(TINY, minutes=2.0, evaluations=0)
    with pytest.raises(KeyboardInterrupt):
        run(stage, tmp_path, after=1)
    path = tmp_path / "unfinished" / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8"))
    assert plan["total"] > 1 and 0 < plan["seconds"] <= 120
    path.write_text(json.dumps({"total": 5, "seconds": 0.01, "evaluations": 1}), encoding="utf-8")
    _, log = run(stage, tmp_path)
    assert log.plan["total"] == 5 and 2 <= max(log.losses) <= 5


def test_its_own_template_is_used_again(tuned: tuple[Bundle, Any], run: Callable[..., Any]) -> None:
    bundle, _ = tuned
    again, _ = run(replace(LORA, template="", epochs=1), parent=bundle)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (again.path / name).read_bytes() == (bundle.path / name).read_bytes()
    assert again.config["eos_token_id"] == bundle.config["eos_token_id"]
    assert not (again.path / "adapter").exists()


def test_lora_teaches_what_text_alone_did_not(run: Callable[..., Any], random_llama: Callable[..., Bundle]) -> None:
    """The tokens of the template mean nothing after pre-training, though the bundle has a template."""
    stage = replace(LORA, template="", stop_after_steps=1)
    made = {use: run(stage, parent=random_llama(use=use))[0] for use in ("train/pretrain", "models/pull_language")}
    trained = {use: bundle.card["stages"][-1]["trained_parameters"] for use, bundle in made.items()}
    bundle = made["train/pretrain"]
    again, _ = run(stage, parent=bundle)
    assert again.card["stages"][-1]["trained_parameters"] == trained["models/pull_language"]
    embeddings = bundle.config["vocab_size"] * bundle.config["hidden_size"]
    assert trained["train/pretrain"] == trained["models/pull_language"] + embeddings


def test_the_same_loss_packed_padded_and_checkpointed(
    tuned: tuple[Bundle, Any], run: Callable[..., Any]
) -> None:  # fmt: skip
    bundle, log = tuned
    before = bundle.card["stages"][-1]["nats_before"]
    padded, _ = run(replace(TINY, packing=False, stop_after_steps=1))
    assert padded.card["stages"][-1]["nats_before"] == pytest.approx(before, abs=1e-4)
    _, again = run(replace(TINY, gradient_checkpointing=True, stop_after_steps=3))
    assert list(again.losses.values()) == pytest.approx([log.losses[step] for step in (1, 2, 3)], abs=1e-4)
    _, adapters = run(replace(LORA, gradient_checkpointing=True, stop_after_steps=2))
    assert adapters.losses[1] == pytest.approx(log.losses[1], abs=1e-4)  # they begin as nothing


def test_what_a_base_says_of_sampling_can_be_written(base: Bundle, tmp_path: Path) -> None:
    from halfpint.train.chat import _make_writable

    model = transformers.AutoModelForCausalLM.from_pretrained(base.path)
    for name, value in (("temperature", 0.6), ("num_return_sequences", 4)):
        setattr(model.generation_config, name, value)
        _make_writable(model, [3, 0])
        model.save_pretrained(tmp_path)
        assert transformers.GenerationConfig.from_pretrained(tmp_path).eos_token_id == [3, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_rank": 0}, "lora_rank must be 1 or more"),
        ({"lora_targets": "q_proj"}, "lora_targets must be lora = true"),
        ({"merge": False}, "merge must be lora = true"),
        ({"context": 4}, "context must be 8 tokens or more"),
        ({"context": 500}, "context must be at most the model's 96 tokens"),
        ({"context": 8}, "conversations of which a question and its answer fit"),
    ],
)
def test_what_cannot_be_is_said(change: dict[str, Any], message: str, run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(HalfpintError, match=message):
        run(replace(TINY, **change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_data_and_models_are_refused(
    run: Callable[..., Any], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in (Split(train=(), validation=()), corpus):
        with pytest.raises(HalfpintError, match="expected conversations, got other data"):
            run(TINY, tmp_path, learns=other)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr("halfpint.train.learner.Learner._apart", lambda self: False)
        with pytest.raises(HalfpintError, match=r"packing: .*keep the conversations .* Set packing to false"):
            run(TINY, tmp_path)
    with pytest.raises(HalfpintError, match="a causal model, got a bert"):
        run(TINY, tmp_path, parent=Bundle(tmp_path))
