# Sourced by the other scripts: where the cached components are.
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$SCRIPTS/versions.env"

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/millpond
checksum() { cat "$@" | cksum | cut -d' ' -f1; }

# Each folder's name changes with what is in it, so an upgrade never meets a half-old installation.
KAFKA_HOME=$CACHE/kafka-$KAFKA_VERSION-$(checksum "$SCRIPTS/kafka/libs.sha256")
MINIO_HOME=$CACHE/minio-$MINIO_VERSION
VERSITYGW_HOME=$CACHE/versitygw-$VERSITYGW_VERSION
CONNECT_HOME=$CACHE/connect-$KAFKA_VERSION-$(checksum "$SCRIPTS/connect/libs.sha256" "$SCRIPTS/versions.env")
REGISTRY_HOME=$CACHE/apicurio-registry-$APICURIO_VERSION
SPARK_HOME=$CACHE/spark-$SPARK_VERSION-$(checksum "$SCRIPTS/spark/libs.sha256" "$SCRIPTS/spark/requirements.txt")
FLINK_HOME=$CACHE/flink-$FLINK_VERSION-$(checksum "$SCRIPTS/flink/libs.sha256" "$SCRIPTS/flink/requirements.txt")
SUPERSET_HOME=$CACHE/superset-$(checksum "$SCRIPTS/superset/requirements.txt")
JDBC_HOME=$CACHE/jdbc-$FLIGHT_JDBC_VERSION-$FLIGHT_JDBC_BEFORE_VERSION-$PGJDBC_OLD_VERSION
HARLEQUIN_HOME=$CACHE/harlequin-$(checksum "$SCRIPTS/harlequin/requirements.txt")
DBT_HOME=$CACHE/dbt-$(checksum "$SCRIPTS/dbt/requirements.txt")
PYTHON_HOME=$CACHE/python-$(checksum "$SCRIPTS/requirements.txt")
NODE_HOME=$CACHE/node-$(checksum "$SCRIPTS/node/package-lock.json")

say() { printf '%s\n' "$*" >&2; }
die() { say "millpond: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# Where Debian keeps PostgreSQL's server programs, which are on nobody's path.
postgres_bin() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1; }
