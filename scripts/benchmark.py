"""Launcher of `tlm benchmark`: python scripts/benchmark.py pretraining --recipe bert-1 --json FILE."""

from tlm_hf.commands.benchmark import main

if __name__ == "__main__":
    main()
