"""Search for the pre-training recipe; its results are committed under results/training/.

python scripts/search_training.py --recipe bert-1 --size laptop --output results/training/search-bert-1-laptop.json
"""

from tlm_hf.commands.common import parse, run_command
from tlm_hf.study.training_search import TrainingSearchArguments, search_training

if __name__ == "__main__":
    arguments = parse(TrainingSearchArguments, "search", search_training.__doc__ or "", None)
    run_command(lambda: search_training(arguments), ())
