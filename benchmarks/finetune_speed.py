"""Fine-tuning MiniLM on Banking77: texts a second of `transformers.Trainer` and of halfpint, in one run.

Trainer as people start it: batch 32, random order, padded to the longest of the batch, fp32, its default optimiser.
Trainer at its best: besides, texts of like length together, bf16 where the processor computes it, and the token
embeddings frozen, as ours are. halfpint: the stage train/finetune with its defaults. All train on the same texts for
the same number of texts. The results that are stored from before there was a second Trainer have the first alone.

    python benchmarks/finetune_speed.py [--texts 1920] [--repeats 3]
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # what the halfpint command sets; the same for both

import torch
from harness import DATA, alternated, write

from halfpint.bundle import Bundle
from halfpint.data.examples import Example
from halfpint.models.pull import Pull
from halfpint.progress import SILENT
from halfpint.stage import Work
from halfpint.task import Split
from halfpint.tasks.classify import TASK
from halfpint.train.finetune import Finetune
from halfpint.train.loop import use_bf16


def main() -> None:
    """Run both and write results/finetune_speed.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=1920)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with (DATA / "banking77" / "train.csv").open(encoding="utf-8") as file:
        rows = [Example(row["text"], row["category"], number) for number, row in enumerate(csv.DictReader(file), 2)]
    labels = TASK.labels(rows)
    train = rows[:: max(1, len(rows) // given.texts)][: given.texts]
    held = rows[1:200:3]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def work(target: str) -> Work:
            return Work(
                target=folder / target, scratch=folder / f"scratch-{target}", task=TASK,
                split=Split(train=train, validation=held), labels=labels, log=SILENT,
            )  # fmt: skip

        base = Pull().run(None, work("base"))
        figures = alternated(
            {
                "transformers.Trainer": lambda: trainer_speed(base, train, labels, folder),
                "transformers.Trainer, best settings": lambda: trainer_speed(base, train, labels, folder, best=True),
                "halfpint": lambda: halfpint_speed(base, work("tuned")),
            },
            given.repeats,
        )
    ours = figures["halfpint"]["median"]
    ratios = {name: round(ours / one["median"], 2) for name, one in figures.items() if name != "halfpint"}
    write(
        "finetune_speed",
        {
            "unit": "texts/s", "texts": given.texts, "bf16": use_bf16("auto"), "figures": figures,
            "ratio": ratios["transformers.Trainer"], "ratios": ratios,
        },
    )  # fmt: skip


def halfpint_speed(base: Bundle, work: Work) -> float:
    """Texts a second of train/finetune over one epoch, its evaluation included."""
    tuned = Finetune(epochs=1).run(base, work)
    return float(tuned.card["stages"][-1]["texts_per_s"])


def trainer_speed(
    base: Bundle, train: list[Example], labels: tuple[str, ...], folder: Path, *, best: bool = False
) -> float:  # fmt: skip
    """Texts a second of `transformers.Trainer` over one epoch, without evaluation; `best`: with its best settings."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=len(labels))
    if best:
        model.get_input_embeddings().weight.requires_grad_(False)  # as ours are
    targets = TASK.targets(train, labels)
    data = [
        {**tokenizer(example.text, truncation=True, max_length=128), "labels": int(target)}
        for example, target in zip(train, targets, strict=True)
    ]
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), num_train_epochs=1, per_device_train_batch_size=32, learning_rate=2e-4,
        report_to=[], save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True,
        **({"train_sampling_strategy": "group_by_length", "bf16": use_bf16("auto")} if best else {}),
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer))
    torch.manual_seed(0)
    started = time.perf_counter()
    trainer.train()
    return len(train) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
