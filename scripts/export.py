"""Launcher of `tlm export`."""

from tlm_hf.commands.export import main

if __name__ == "__main__":
    main()
