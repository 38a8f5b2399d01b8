"""Metrics with intervals, and what a bundle costs: size, latency, throughput, memory and energy."""
