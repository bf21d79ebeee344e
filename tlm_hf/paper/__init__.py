"""The checkpoints of the authors of arXiv 2507.14871, imported."""
