"""`tlm release stage|verify|push|status`: a family of repositories, up to the Hub whole or not at all."""

from dataclasses import dataclass

from ..option_fields import option
from ..runs.atomic_files import Json


@dataclass
class ReleaseArguments:
    """Options of `tlm release`."""

    what: str = option("", "stage, verify, push or status.")
    release_file: str = option("release.yaml", "With stage: the YAML that names it all.")
    output_dir: str = option("outputs/release", "Folder of the staged release.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")
    dry_run: bool = option(False, "With push: only show every file, size and commit.")
    public: bool = option(False, "With push: make everything public in the end.")
    overwrite: bool = option(False, "With push: also over what others changed since the last release.")


def release(arguments: ReleaseArguments) -> Json:
    """Stage, verify, push or compare a family of repositories."""
    from ..hub import push, stage, verify  # here, since each part needs other libraries

    output = arguments.output_dir
    if arguments.what == "stage":
        return stage.stage(arguments.release_file, output, data_root=arguments.data_root)
    if arguments.what == "verify":
        return verify.verify(output)
    if arguments.what == "status":
        return push.status(output)
    return push.push(output, public=arguments.public, overwrite=arguments.overwrite, dry_run=arguments.dry_run)
