"""Decoding: text from a language model, token by token: sampling, beam search, streaming."""
