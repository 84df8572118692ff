# PostgreSQL, Redis and Solr, each on a free port of 127.0.0.1, each only where
# the environment does not name one already.
# Sourced; wants messages.sh, processes.sh, debian.sh, python.sh; an open run and $VENV.

# services: starts what is missing and exports the three addresses. With FLEETING=yes what
# PostgreSQL holds need not outlive the machine, and no commit waits for the disk; to connect
# takes 1 ms of a core instead of 20, as md5 is made to be quick and SCRAM to be slow; what Solr
# holds does not outlive Solr, and costs half as much.
FLEETING=no
services() {
    local ports
    mapfile -t ports < <(free_ports)
    local own=()
    if [[ -z ${CKAN_SQLALCHEMY_URL:-} ]]; then
        own+=(PostgreSQL)
        start_postgresql "${ports[0]}"
    fi
    if [[ -z ${CKAN_REDIS_URL:-} ]]; then
        own+=(Redis)
        start_redis "${ports[1]}"
    fi
    if [[ -z ${CKAN_SOLR_URL:-} ]]; then
        own+=(Solr)
        start_solr "${ports[2]}"
    fi
    [[ ${#own[@]} -gt 0 ]] || { step "services: those that the environment names"; return 0; }
    step "services: ${own[*]}"
    local service
    for service in "${own[@]}"; do "await_${service,,}"; done
}

# Below the range from which the kernel takes the near end of connections, or a
# server that is restarted could find its port lent out.
free_ports() {
    "$VENV/bin/python" -I - <<'PYTHON'
import random, socket
taken = []
while len(taken) < 3:
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", random.randrange(20000, 32000)))
    except OSError:
        continue
    taken.append(s)
    print(s.getsockname()[1])
PYTHON
}

# await NAME SECONDS TEST…: until TEST succeeds; fails with the log's end.
await() {
    local name=$1 seconds=$2 tries
    shift 2
    for ((tries = seconds * 10; tries > 0; tries--)); do
        ! "$@" 2>/dev/null || return 0
        pid_of "$name" >/dev/null || break
        sleep 0.1
    done
    die_with_log "$name did not start." "$RUN/log/$name.log" \
        "If the lines above do not say why: delete ${RUN#"$ROOT"/} and run this again."
}

# --- PostgreSQL: a cluster of its own. The server refuses root, so root lends it
# to the user that Debian's package made.

# Sets database_owner, the prefix that turns root into user postgres. That user
# can't enter a checkout below, say, root's home; it then keeps the one right of
# root that lets it: to pass folders and files that are closed to it.
find_database_owner() {
    database_owner=()
    [[ $EUID -eq 0 ]] || return 0
    getent passwd postgres >/dev/null ||
        die "PostgreSQL does not run as root, and there is no user postgres to run it." \
            "Make one (useradd --system postgres), or run this as a normal user."
    database_owner=(setpriv --reuid postgres --regid postgres --clear-groups)
    "${database_owner[@]}" test -x "$1" 2>/dev/null && return
    database_owner+=(--inh-caps +dac_override --ambient-caps +dac_override)
    "${database_owner[@]}" ls "$1" >/dev/null 2>&1 ||
        die "PostgreSQL does not run as root, and user postgres cannot enter $1." \
            "Move the checkout, say below /srv, or run this as a normal user."
}

start_postgresql() {
    local port=$1 bin data=$RUN/postgresql password durable=on auth=scram-sha-256
    [[ $FLEETING == no ]] || durable=off auth=md5
    bin=$(postgresql_bin)
    install -d -m 700 "$data"
    [[ $EUID -ne 0 ]] || chown postgres "$data"
    find_database_owner "$data"
    if [[ ! -e $data/made ]]; then
        rm -rf "${data:?}"/*
        # On loopback any local user can knock, hence a password.
        password=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
        (umask 077 && say "$password" >"$RUN/postgresql.password")
        [[ $EUID -ne 0 ]] || chown postgres "$RUN/postgresql.password"
        (cd / && "${database_owner[@]}" "$bin/initdb" --pgdata "$data" --username ckan --encoding UTF8 --locale C.UTF-8 \
            --auth "$auth" --pwfile "$RUN/postgresql.password") >"$RUN/log/postgresql.log" 2>&1 ||
            die_with_log "the database cluster could not be made." "$RUN/log/postgresql.log" \
                "Delete ${RUN#"$ROOT"/} and run this again."
        touch "$data/made"
    fi
    password=$(<"$RUN/postgresql.password")
    # shellcheck disable=SC2034 # start reads it
    START_AS=("${database_owner[@]}")
    start postgresql "$bin/postgres" -D "$data" -p "$port" -h 127.0.0.1 -c unix_socket_directories= \
        -c max_connections=300 -c "fsync=$durable" -c "full_page_writes=$durable" -c shared_buffers=128MB
    # shellcheck disable=SC2034
    START_AS=()
    export CKAN_SQLALCHEMY_URL=postgresql://ckan:$password@127.0.0.1:$port/ckan_${CKAN/./_}_test
    postgresql_ready=("$bin/pg_isready" -q -h 127.0.0.1 -p "$port")
}

await_postgresql() { await postgresql 30 "${postgresql_ready[@]}"; }

# --- Redis: nothing is kept.

start_redis() {
    mkdir -p "$RUN/redis"
    start redis redis-server --port "$1" --bind 127.0.0.1 --save "" --appendonly no --dir "$RUN/redis"
    export CKAN_REDIS_URL=redis://127.0.0.1:$1/1
    redis_port=$1
}

await_redis() { await redis 10 redis_answers; }

redis_answers() (
    exec 3<>"/dev/tcp/127.0.0.1/$redis_port"
    printf 'PING\r\n' >&3
    read -r -t 1 line <&3 && [[ $line == +PONG* ]]
)

# --- Solr: from Maven's artifacts, with one core per CKAN version, as a CKAN
# refuses the schema of another.

solr_jars() {
    local lib=$DEV/solr-lib stamp log=$DEV/log/solr-lib.log
    stamp=$(sha256sum <"$ROOT/bin/solr/pom.xml")
    [[ $(cat "$lib/stamp" 2>/dev/null) != "$stamp" ]] || return 0
    exec 7>"$DEV/solr-lib.lock"
    flock 7
    if [[ $(cat "$lib/stamp" 2>/dev/null) != "$stamp" ]]; then
        step "Solr's jars from Maven Central (about 53 MB, once)"
        rm -rf "$lib"
        mvn -B -q -Dstyle.color=never -f "$ROOT/bin/solr/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
            "-DoutputDirectory=$lib" </dev/null 7>&- >"$log" 2>&1 ||
            die_with_log "Maven could not fetch Solr." "$log" \
                "Check that Maven Central, or the mirror in your ~/.m2/settings.xml, can be reached; run this again." \
                "Or use a Solr that you have: CKAN_SOLR_URL=http://…/solr/ckan"
        say "$stamp" >"$lib/stamp"
    fi
    exec 7>&-
}

# A core is a folder; Solr takes up those it finds when it starts.
solr_core() {
    local conf=$RUN/solr/ckan-$CKAN/conf schema
    mkdir -p "$conf"
    schema=$("$VENV/bin/python" -I -c 'import importlib.util as u, pathlib as p
print(p.Path(u.find_spec("ckan").origin).parent / "config/solr/schema.xml")')
    cp "$schema" "$ROOT/bin/solr/solrconfig.xml" "$conf"
    touch "$conf/protwords.txt" "$conf/synonyms.txt" "$conf/stopwords.txt"
    touch "$RUN/solr/ckan-$CKAN/core.properties"
    echo '<solr/>' >"$RUN/solr/solr.xml"
}

start_solr() {
    solr_jars
    solr_core
    local in_memory=()
    [[ $FLEETING == no ]] || in_memory=(-Dsolr.directoryFactory=solr.ByteBuffersDirectoryFactory
        -Dsolr.lock.type=single -Dsolr.ulog.enable=false)
    # Its better compiler pays off after hours only, and takes a core for the first minute.
    start solr java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "${in_memory[@]}" \
        "-Dsolr.log.dir=$RUN/log" -cp "$DEV/solr-lib/*" \
        "$ROOT/bin/solr/CkanSolr.java" "$RUN/solr" "$1" 127.0.0.1
    solr_port=$1
    export CKAN_SOLR_URL=http://127.0.0.1:$1/solr/ckan-$CKAN
}

await_solr() { await solr 60 solr_answers; }

solr_answers() (
    exec 3<>"/dev/tcp/127.0.0.1/$solr_port"
    printf 'GET /solr/ckan-%s/select?q=*:*&rows=0 HTTP/1.0\r\n\r\n' "$CKAN" >&3
    read -r -t 5 line <&3 && [[ $line == *" 200"* ]]
)
