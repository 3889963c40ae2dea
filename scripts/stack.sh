#!/usr/bin/env bash
# The local stack: real Kafka, MinIO, PostgreSQL and MariaDB with Debezium in Kafka Connect, the fleet simulator and
# `millpond serve`, without containers.
#   stack.sh up       starts what is not running yet (make up)
#   stack.sh down     stops all of it, in order; data stay in .millpond-stack (make down)
#   stack.sh status   says what runs
set -euo pipefail
. "$(dirname "$0")/lib.sh"

REPO=$(dirname "$SCRIPTS")
cd "$REPO"
STACK=${MILLPOND_STACK:-$REPO/.millpond-stack}
KAFKA_PORT=${KAFKA_PORT:-9092}
KAFKA_CONTROLLER_PORT=${KAFKA_CONTROLLER_PORT:-9093}
MINIO_PORT=${MINIO_PORT:-9000}
POSTGRES_PORT=${POSTGRES_PORT:-55432}
MARIADB_PORT=${MARIADB_PORT:-53306}
CONNECT_PORT=${CONNECT_PORT:-8083}
FLIGHT_PORT=${FLIGHT_PORT:-32010}
HTTP_PORT=${HTTP_PORT:-8090}
MILLPOND=${CARGO_TARGET_DIR:-$REPO/target}/debug/millpond
export AWS_ACCESS_KEY_ID=millpond AWS_SECRET_ACCESS_KEY=millpond-secret AWS_REGION=us-east-1
export MINIO_ROOT_USER=$AWS_ACCESS_KEY_ID MINIO_ROOT_PASSWORD=$AWS_SECRET_ACCESS_KEY

# A pid file holds the pid and when that process began, so a reused pid is never taken for ours.
began() { ps -o lstart= -p "$1" 2>/dev/null; }
pid_of() { sed -n 1p "$STACK/$1.pid" 2>/dev/null; }
alive() {
    local pid since
    pid=$(pid_of "$1") && [ -n "$pid" ] && since=$(began "$pid") && [ "$since" = "$(sed -n 2p "$STACK/$1.pid")" ]
}

quietly() { "$@" >/dev/null 2>&1; }
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
http_ok() {
    local status
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' "$2" >&3
    read -r -t 2 _ status _ <&3 || status=
    exec 3>&-
    [ "$status" = 200 ]
}

# start NAME PORTS COMMAND…: runs the command in the background with a pid file and a log.
start() {
    local name=$1 ports=$2 port
    shift 2
    for port in $ports; do
        ! answers "$port" || die "port $port is taken, so $name cannot start. Stop what uses it, or choose another: see the variables at the head of scripts/stack.sh"
    done
    setsid "$@" </dev/null >>"$STACK/$name.log" 2>&1 9>&- &
    local pid=$!
    # What ended at once has no beginning; await tells why.
    { echo "$pid"; began "$pid" || true; } >"$STACK/$name.pid"
}

# await NAME SECONDS COMMAND…: until the command succeeds; the process's log is shown when it does not.
await() {
    local name=$1 deadline=$((SECONDS + $2))
    shift 2
    until "$@"; do
        if ! alive "$name" || [ $SECONDS -ge $deadline ]; then
            tail -n 20 "$STACK/$name.log" >&2
            alive "$name" && die "$name is not ready: see $STACK/$name.log" || die "$name stopped: see $STACK/$name.log"
        fi
        sleep 0.2
    done
    say "$name is ready"
}

