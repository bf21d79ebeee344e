"""Quiet libraries: our own messages stay visible among theirs."""

import logging


def quiet_libraries() -> None:
    """Keep our own messages visible among those of the libraries."""
    import datasets
    import transformers

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "filelock", "matplotlib", "datasets", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # What datasets logs as an error it also raises, and run_command says it once.
    datasets.logging.set_verbosity(logging.CRITICAL)
