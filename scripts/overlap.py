"""Launcher of `tlm overlap`."""

from tlm_hf.commands.overlap import main

if __name__ == "__main__":
    main()
