"""Launcher of `tlm release`."""

from tlm_hf.commands.release import main

if __name__ == "__main__":
    main()
