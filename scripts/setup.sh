#!/usr/bin/env bash
# Fetches what the tests and the local stack need, once, into the user's cache folder; silent when nothing is missing.
#   setup.sh build   what a build needs: Rust, C and C++ compilers, make, perl
#   setup.sh         that, and Kafka, Kafka Connect with Debezium and a schema registry (Maven), MinIO (Go), the
#                    Python clients (pip), node-postgres and playwright-core (npm), PostgreSQL and MariaDB (Debian packages)
#   setup.sh all     that, and what only `make test-all` and `make bench` need: Redis, Chromium, psqlODBC and tmux (Debian
#                    packages), Spark with Delta (pip, Maven; 450 MB), Flink (pip, Maven; 320 MB), Superset (pip; 870 MB),
#                    Flight JDBC and an old pgjdbc (Maven; 90 MB), harlequin and dbt (pip; 500 MB)
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Installs Debian packages where that is possible without asking; otherwise says what to install.
install() {
    local as_root=()
    if ! have apt-get; then
        die "missing: $*. Install them with your system's package manager (the names are Debian's)."
    fi
    if [ "$(id -u)" != 0 ]; then
        if have sudo && sudo -n true 2>/dev/null; then
            as_root=(sudo)
        else
            die "missing: $*. Install them with: sudo apt-get install $*"
        fi
    fi
    say "installing $*"
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update -q && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "could not install $*: see above, or $log"
    fi
    rm -f "$log"
}

# Runs a step with its output in a log that is shown only when it fails; the last argument-less line is a hint.
step() {
    local what=$1 hint=$2 began=$SECONDS
    shift 2
    mkdir -p "$CACHE"
    say "setup: $what"
    if ! "$@" >"$CACHE/setup.log" 2>&1; then
        tail -n 20 "$CACHE/setup.log" >&2
        die "$what failed: $hint (whole output: $CACHE/setup.log)"
    fi
    say "setup: $what: done in $((SECONDS - began)) s"
}

# A component is built beside its place and moved there when whole, so that an interrupted set-up starts over.
publish() {
    rm -rf "$2"
    mv "$1" "$2"
}

java_major() { java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1; }

