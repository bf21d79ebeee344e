"""One module a command: its parser and one call. `scripts/NAME.py` and `tlm NAME` run the same function."""
