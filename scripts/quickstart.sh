#!/usr/bin/env bash
# The main job on a fresh machine: pre-train tiny encoders, fine-tune them, join them into a committee, compare, stage.
#
#   bash scripts/quickstart.sh               the real thing, at most 6 minutes on 2 cores after the installation
#   bash scripts/quickstart.sh --smoke       the same steps at a size where accuracy means nothing, under 2 minutes
#
# Arguments go to `tlm quickstart`. Results are in outputs/quickstart/; call it again and it goes on where it stood.
set -uo pipefail
# shellcheck source=scripts/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
tlm_environment requirements.lock || exit
exec python -m tlm_hf.commands.main quickstart "$@"
