# What every command in bin/ begins with: where things are, which CKAN, and how
# to get an environment and services for it.
# Sourced.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
DEV=$ROOT/.dev
CKAN=${CKAN:-2.12}
export CKAN
mkdir -p "$DEV/log"

# shellcheck source=bin/lib/messages.sh
. "$ROOT/bin/lib/messages.sh"
# shellcheck source=bin/lib/processes.sh
. "$ROOT/bin/lib/processes.sh"
# shellcheck source=bin/lib/debian.sh
. "$ROOT/bin/lib/debian.sh"
# shellcheck source=bin/lib/python.sh
. "$ROOT/bin/lib/python.sh"
# shellcheck source=bin/lib/axe.sh
. "$ROOT/bin/lib/axe.sh"
# shellcheck source=bin/lib/services.sh
. "$ROOT/bin/lib/services.sh"

ckan_release >/dev/null # or ends here, where it is not known

# CKAN reads these as well, and prefers them over its ini file.
unset CKAN_INI CKAN_SITE_URL CKAN_SITE_ID
# Where it is set, each process compiles CKAN anew: 5 s of a core instead of nothing.
unset PYTHONDONTWRITEBYTECODE

# site COMMAND…: see ckanext/webhooks/tests/site.py
site() { "$VENV/bin/python" -m ckanext.webhooks.tests.site "$@"; }
