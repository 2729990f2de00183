"""The experiments: one runnable module each; `python -m experiments` lists them."""

import os

# As in `research`, which a module that imports JAX itself would come to too late.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