build_tools() {
    local missing=()
    have cargo || die "missing: Rust. Install it from https://rustup.rs (1.95 or later)."
    have cc || missing+=(gcc libc6-dev)
    have c++ || missing+=(g++)
    have make || missing+=(make)
    have perl || missing+=(perl)
    [ ${#missing[@]} = 0 ] || install "${missing[@]}"
}

psqlodbc() { ls /usr/lib/*/odbc/psqlodbcw.so >/dev/null 2>&1; }

databases() { [ -n "$(postgres_bin)" ] && have mariadbd && have mariadb-install-db; }

test_tools() {
    local missing=()
    have java || missing+=(openjdk-17-jdk-headless)
    have mvn || missing+=(maven)
    have python3 || missing+=(python3)
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    have npm || missing+=(nodejs npm)
    have setpriv || missing+=(util-linux)
    have openssl || missing+=(openssl)
    databases || missing+=(postgresql mariadb-server)
    [ "$scope" != all ] || have redis-server || missing+=(redis-server)
    # Without a font a page is drawn without letters.
    [ "$scope" != all ] || have chromium || missing+=(chromium fonts-dejavu-core)
    [ "$scope" != all ] || psqlodbc || missing+=(odbc-postgresql unixodbc)
    [ "$scope" != all ] || have tmux || missing+=(tmux)
    [ ${#missing[@]} = 0 ] || install "${missing[@]}"
    local major
    major=$(java_major)
    [ "${major:-0}" -ge 17 ] || die "Kafka needs Java 17 or later, found ${major:-none}. On Debian: apt-get install openjdk-17-jdk-headless"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "the Python clients need Python 3.11 or later, found $(python3 -V)"
}

kafka() {
    local made=$KAFKA_HOME.part
    rm -rf "$made"
    jars kafka "$made" || return 1
    publish "$made" "$KAFKA_HOME"
}

# A release that Maven has as a tarball, unpacked into a folder.
tarball() {
    local artifact=$1 sha256=$2 made=$3 name
    name=$(echo "$artifact" | awk -F: '{ print $2 "-" $3 "-" $5 "." $4 }')
    mvn --batch-mode --strict-checksums \
        "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN_VERSION:copy" \
        -Dartifact="$artifact" -DoutputDirectory="$made" || return 1
    (cd "$made" && echo "$sha256  $name" | sha256sum --check --strict --quiet && tar -xzf "$name" && rm "$name")
}

# Copies the jars of a pom, which must be exactly those of its list.
jars() {
    local folder=$1 made=$2
    mvn --batch-mode --strict-checksums --file "$SCRIPTS/$folder/pom.xml" -Dkafka.version="$KAFKA_VERSION" \
        -Ddelta.version="$DELTA_VERSION" \
        "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN_VERSION:copy-dependencies" \
        -DincludeScope=runtime -DoutputDirectory="$made/libs" || return 1
    (cd "$made/libs" && sha256sum --check --strict --quiet "$SCRIPTS/$folder/libs.sha256") || return 1
    [ "$(find "$made/libs" -name '*.jar' | wc -l)" = "$(wc -l <"$SCRIPTS/$folder/libs.sha256")" ] || {
        echo "the folder of jars holds more than $folder/libs.sha256 lists"
        return 1
    }
}

# Kafka Connect, and Debezium's connectors in a folder of their own.
connect() {
    local made=$CONNECT_HOME.part
    rm -rf "$made"
    jars connect "$made" || return 1
    tarball "io.debezium:debezium-connector-postgres:$DEBEZIUM_POSTGRES_VERSION:tar.gz:plugin" \
        "$DEBEZIUM_POSTGRES_SHA256" "$made/plugins" || return 1
    tarball "io.debezium:debezium-connector-mariadb:$DEBEZIUM_MARIADB_VERSION:tar.gz:plugin" \
        "$DEBEZIUM_MARIADB_SHA256" "$made/plugins" || return 1
    publish "$made" "$CONNECT_HOME"
}

minio() {
    local made=$MINIO_HOME.part
    rm -rf "$made"
    GOBIN=$made CGO_ENABLED=0 GOFLAGS= go install -trimpath -ldflags "-s -w" \
        "github.com/minio/minio@$MINIO_VERSION" || return 1
    publish "$made" "$MINIO_HOME"
}

# Another S3 server, so that nothing of MinIO's is taken for S3.
versitygw() {
    local made=$VERSITYGW_HOME.part
    rm -rf "$made"
    GOBIN=$made CGO_ENABLED=0 GOFLAGS= go install -trimpath -ldflags "-s -w" \
        "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW_VERSION" || return 1
    publish "$made" "$VERSITYGW_HOME"
}

# Apicurio: a schema registry that speaks Confluent's API.
registry() {
    local made=$REGISTRY_HOME.part
    rm -rf "$made"
    tarball "io.apicurio:apicurio-registry-app:$APICURIO_VERSION:tar.gz:all" "$APICURIO_SHA256" "$made" || return 1
    publish "$made" "$REGISTRY_HOME"
}

python_clients() {
    local made=$PYTHON_HOME.part
    # A virtual environment cannot be moved: it is made in place and marked when whole.
    rm -rf "$PYTHON_HOME" "$made"
    python3 -m venv "$PYTHON_HOME" || return 1
    "$PYTHON_HOME/bin/pip" install --quiet --no-input --only-binary :all: --require-hashes \
        -r "$SCRIPTS/requirements.txt" || return 1
    touch "$PYTHON_HOME/ready"
}

node_client() {
    local made=$NODE_HOME.part
    rm -rf "$made"
    mkdir -p "$made"
    cp "$SCRIPTS/node/package.json" "$SCRIPTS/node/package-lock.json" "$made" || return 1
    npm ci --prefix "$made" --ignore-scripts --no-audit --no-fund || return 1
    publish "$made" "$NODE_HOME"
}

spark() {
    # Like the Python clients: made in place.
    rm -rf "$SPARK_HOME"
    python3 -m venv "$SPARK_HOME" || return 1
    "$SPARK_HOME/bin/pip" install --quiet --no-input --require-hashes -r "$SCRIPTS/spark/requirements.txt" || return 1
    jars spark "$SPARK_HOME" || return 1
    touch "$SPARK_HOME/ready"
}

superset() {
    # Like the Python clients: made in place.
    rm -rf "$SUPERSET_HOME"
    python3 -m venv "$SUPERSET_HOME" || return 1
    "$SUPERSET_HOME/bin/pip" install --quiet --no-input --require-hashes -r "$SCRIPTS/superset/requirements.txt" ||
        return 1
    touch "$SUPERSET_HOME/ready"
}

flink() {
    local made=$FLINK_HOME.part
    rm -rf "$made"
    jars flink "$made" || return 1
    # The package holds the jars of a whole distribution; nothing of it need be built.
    python3 -m pip download --quiet --no-input --no-deps --no-binary :all: --require-hashes \
        -r "$SCRIPTS/flink/requirements.txt" -d "$made" || return 1
    tar -xzf "$made"/*.tar.gz -C "$made/libs" --strip-components=3 --wildcards '*/deps/lib/*.jar' || return 1
    rm "$made"/*.tar.gz
    publish "$made" "$FLINK_HOME"
}

# The drivers of Java that are not Debezium's.
jdbc() {
    local made=$JDBC_HOME.part
    rm -rf "$made"
    one_jar "org.apache.arrow:flight-sql-jdbc-driver:$FLIGHT_JDBC_VERSION" "$FLIGHT_JDBC_SHA256" "$made/flight" || return 1
    one_jar "org.apache.arrow:flight-sql-jdbc-driver:$FLIGHT_JDBC_BEFORE_VERSION" "$FLIGHT_JDBC_BEFORE_SHA256" \
        "$made/flight-before" || return 1
    one_jar "org.postgresql:postgresql:$PGJDBC_OLD_VERSION" "$PGJDBC_OLD_SHA256" "$made/pgjdbc-old" || return 1
    publish "$made" "$JDBC_HOME"
}

# A jar that needs no others.
one_jar() {
    local artifact=$1 sha256=$2 made=$3
    mvn --batch-mode --strict-checksums \
        "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN_VERSION:copy" \
        -Dartifact="$artifact" -DoutputDirectory="$made" || return 1
    (cd "$made" && echo "$sha256  $(echo *.jar)" | sha256sum --check --strict --quiet)
}

# A virtual environment of what its folder beside this file lists, made in place like the Python clients.
tool_of_python() {
    local folder=$1 home=$2
    rm -rf "$home"
    python3 -m venv "$home" || return 1
    "$home/bin/pip" install --quiet --no-input --require-hashes -r "$SCRIPTS/$folder/requirements.txt" || return 1
    touch "$home/ready"
}

scope=${1:-}
build_tools
[ "$scope" = build ] && exit 0

more() {
    [ "$scope" != all ] || { [ -e "$SPARK_HOME/ready" ] && [ -d "$FLINK_HOME" ] && [ -e "$SUPERSET_HOME/ready" ] &&
        [ -d "$JDBC_HOME" ] && [ -e "$HARLEQUIN_HOME/ready" ] && [ -e "$DBT_HOME/ready" ] && psqlodbc && have tmux &&
        have redis-server && have chromium; }
}

if more && [ -d "$KAFKA_HOME" ] && [ -d "$CONNECT_HOME" ] && [ -d "$MINIO_HOME" ] && [ -d "$VERSITYGW_HOME" ] &&
    [ -d "$REGISTRY_HOME" ] &&
    [ -e "$PYTHON_HOME/ready" ] && [ -d "$NODE_HOME" ] && databases && have java && have setpriv && have openssl; then
    exit 0
fi

test_tools
# Two set-ups at once take turns.
mkdir -p "$CACHE"
exec 9>"$CACHE/setup.lock"
if have flock; then flock 9; fi

[ -d "$KAFKA_HOME" ] ||
    step "Apache Kafka $KAFKA_VERSION (45 jars, 43 MB)" "is Maven Central or your mirror reachable?" kafka
[ -d "$CONNECT_HOME" ] ||
    step "Kafka Connect $KAFKA_VERSION with Debezium (90 MB)" "is Maven Central or your mirror reachable?" connect
[ -d "$REGISTRY_HOME" ] ||
    step "Apicurio Registry $APICURIO_VERSION (159 MB)" "is Maven Central or your mirror reachable?" registry
if [ ! -d "$MINIO_HOME" ]; then
    have go || die "missing: Go 1.21 or later, to build MinIO. Get it from https://go.dev/dl (Debian 12's own is too old)."
    step "MinIO $MINIO_VERSION (built from source: a few minutes)" "is the Go module proxy reachable, and is 'go version' 1.21 or later?" minio
fi
if [ ! -d "$VERSITYGW_HOME" ]; then
    have go || die "missing: Go 1.21 or later, to build Versity Gateway. Get it from https://go.dev/dl (Debian 12's own is too old)."
    step "Versity Gateway $VERSITYGW_VERSION (built from source: a minute)" "is the Go module proxy reachable, and is 'go version' 1.21 or later?" versitygw
fi
[ -d "$NODE_HOME" ] ||
    step "node-postgres and playwright-core" "is npm's registry or your mirror reachable?" node_client
[ -e "$PYTHON_HOME/ready" ] ||
    step "Python clients (DuckDB, deltalake, ADBC, fastavro, aiosmtpd)" "is the Python package index reachable?" python_clients
[ "$scope" != all ] || [ -e "$SPARK_HOME/ready" ] ||
    step "Spark $SPARK_VERSION with Delta $DELTA_VERSION (450 MB)" "are the Python package index and Maven Central reachable?" spark
[ "$scope" != all ] || [ -d "$FLINK_HOME" ] ||
    step "Flink $FLINK_VERSION (320 MB)" "are the Python package index and Maven Central reachable?" flink
[ "$scope" != all ] || [ -e "$SUPERSET_HOME/ready" ] ||
    step "Superset (870 MB)" "is the Python package index reachable?" superset
[ "$scope" != all ] || [ -d "$JDBC_HOME" ] ||
    step "Flight JDBC $FLIGHT_JDBC_VERSION and $FLIGHT_JDBC_BEFORE_VERSION, pgjdbc $PGJDBC_OLD_VERSION (90 MB)" "is Maven Central or your mirror reachable?" jdbc
[ "$scope" != all ] || [ -e "$HARLEQUIN_HOME/ready" ] ||
    step "harlequin and pyodbc (400 MB)" "is the Python package index reachable?" tool_of_python harlequin "$HARLEQUIN_HOME"
[ "$scope" != all ] || [ -e "$DBT_HOME/ready" ] ||
    step "dbt (150 MB)" "is the Python package index reachable?" tool_of_python dbt "$DBT_HOME"
