"""Every fault at every step of a push, first releases and second ones; writes results/release/faults.json.

    HF_HUB_OFFLINE=1 python tests/stress/push_faults.py --json results/release/faults.json

After each disturbed push the same command runs again undisturbed: the end must be that of a push that met no fault, and
a reader who looks at the repositories all the while must find each branch at a whole tree, the old one or the new.
"""

import argparse
import json
import logging
import os
import shutil
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent.parent)]

from helpers_family import family, staged
from helpers_faults import FAULTS, ONLY_AT, STEPS, disturbed_push, first_trees, trees, with_foreign
from helpers_release import client, hurry, local_hub
from tqdm.auto import tqdm

from tlm_hf.hub.push import push
from tlm_hf.hub.stage import stage
from tlm_hf.hub.verify import verify
from tlm_hf.runs.atomic_files import write_json
from tlm_hf.runs.provenance import provenance


def second_release(folder):
    """The same family with a changed card, one file less and the next version, staged and verified."""
    os.chdir(family())
    text = Path("release.yaml").read_text().replace("0.1.0", "0.2.0").replace("farm or sea", "farm, or sea")
    Path("second.yaml").write_text(text)
    (Path("together") / "members.png").unlink()
    shutil.copytree(staged() / ".measured", folder / ".measured")
    stage("second.yaml", str(folder))
    verify(str(folder))
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="results/release/faults.json")
    parser.add_argument("--every", type=int, default=1, help="only every n-th combination (for a quick look)")
    options = parser.parse_args()
    target = Path(options.json).resolve()
    logging.getLogger("tlm_hf").setLevel(logging.WARNING)
    first = staged()
    second = second_release(first.parent / "second")
    with local_hub() as hub, hurry():
        empty = hub.state.copy()
        push(str(first), hub=client(hub))
        old = hub.state.copy()
        hub.requests.clear()
        push(str(second), hub=client(hub))
        new = hub.state.copy()
        requests = len(hub.requests)
        hub.state = empty.copy()
        push(str(second), hub=client(hub))
        fresh = hub.state.copy()
        known = trees(old.snapshot()) | trees(new.snapshot()) | trees(fresh.snapshot())
        known = with_foreign(known | first_trees(hub))
        plans = [
            (scenario, step, fault, kind, method, path, settings)
            for scenario in ("first release", "second release")
            for step, (method, path) in STEPS.items()
            for fault, (kind, settings) in FAULTS.items()
        ]
        plans += [
            (scenario, step, fault, kind, *STEPS[step], settings)
            for scenario in ("first release", "second release")
            for fault, (kind, settings, step) in ONLY_AT.items()
        ]
        rows = []
        for scenario, step, fault, kind, method, path, settings in tqdm(
            plans[:: options.every], desc="Disturbed pushes"
        ):
            begin, end = (empty, fresh) if scenario == "first release" else (old, new)
            found = disturbed_push(hub, begin, second, end.snapshot(), kind, method, path, settings, known)
            rows.append({"release": scenario, "step": step, "fault": fault, **found})
    struck = [row for row in rows if row["struck"]]
    summary = {
        "kinds_of_fault": len({row["fault"] for row in struck}),
        "steps": len({row["step"] for row in struck}),
        "disturbed_pushes": len(struck),
        "not_met": len(rows) - len(struck),
        "first_push_done_nonetheless": sum(row["first"] == "done" for row in struck),
        "ended_as_undisturbed": sum(row["equal"] for row in struck),
        "needed_overwrite": sum(row["overwrite"] for row in struck),
        "looks_of_the_reader": sum(row["watched"] for row in struck),
        "looks_that_found_something_else": sum(len(row["strange"]) for row in struck),
        "token_shown": sum(row["token_shown"] for row in struck),
        "requests_of_an_undisturbed_push": requests,
    }
    write_json(target, {"summary": summary, "rows": rows, **provenance()})
    print(json.dumps(summary, indent=2))
    bad = [row for row in struck if not row["equal"] or row["strange"] or row["token_shown"]]
    for row in bad[:20]:
        print(row["release"], "|", row["step"], "|", row["fault"], "|", row["first"][:150], "|", row["second"][:150])
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
