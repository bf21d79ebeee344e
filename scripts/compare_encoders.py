"""Fine-tuned accuracy of several encoders, each at the rate that validation chose.

python scripts/compare_encoders.py --encoders ours=FOLDER theirs=FOLDER new=scratch:FOLDER --output FILE.json
"""

from tlm_hf.commands.common import parse, run_command
from tlm_hf.study.compare_encoders import CompareArguments, compare_encoders

if __name__ == "__main__":
    arguments = parse(CompareArguments, "compare", compare_encoders.__doc__ or "", None)
    run_command(lambda: compare_encoders(arguments), ())
