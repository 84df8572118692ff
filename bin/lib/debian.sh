# Debian and Ubuntu packages: finds what is missing, installs only that.
# Sourced; wants messages.sh.

# The newest PostgreSQL here; Debian keeps its binaries off the PATH.
postgresql_bin() {
    local newest
    newest=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    if [[ -x $newest/initdb ]]; then
        say "$newest"
    elif command -v initdb >/dev/null; then
        dirname "$(command -v initdb)"
    else
        return 1
    fi
}

# The names of the packages that are missing for CKAN and the services to start,
# and with the argument "tests" for what only tests start.
missing_packages() {
    local python
    [[ ${1:-} != tests ]] || missing_for_tests
    if python=$(find_python); then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || say python3-venv
        # CKAN's psycopg2 comes as source only: a compiler and two sets of headers.
        "$python" -c 'import os, sysconfig as s, sys
sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' || say python3-dev
    else
        printf '%s\n' python3-venv python3-dev
    fi
    command -v gcc >/dev/null || printf '%s\n' gcc libc6-dev
    command -v pg_config >/dev/null || say libpq-dev
    /sbin/ldconfig -p | grep 'libmagic\.so\.1' >/dev/null || say libmagic1 # -q would end ldconfig early, which pipefail minds
    # Tests start a Redis of their own to break it, whoever serves CKAN's.
    command -v redis-server >/dev/null || say redis-server
    [[ -n ${CKAN_SQLALCHEMY_URL:-} ]] || postgresql_bin >/dev/null || say postgresql
    if [[ -z ${CKAN_SOLR_URL:-} ]]; then
        # The Solr server is one Java file that is compiled as it starts: a JDK.
        command -v javac >/dev/null || say default-jdk-headless
        command -v mvn >/dev/null || say maven
    fi
}

missing_for_tests() {
    missing_browser
    [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] || say rabbitmq-server
    [[ -x /usr/sbin/pgbouncer ]] || say pgbouncer
    [[ -x /usr/sbin/ip || -x /sbin/ip ]] || say iproute2
}

# Ubuntu has Chromium as a snap alone; there the tests that want it are skipped,
# unless somebody has put it on the PATH.
missing_browser() {
    grep -qx 'ID=debian' /etc/os-release 2>/dev/null || return 0
    command -v chromium >/dev/null || say chromium
    command -v chromedriver >/dev/null || say chromium-driver
    command -v chromium-headless-shell >/dev/null || say chromium-headless-shell
}

as_root() {
    if [[ $EUID -eq 0 ]]; then "$@"; else sudo -n "$@"; fi
}

# packages [tests]: installs what is missing.
packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [[ ${#missing[@]} -gt 0 ]] || return 0
    local by_hand="sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
    command -v apt-get >/dev/null ||
        die "this is not Debian or Ubuntu, and these are missing: ${missing[*]}" \
            "Install what your system calls them, then run this again."
    if [[ $EUID -ne 0 ]] && ! sudo -n true 2>/dev/null; then
        die "packages are missing, and you are neither root nor have sudo without a password." \
            "Let somebody who is run this, then run this again:" "$by_hand"
    fi
    step "packages: ${missing[*]}"
    mkdir -p "$DEV/log"
    install_packages "${missing[@]}" >"$DEV/log/packages.log" 2>&1 ||
        die_with_log "apt could not install the packages." "$DEV/log/packages.log" "Try by hand:" "$by_hand"
    mapfile -t missing < <(missing_packages "$@")
    [[ ${#missing[@]} -eq 0 ]] ||
        die "still missing after apt installed them: ${missing[*]}" \
            "CKAN $CKAN wants $(python_wanted); this system may have none in its packages."
}

# Only the programs are wanted. Without the two files Debian would start a PostgreSQL,
# a Redis and a RabbitMQ of the system's own, and again at every boot.
install_packages() (
    policy=/usr/sbin/policy-rc.d
    no_cluster=/etc/postgresql-common/createcluster.d/ckanext-webhooks.conf
    made=()
    # shellcheck disable=SC2329 # the trap calls it
    tidy() { [[ ${#made[@]} -eq 0 ]] || as_root rm -f "${made[@]}"; }
    trap tidy EXIT
    trap 'exit 130' INT TERM
    if [[ ! -e $policy ]]; then
        made+=("$policy")
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    made+=("$no_cluster")
    as_root mkdir -p "$(dirname "$no_cluster")"
    echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
    # Debian's units are of no use to us, and would be started at the next boot.
    for unit in redis-server rabbitmq-server pgbouncer; do
        if [[ " $* " == *" $unit "* ]] && command -v systemctl >/dev/null; then
            as_root systemctl disable -q "$unit" || true
        fi
    done
)
