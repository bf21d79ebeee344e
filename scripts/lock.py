"""Write requirements.lock and requirements-dev.lock from the packages installed in the running environment.

Run it with the interpreter of the environment that was tested, from anywhere::

    .venv/bin/python scripts/lock.py            # write both files
    .venv/bin/python scripts/lock.py --check    # write nothing; exit code 1 if a file would change

Each file pins the dependency closure of what `pyproject.toml` declares, and nothing else that happens to be installed.
"""

import argparse
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
REGENERATE = "# Written by scripts/lock.py; pyproject.toml has the ranges."

# torch asks for these only on machines of one kind (Linux with CUDA): pinned here they could not be installed on any
# other, while left out pip still takes those that this torch release names.
HARDWARE_PREFIXES = ("nvidia-", "cuda-", "triton")


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Follow requirements through the installed packages.

    Args:
        requirements: Requirement strings as in `pyproject.toml`, extras and markers included.

    Returns:
        Installed name to version, without local version labels such as ``+cpu``, sorted by name.

    Raises:
        SystemExit: A required package is not installed, or not in the required range.
    """
    found: dict[str, tuple[str, str]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [(Requirement(text), "pyproject.toml") for text in requirements]
    while queue:
        requirement, parent = queue.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen or key[0].startswith(HARDWARE_PREFIXES):
            continue
        seen.add(key)
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            sys.exit(f"error: {requirement.name}, which {parent} requires, is not installed; install it and run again.")
        if not requirement.specifier.contains(package.version, prereleases=True):
            sys.exit(f"error: {parent} requires {requirement}, but version {package.version} is installed.")
        found[key[0]] = (package.metadata["Name"], Version(package.version).public)
        for text in package.requires or []:
            child = Requirement(text)
            extras = {"", *requirement.extras}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append((child, package.metadata["Name"]))
    return dict(found[key] for key in sorted(found))


def render() -> dict[str, str]:
    """Compute the text of both lock files from the running environment.

    Returns:
        File name to text. The first file is the core install with the build backend, which an editable install
        without build isolation needs; the second names the first and adds the development tools.

    Raises:
        SystemExit: See `closure`.
    """
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    core = closure(pyproject["project"]["dependencies"])
    backend = closure(pyproject["build-system"]["requires"])
    dev = closure(pyproject["project"]["optional-dependencies"]["dev"])

    def pins(packages: dict[str, str], without: Iterable[str] = ()) -> list[str]:
        return [f"{name}=={version}" for name, version in packages.items() if name not in set(without)]

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    core_lines = [
        f"# The core install: exact versions, tested with Python {python}.",
        REGENERATE,
        *pins(core),
        "# The build backend, for the editable install.",
        *pins(backend, without=core),
    ]
    dev_lines = [
        f"# The development tools on top of the core install: exact versions, tested with Python {python}.",
        REGENERATE,
        "-r requirements.lock",
        *pins(dev, without=[*core, *backend]),
    ]
    return {
        "requirements.lock": "\n".join(core_lines) + "\n",
        "requirements-dev.lock": "\n".join(dev_lines) + "\n",
    }


def main() -> int:
    """Parse the arguments and write or check the lock files; the exit code is 1 if `--check` found a difference."""
    parser = argparse.ArgumentParser(description="Write both lock files from the packages of this environment.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    check = parser.parse_args().check
    changed = 0
    for name, text in render().items():
        path = ROOT / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            print(f"{name}: up to date")
            continue
        changed += 1
        if check:
            print(f"{name}: differs from this environment")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{name}: written")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
