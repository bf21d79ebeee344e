"""Commands that call one of several functions, by their options; each imports its own, for the others' `--help`."""

from dataclasses import dataclass
from typing import Any

from ..errors import UserError, flag
from ..option_fields import option
from ..runs.atomic_files import Json


def pretrain(**options: Any) -> Json:
    """Pre-train an encoder on text, or continue an existing one (--model); the same command continues a run."""
    from ..training import members, pretrain

    return (members.pretrain_members if "num_members" in options else pretrain.pretrain)(**options)


def finetune(**options: Any) -> Json:
    """Fine-tune an encoder on a classification task, or train it from scratch; the same command continues a run."""
    from ..training import finetune, members

    return (members.finetune_members if "models" in options else finetune.finetune)(**options)


def train_committee(**options: Any) -> Json:
    """Split a table, fine-tune K members from pre-trained encoders, calibrate, and write one folder."""
    import datasets

    from ..training import train_committee

    datasets.disable_progress_bars()  # of tables that take no time
    arguments = train_committee.OwnDataArguments(**options)
    return train_committee.train_from_table(arguments.data, arguments)[1]


@dataclass
class ReleaseArguments:
    """Options of `tlm release`."""

    what: str = option("", "stage, verify, push or status.")
    release_file: str = option("release.yaml", "With stage: the YAML that names it all.")
    output_dir: str = option("outputs/release", "Folder of the staged release.")
    data_root: str | None = option(None, "With stage: folder of real text; default: $TLM_DATA.")
    dry_run: bool = option(False, "With push: only show every file, size and commit.")
    public: bool = option(False, "With push: make everything public in the end.")
    overwrite: bool = option(False, "With push: also over what others changed since the last release.")


OF_STEP = {"release_file": "stage", "data_root": "stage", "dry_run": "push", "public": "push", "overwrite": "push"}


def release(arguments: ReleaseArguments) -> Json:
    """Stage, verify, push or compare a family of repositories."""
    from ..hub import push, stage, verify

    output, none = arguments.output_dir, ReleaseArguments()
    for name, step in OF_STEP.items():
        if step != arguments.what and getattr(arguments, name) != getattr(none, name):
            raise UserError(f"{flag(name)} works only for `tlm release {step}`: leave it out.")
    if arguments.what == "stage":
        return stage.stage(arguments.release_file, output, data_root=arguments.data_root)
    if arguments.what == "push":
        return push.push(output, public=arguments.public, overwrite=arguments.overwrite, dry_run=arguments.dry_run)
    return verify.verify(output) if arguments.what == "verify" else push.status(output)
