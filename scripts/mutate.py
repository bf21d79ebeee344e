"""Put one small fault at a time into the modules that matter, and see whether their tests notice.

tests/mutated_modules.json names the modules and their tests. The faults go into a copy of the last commit, after the
tests have passed there. In results/tests/mutants.json `killed_by` is null for a survivor; `note`, by hand, says why no
user can see it. Rows of faults whose source is gone leave the table.
"""

import argparse
import ast
import copy
import hashlib
import importlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "results/tests/mutants.json"
PAIRS = [(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)]
PAIRS += [(ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div)]
OTHER = dict(PAIRS) | {other: one for one, other in PAIRS}


def faulty(node: ast.AST) -> str | None:
    """Source of a node with a fault: another operator, a constant more by one, a condition negated, no call."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return "pass"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return repr(node.value + 1)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return f"(not ({ast.unparse(node.test)}))"
    changed = copy.deepcopy(node)
    if isinstance(changed, ast.Compare):
        changed.ops[0] = OTHER[type(changed.ops[0])]()
    elif isinstance(changed, ast.BoolOp | ast.BinOp):
        changed.op = OTHER.get(type(changed.op), type(changed.op))()
    return f"({ast.unparse(changed)})" if ast.dump(changed) != ast.dump(node) else None


def places(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below one, but those of messages, types and pictures."""
    types = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    for child in ast.iter_child_nodes(node):
        is_picture = isinstance(child, ast.With) and "new_figure" in ast.unparse(child.items[0])
        if not (is_picture or isinstance(child, ast.Raise | ast.JoinedStr) or child in types):
            yield child
            yield from places(child)


def mutants(tree: Path, module: str) -> list[tuple[dict, str]]:
    """Every fault of a module, its row of the table and the source, in an order that edits elsewhere do not change."""
    data = (tree / module).read_bytes()
    starts = [0, *(match.end() for match in re.finditer(rb"\n", data))]
    found: dict[str, tuple[dict, str]] = {}
    for place in places(ast.parse(data)):
        text, node = faulty(place), getattr(place, "test", place)
        if text is None:
            continue
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        row = {"module": module, "line": node.lineno, "was": data[start:end].decode(), "is": text}
        key = f"{module} {row['was']} {text}"
        while key in found:
            key += "'"
        row["id"] = hashlib.sha256(key.encode()).hexdigest()[:12]
        found[key] = (row, data[:start].decode() + text + data[end:].decode())
    return sorted(found.values(), key=lambda each: each[0]["id"])


def first_failure(tree: Path, tests: list[str]) -> str | None:
    """First test that fails in a fork of this process, which has the libraries loaded; None where all pass."""
    log = tree / "mutant.log"
    log.write_text("")
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (300, 300))  # a fault may loop for ever
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        os.dup2(os.open(log, os.O_WRONLY), 1)
        os.dup2(1, 2)
        pytest = importlib.import_module("pytest")
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={tree.parent / 'run'}", *tests]))
    if os.waitpid(child, 0)[1] == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.MULTILINE)
    return failed[1] if failed else "no test began or ended"


def main() -> None:
    """Run the faults that are asked for, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=[""], help="parts of paths; none: all")
    parser.add_argument("--each", type=int, default=6, help="faults of each module in the table")
    parser.add_argument("--survivors", action="store_true", help="again those that are alive without a note")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("datasets", "hypothesis", "peft", "pytest", "scipy.stats", "sklearn", "transformers.trainer"):
        importlib.import_module(name)
    importlib.import_module("hypothesis.internal.conjecture.engine").MAX_SHRINKS = 0  # any failing example will do
    table: dict[str, dict] = {row["id"]: row for row in json.loads(TABLE.read_text())} if TABLE.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree, shared = Path(folder, "tree"), Path(folder, "shared")
        shared.mkdir()
        os.environ["TLM_TESTS"] = str(shared)  # what the tests make once a run is made before the faults
        subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(tree)], check=True)
        head = subprocess.run(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        commit = head.stdout.strip()
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(tree)], check=True)
        modules = json.loads((ROOT / "tests/mutated_modules.json").read_text())
        table = {name: row for name, row in table.items() if row["module"] in modules}
        for module, tests in modules.items():
            if not any(part in module for part in options.modules):
                continue
            every = mutants(tree, module)
            known = {row["id"] for row, _ in every}
            table = {name: row for name, row in table.items() if row["module"] != module or name in known}
            rows = [row for row in table.values() if row["module"] == module]
            alive = {row["id"] for row in rows if not row["killed_by"] and "note" not in row}
            new = [each for each in every if each[0]["id"] not in table][: max(options.each - len(rows), 0)]
            chosen = [each for each in every if each[0]["id"] in alive] if options.survivors else new
            if not chosen:
                continue
            if failed := first_failure(tree, tests):
                raise SystemExit(f"{module} as it is: {failed} fails")
            original = (tree / module).read_bytes()
            for row, source in chosen:
                (tree / module).write_text(source, encoding="utf-8")
                table[row["id"]] = row | {"commit": commit, "killed_by": first_failure(tree, tests)}
                (tree / module).write_bytes(original)
                TABLE.write_text(json.dumps(list(table.values()), indent=1) + "\n", encoding="utf-8")
                print(*table[row["id"]].values(), sep="  ", flush=True)


if __name__ == "__main__":
    main()
