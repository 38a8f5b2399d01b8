"""Distilling: a small model learns from what a larger one answers, and from what goes on inside it."""
