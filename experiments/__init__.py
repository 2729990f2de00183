"""The experiments: one runnable module each; `python -m experiments` lists them."""
