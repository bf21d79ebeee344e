"""Corpora, classification tasks, subsets, tokenization and masking."""