project() {
    # It was a link before.
    [ ! -L "$STACK/project/schemas" ] || rm "$STACK/project/schemas"
    mkdir -p "$STACK/project/schemas"
    ln -sf "$REPO"/schemas/*.toml "$SCRIPTS"/stack/schemas/*.toml "$STACK/project/schemas/"
    ln -sfn "$REPO/queries" "$STACK/project/queries"
    ln -sfn "$REPO/reference" "$STACK/project/reference"
    [ -e "$STACK/project/millpond.toml" ] || cat >"$STACK/project/millpond.toml" <<EOF
# Made by make up; yours to change: it is not written again.
[project]
timezone = "Asia/Seoul"
[lake]
url = "s3://millpond/lake"
[lake.s3]
endpoint = "http://127.0.0.1:$MINIO_PORT"
region = "us-east-1"
[kafka]
brokers = "127.0.0.1:$KAFKA_PORT"
[serve]
flight_sql = "127.0.0.1:$FLIGHT_PORT"
http = "127.0.0.1:$HTTP_PORT"
EOF
}

postgres() { psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$POSTGRES_PORT" -U postgres "$@"; }
mariadb() { command mariadb --no-defaults -h 127.0.0.1 -P "$MARIADB_PORT" -u debezium -pdebezium "$@"; }
answers_postgres() { quietly postgres -c 'SELECT 1' postgres; }
answers_mariadb() { quietly mariadb -e 'SELECT 1' fleet; }

# The tables, once, and what Debezium needs to know to tell their changes.
databases() {
    if [ ! -e "$STACK/postgres/made" ]; then
        postgres -c 'CREATE DATABASE shop' postgres
        postgres --single-transaction -f "$SCRIPTS/stack/postgres.sql" shop
        touch "$STACK/postgres/made"
    fi
    if [ ! -e "$STACK/mariadb/made" ]; then
        mariadb --default-character-set=utf8mb4 fleet <"$SCRIPTS/stack/mariadb.sql"
        touch "$STACK/mariadb/made"
    fi
    mkdir -p "$STACK/connect"
    local connector=("$SCRIPTS/component.sh" connector)
    {
        "${connector[@]}" postgres shop shop "$POSTGRES_PORT" shop
        echo decimal.handling.mode=string
    } >"$STACK/connect/shop.properties"
    {
        "${connector[@]}" mariadb garage garage "$MARIADB_PORT" fleet "$STACK/connect/history"
        echo decimal.handling.mode=string
    } >"$STACK/connect/garage.properties"
}

up() {
    "$SCRIPTS/setup.sh"
    cargo build --bin millpond
    mkdir -p "$STACK/minio/millpond"
    # Two at once take turns.
    exec 9>"$STACK/lock"
    if have flock; then flock 9; fi

    if ! alive minio; then start minio "$MINIO_PORT" "$SCRIPTS/component.sh" minio "$STACK/minio" "$MINIO_PORT"; fi
    if ! alive kafka; then
        start kafka "$KAFKA_PORT $KAFKA_CONTROLLER_PORT" \
            "$SCRIPTS/component.sh" kafka "$STACK/kafka" "$KAFKA_PORT" "$KAFKA_CONTROLLER_PORT"
    fi
    if ! alive postgres; then
        start postgres "$POSTGRES_PORT" "$SCRIPTS/component.sh" postgres "$STACK/postgres" "$POSTGRES_PORT" stay
    fi
    if ! alive mariadb; then
        start mariadb "$MARIADB_PORT" "$SCRIPTS/component.sh" mariadb "$STACK/mariadb" "$MARIADB_PORT"
    fi
    await minio 30 http_ok "$MINIO_PORT" /minio/health/ready
    await kafka 60 answers "$KAFKA_PORT"
    "$SCRIPTS/component.sh" topics "127.0.0.1:$KAFKA_PORT" fleet.telemetry:6 fleet.trips:3 fleet.dms:1 fleet.reservation:3
    await postgres 60 answers_postgres
    await mariadb 60 answers_mariadb
    databases
    if ! alive connect; then
        start connect "$CONNECT_PORT" "$SCRIPTS/component.sh" connect "$STACK/connect" "127.0.0.1:$KAFKA_PORT" \
            "$CONNECT_PORT" "$STACK/connect/shop.properties" "$STACK/connect/garage.properties"
    fi
    await connect 120 http_ok "$CONNECT_PORT" /connectors/garage/status
    project
    if ! alive simulator; then start simulator "" "$MILLPOND" simulate --brokers "127.0.0.1:$KAFKA_PORT"; fi
    if ! alive serve; then start serve "$FLIGHT_PORT $HTTP_PORT" "$MILLPOND" serve --project "$STACK/project"; fi
    await serve 60 http_ok "$HTTP_PORT" /readyz
    alive simulator || { tail -n 20 "$STACK/simulator.log" >&2; die "simulator stopped: see $STACK/simulator.log"; }
    cat <<EOF

Kafka      127.0.0.1:$KAFKA_PORT (fleet.telemetry, fleet.trips, fleet.dms, fleet.reservation)
PostgreSQL 127.0.0.1:$POSTGRES_PORT, user postgres, database shop, table customer (through Debezium)
MariaDB    127.0.0.1:$MARIADB_PORT, user debezium / debezium, database fleet, table workshop (through Debezium)
MinIO      http://127.0.0.1:$MINIO_PORT, bucket millpond, keys millpond / millpond-secret
Millpond   grpc://127.0.0.1:$FLIGHT_PORT, http://127.0.0.1:$HTTP_PORT/metrics
project    $STACK/project
logs       $STACK/*.log

  $MILLPOND sql --url grpc://127.0.0.1:$FLIGHT_PORT -c 'SELECT count(*) FROM telemetry'
  psql -h 127.0.0.1 -p $POSTGRES_PORT -U postgres shop -c "UPDATE customer SET tier = 'gold' WHERE customer_id = 2"
  $MILLPOND sql --url grpc://127.0.0.1:$FLIGHT_PORT -c 'SELECT * FROM customer'
  make down
EOF
}

# halt NAME SECONDS: asks to stop, waits, and kills only what did not.
halt() {
    local name=$1 deadline=$((SECONDS + $2)) pid
    if ! alive "$name"; then
        [ -e "$STACK/$name.pid" ] && say "$name was not running"
        rm -f "$STACK/$name.pid"
        return
    fi
    pid=$(pid_of "$name")
    kill -TERM "$pid"
    while alive "$name"; do
        if [ $SECONDS -ge $deadline ]; then
            kill -KILL "$pid"
            rm -f "$STACK/$name.pid"
            say "$name did not stop within $2 s and was killed"
            return
        fi
        sleep 0.1
    done
    rm -f "$STACK/$name.pid"
    say "$name stopped"
}

down() {
    [ -d "$STACK" ] || { say "nothing is running"; return; }
    halt simulator 10
    halt serve 40
    halt connect 30
    halt kafka 30
    halt postgres 20
    halt mariadb 20
    halt minio 10
    say "data and logs stay in $STACK; remove that folder to begin anew"
}

status() {
    local name
    for name in kafka minio postgres mariadb connect simulator serve; do
        if alive "$name"; then echo "$name: running, pid $(pid_of "$name")"; else echo "$name: stopped"; fi
    done
}

case ${1:-} in
up | down | status) "$1" ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
