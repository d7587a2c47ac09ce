"""Latency, memory and outputs of models on devices: the variants of a run, layer times, run settings."""
