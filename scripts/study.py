"""Launcher of `tlm study`."""

from tlm_hf.commands.study import main

if __name__ == "__main__":
    main()
