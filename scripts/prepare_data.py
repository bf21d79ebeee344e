"""Launcher of `tlm prepare-data`."""

from tlm_hf.commands.prepare_data import main

if __name__ == "__main__":
    main()
