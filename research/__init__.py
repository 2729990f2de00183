"""Ontogeny: the whole life of a large model in pure JAX functions."""

import os

# XLA's CPU backend warns in hundreds of words of tuning flags whenever it loads a program that it cached itself.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
