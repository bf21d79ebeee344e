"""Launcher of `tlm import-paper-weights`: `python scripts/import_paper_weights.py FOLDER OUTPUT`."""

from tlm_hf.commands.import_paper_weights import main

if __name__ == "__main__":
    main()
