"""What users install and what is in the repository: the wheel away from the checkout, lock files, forbidden content."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from helpers_commands import run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tlm_hf
from tlm_hf.errors import EXTRAS, explain_missing

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("requirements.lock", "requirements-dev.lock")
# Written so that the patterns do not match themselves in this file.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~$}/])/(?:work|root|farm|tmp/dev|tmp/bash_jobs)(?:/|\b)|(?<![\w.~$}/])/(?:home|Users)/\w+|file:/{2}"
)


def project_files(*patterns: str) -> list[Path]:
    """The files git knows or would add (not the ignored ones), or a skip where git cannot tell."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git or the repository is absent: which files belong to the project is not known")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in sorted(set(listing.split("\0"))) if name and (ROOT / name).is_file()]


def locked(name: str) -> dict[str, str]:
    """The pins of one lock file, canonical name to version; asserts the form of every line on the way."""
    pins = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or line == "-r requirements.lock":
            continue
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.]+)", line)
        assert match, f"{name}: not of the form name==version: {line!r}"
        key = canonicalize_name(match[1])
        assert key not in pins, f"{name}: {key} is pinned twice"
        pins[key] = match[2]
    return pins


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    result = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return target


def test_wheel_has_every_module_and_the_templates_and_nothing_else(wheel: Path):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    code = {path.relative_to(ROOT).as_posix() for path in project_files("tlm_hf/*")}
    data = project_files("model_cards/*", "spaces/*")
    templates = {f"tlm_hf/_package_data/{path.relative_to(ROOT).as_posix()}" for path in data}
    assert {name for name in names if ".dist-info/" not in name} == code | templates


REGISTERED = """
from transformers import AutoConfig, AutoModelForSequenceClassification
for kind in ("tlm", "tlm_committee"):
    print(AutoModelForSequenceClassification._model_mapping[type(AutoConfig.for_model(kind))].__name__)
"""


def test_wheel_works_from_another_folder(wheel: Path, installed: Path, tmp_path: Path):
    """Our classes are registered in whatever order is imported."""
    archive = zipfile.ZipFile(wheel)
    info = f"tlm_hf-{PYPROJECT['project']['version']}.dist-info"
    assert "License-Expression: Apache-2.0" in archive.read(f"{info}/METADATA").decode()
    assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
    classes = ["TLMForSequenceClassification", "CommitteeForSequenceClassification"]
    first = "import transformers.models.auto.modeling_auto\nimport tlm_hf\n"
    assert run("-c", first + REGISTERED, folder=tmp_path, PYTHONPATH=str(installed)).stdout.split() == classes
    program = f"from tlm_hf import TLMForMaskedLM{REGISTERED}"
    program += """
import importlib, pkgutil, tlm_hf
for module in pkgutil.walk_packages(tlm_hf.__path__, "tlm_hf."):
    importlib.import_module(module.name)
print(tlm_hf.__file__, tlm_hf.__version__)
"""
    result = run("-c", program, folder=tmp_path, PYTHONPATH=str(installed))
    assert result.returncode == 0, result.stderr
    *names, file, version = result.stdout.split()
    assert names == classes
    assert Path(file).is_relative_to(installed)
    assert version == PYPROJECT["project"]["version"]
    tlm = partial(run, installed / "bin" / "tlm", folder=tmp_path, PYTHONPATH=str(installed))
    answered = tlm("pretrain", "--help")
    assert answered.stdout.startswith("usage: tlm pretrain"), answered.stderr
    assert tlm("no-such-command").returncode == 2


def requirements_of(extra: str | None) -> list[Requirement]:
    """What an extra of pyproject.toml declares, with the extras that it names; the core without one."""
    project = PYPROJECT["project"]
    declared = [Requirement(text) for text in project["optional-dependencies"][extra] if extra] if extra else []
    own = [part for one in declared if one.name == "tlm-hf" for part in one.extras]
    core = [Requirement(text) for text in project["dependencies"]]
    nested = [requirement for part in own for requirement in requirements_of(part)]
    return [*core, *(one for one in declared if one.name != "tlm-hf"), *nested]


@pytest.mark.parametrize(("extra", "locks"), [("release", LOCKS[:1]), ("study", LOCKS[:1]), ("dev", LOCKS)])
def test_lock_files_hold_every_declared_dependency_within_its_range(extra: str, locks: tuple[str, ...]):
    pins = {name: pin for lock in locks for name, pin in locked(lock).items()}
    for requirement in requirements_of(extra):
        key = canonicalize_name(requirement.name)
        assert key in pins, f"{key} is not in {locks}: run scripts/lock.sh"
        assert requirement.specifier.contains(pins[key]), f"{key}=={pins[key]} is outside {requirement.specifier}"


# What may be imported at the top of a module: the core everywhere, an extra's packages in the rooms that need it.
CORE_ROOMS = {"__init__.py", "errors.py", "models", "recipes.py"}
EXTRA_OF_ROOM = {"hub": "release", "cards.py": "release", "study": "study"}


def test_module_level_imports_are_declared_dependencies():
    owners = packages_distributions()
    undeclared = {}
    for path in (ROOT / "tlm_hf").rglob("*.py"):
        room = path.relative_to(ROOT / "tlm_hf").parts[0]
        extra = None if room in CORE_ROOMS else EXTRA_OF_ROOM.get(room, "train")
        declared = {canonicalize_name(requirement.name) for requirement in requirements_of(extra)}
        for node in ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"tlm_hf"}:
                if not declared & {canonicalize_name(owner) for owner in owners.get(top, [])}:
                    undeclared[f"{path.relative_to(ROOT)}: {top}"] = owners.get(top, [])
    assert undeclared == {}


def test_a_missing_package_is_named_with_its_extra():
    for extra, packages in EXTRAS.items():
        declared = {Requirement(text).name for text in PYPROJECT["project"]["optional-dependencies"][extra]}
        assert set(packages.split()) == declared - {"tlm-hf", "huggingface-hub"}
    for module, package in (("onnxscript", "onnx"), ("sklearn", "train"), ("sentence_transformers", "sentence")):
        assert f'pip install -e ".[{package}]", or pip install' in explain_missing(module)  # this is a clone
    assert explain_missing("no_such_module") is None


def test_importing_the_package_imports_neither_torch_nor_transformers(installed: Path, tmp_path: Path):
    heavy = {"torch", "transformers", "numpy", "huggingface_hub"}
    program = f"import sys, tlm_hf.commands.main; print(sorted({heavy} & set(sys.modules)))"
    result = run("-c", program, folder=tmp_path, PYTHONPATH=str(installed))
    assert result.stdout.strip() == "[]", result.stderr


def test_every_public_name_can_be_imported():
    for name in tlm_hf.__all__:
        assert getattr(tlm_hf, name).__name__ == name


def test_dependencies_point_downward():
    result = subprocess.run(
        [shutil.which("lint-imports") or "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_no_path_of_a_machine_stands_in_a_project_file():
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or a parquet file
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE_PATHS.finditer(text)]
    assert found == []


def test_a_user_program_is_type_checked_against_the_package(installed: Path, tmp_path: Path):
    """Oracle: mypy, which reads `py.typed` and the names that the package imports lazily."""
    program = "from tlm_hf import UserError, predict\nreveal_type(UserError('x'))\npredict(texts=3, modle='folder')\n"
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\n[mypy-tlm_hf.*]\nfollow_imports = silent\n")
    result = run("-m", "mypy", "program.py", folder=tmp_path, PYTHONPATH=str(installed))
    assert 'note: Revealed type is "tlm_hf.errors.UserError"' in result.stdout
    assert "modle" in result.stdout
