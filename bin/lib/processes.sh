# Folders of runs, and the processes in them: only what was started here is ended,
# by its pid, and only when the pid is still that process.
# Sourced; wants messages.sh and DEV.

# open_run NAME: takes .dev/run/NAME for this script alone, sets RUN, and ends
# what an earlier run that was killed left there.
open_run() {
    RUN=$DEV/run/$1
    mkdir -p "$RUN/pids" "$RUN/log"
    exec 9>"$RUN/lock"
    flock -n 9
}

# open_free_run NAME: the same with NAME, NAME-2, … so that two can run at once.
open_free_run() {
    local name
    for name in "$1" "$1-2" "$1-3" "$1-4"; do
        if open_run "$name"; then
            stop_all
            return
        fi
    done
    die "four runs of this are under way in this checkout." "Wait for one to end."
}

# A pid comes back for another process one day; with its start time it does not.
# Fails if the process has ended, be it not yet reaped.
started_at() {
    local line
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
    line=${line##*) }
    read -ra line <<<"$line"
    [[ ${line[0]} != Z ]] || return 1
    say "${line[19]}"
}

record() { say "$2 $(started_at "$2")" >"$RUN/pids/$1"; }

# pid_of NAME: its pid, if it was started here and still runs.
pid_of() {
    local pid began
    read -r pid began 2>/dev/null <"$RUN/pids/$1" || return 1
    [[ -n $began && $(started_at "$pid") == "$began" ]] || return 1
    say "$pid"
}

# SIGTERM would let PostgreSQL wait for its clients to go.
ending_signal() { if [[ $1 == postgresql ]]; then say INT; else say TERM; fi; }

# start NAME COMMAND…: in the background, in a session of its own (Ctrl-C is for
# the script, which then stops things in order), its output in $RUN/log.
# With TIED=yes it is told to end when the script is gone, even by kill -9.
# Call it from the script's own shell, never from $(…), whose end would count.
# START_AS may hold a command that changes the user. It comes before the tie, of
# which the kernel lets go when a process changes its user.
TIED=yes
START_AS=()
start() {
    local name=$1 tie=()
    shift
    [[ $TIED != yes ]] || tie=(setpriv --pdeathsig "$(ending_signal "$name")")
    setsid "${START_AS[@]}" "${tie[@]}" "$@" >"$RUN/log/$name.log" 2>&1 </dev/null 9>&- &
    record "$name" $!
}

# stop NAME: asks, waits, and after 10 s insists.
stop() {
    local pid
    if pid=$(pid_of "$1"); then
        kill "-$(ending_signal "$1")" "$pid" 2>/dev/null || true
        for _ in {1..100}; do
            pid_of "$1" >/dev/null || break
            sleep 0.1
        done
        if pid_of "$1" >/dev/null; then
            kill -KILL -- "-$pid" "$pid" 2>/dev/null || true
        fi
    fi
    rm -f "$RUN/pids/$1"
}

# In the order that lets each end well: those that use the services first.
stop_all() {
    stop child
    stop lint
    stop jars
    stop environments
    stop site
    stop solr
    stop redis
    stop postgresql
}

# child COMMAND…: waits for it as if it ran in the foreground, yet a signal to the
# script is handled at once; sets its exit code. Background jobs have Ctrl-C
# switched off and no input, which env and the redirection undo.
child() {
    env --default-signal=INT,QUIT setpriv --pdeathsig TERM "$@" <&0 9>&- &
    record child $!
    wait $!
}

# stop_at_exit: whichever way the script ends, its processes end first.
stop_at_exit() {
    # Once begun, ending is not to be interrupted.
    trap 'trap "" INT TERM HUP; stop_all' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}
