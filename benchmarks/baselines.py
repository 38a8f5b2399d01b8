"""What people use today on Banking77: TF-IDF with logistic regression, and a frozen MiniLM with logistic regression.

python benchmarks/baselines.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from harness import DATA, write
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from halfpint.data.columns import find_columns
from halfpint.data.examples import Example, labelled
from halfpint.data.read import read_table
from halfpint.models.sources import locate
from halfpint.progress import SILENT


def rows(name: str) -> list[Example]:
    """The labelled rows of a split."""
    table = read_table(str(DATA / "banking77" / f"{name}.csv"))
    return labelled(table, find_columns(table))


def main() -> None:
    """Fit both on train, score both on test, write results/baselines.json."""
    train, test = rows("train"), rows("test")
    wanted = np.array([example.label for example in test])
    figures: dict[str, Any] = {}
    started = time.perf_counter()
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000, C=10))
    model.fit([example.text for example in train], [example.label for example in train])
    accuracy = float((model.predict([example.text for example in test]) == wanted).mean())
    figures["TF-IDF + LR"] = {"accuracy": accuracy, "seconds": time.perf_counter() - started}
    started = time.perf_counter()
    features = encode([example.text for example in train])
    head = LogisticRegression(max_iter=1000, C=10).fit(features, [example.label for example in train])
    accuracy = float((head.predict(encode([example.text for example in test])) == wanted).mean())
    figures["frozen MiniLM + LR"] = {"accuracy": accuracy, "seconds": time.perf_counter() - started}
    write("baselines", {"data": "banking77", "figures": figures})


def encode(texts: list[str]) -> Any:
    """Normalised mean-pooled states of the base encoder, as sentence encoders are used."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = locate("all-minilm-l6-v2", SILENT)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = np.argsort([len(text) for text in texts])
    out = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            part = order[start : start + 64]
            batch = tokenizer([texts[index] for index in part], padding=True, truncation=True, return_tensors="pt")
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(1) / mask.sum(1)
            out[part] = torch.nn.functional.normalize(pooled).numpy()
    return out


if __name__ == "__main__":
    main()
