"""What labels spans: models of words that need no encoder, and an encoder with its head, trained and exported."""

TASK = "tag"
DATA = {"source": "examples/orders.conll"}
ROWS = {
    "dictionary": ("train/dictionary", {}, None, "ready"),
    "crf": ("train/crf", {"iterations": 30}, None, "ready"),
    "bilstm": ("train/word_tagger", {"vectors": "", "hidden": 32, "epochs": 3}, None, "ready"),
    "blended-words": ("train/blend", {"other": "train/crf", "share": 0.3}, "bilstm", "ready"),
    "tagger": (
        "train/finetune", {"epochs": 1, "learning_rate": 3e-3, "start_share": 0.0, "refit_head": False}, "encoder",
        "classifier",
    ),
    "onnx-tagger": ("export/onnx", {}, "tagger", "onnx"),
}  # fmt: skip
ENGINES = {
    "dictionary": {"dictionary": 0.0}, "crf": {"crf": 1e-6}, "torch_classifier": {"tagger": 1e-5},
    "onnx_encoder": {"onnx-tagger": 1e-5}, "onnx_words": {"bilstm": 1e-5},
    "blend": {"blended-words": 1e-5},
}  # fmt: skip
NEEDS = {"crf": "pycrfsuite", "blended-words": "pycrfsuite"}
ALIKE = ("dictionary",)
