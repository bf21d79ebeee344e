"""Quiet libraries: our own messages stay visible among theirs."""

import logging


def quiet_libraries() -> None:
    """Show our own messages, and of the libraries' only warnings or errors."""
    import datasets
    import transformers

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "filelock", "matplotlib", "datasets", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs as an error it also raises
