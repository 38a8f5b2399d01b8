"""Tokenizers: loading them (and, for language models, training them)."""
