"""Search for the quickstart's settings; its results are committed under results/quickstart/.

python scripts/search_quickstart.py --stage pretrain-shallow --output results/quickstart/search-pretrain-shallow.json
"""

from tlm_hf.commands.common import parse, run_command
from tlm_hf.study.quickstart_search import SearchArguments, search

if __name__ == "__main__":
    arguments = parse(SearchArguments, "search", search.__doc__ or "", None)
    run_command(lambda: search(arguments), ())
