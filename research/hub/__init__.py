"""Pretrained parameters in and out: folders in Hugging Face's form, and GGUF files in.

`pretrained.py` has the two functions that everybody uses, `load_pretrained` and `save_pretrained`. A family of models
is one file here, which says how its configuration and its tensors map to a model of `research/models`: the contract
is in `family.py`.
"""
