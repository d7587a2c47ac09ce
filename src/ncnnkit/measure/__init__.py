"""Measures models on devices: the latency, memory and outputs of variants, layer times, the best run settings."""
