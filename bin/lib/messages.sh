# What a person reads: steps with the seconds so far, and failures that say what to do.
# Sourced.

# say LINE…
say() { printf '%s\n' "$@"; }

step() { printf '[%3ds] %s\n' "$SECONDS" "$*"; }

# die WHAT-HAPPENED [LINE-OF-ADVICE…]
die() {
    printf '\n%s: %s\n' "bin/$(basename "$0")" "$1" >&2
    shift
    [[ $# -eq 0 ]] || printf '    %s\n' "$@" >&2
    exit 1
}

# die_with_log WHAT-HAPPENED LOG-FILE [LINE-OF-ADVICE…]
die_with_log() {
    local what=$1 log=$2
    shift 2
    printf '\nThe end of %s:\n' "$log" >&2
    tail -n 20 "$log" 2>/dev/null | sed 's/^/    | /' >&2
    die "$what" "$@"
}
