#!/usr/bin/env bash
# Starts and stops a real cluster on this machine's loopback interface. See --help.
set -euo pipefail

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname -- "$HERE")
CACHE=${CATALOG_LABELS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catalog-labels}
STATE=${CLUSTER_STATE:-$CACHE/clusters}
JARS=$CACHE/jars
WORKERS=${WORKERS:-2}

BEAM_VERSION=2.77.0 # of Prism
FLINK_REST_PORT=${FLINK_REST_PORT:-8081}
FLINK_RPC_PORT=${FLINK_RPC_PORT:-6123}
SPARK_PORT=${SPARK_PORT:-7077}
SPARK_UI_PORT=${SPARK_UI_PORT:-8082}
PRISM_PORT=${PRISM_PORT:-8073}

usage() {
  cat <<'TEXT'
Usage:
  deploy/local_cluster.sh flink|spark|prism|kafka up      download what is missing, and start
  deploy/local_cluster.sh flink|spark|prism|kafka down    stop
  deploy/local_cluster.sh flink|spark|prism|kafka status  0 if it answers, and what it has; else 1
  deploy/local_cluster.sh flink|spark|prism|kafka fetch   download only
  deploy/local_cluster.sh flink|spark jar                 of that only Beam's job server, for an image

up prints the options with which pipeline.main labels on the cluster, of Kafka the address of the
broker. All downloads are pinned by version and checksum (in deploy/requirements, job_servers, prism and
kafka) and kept. All but Prism listen on 127.0.0.1 alone; Prism, whose program has no option for it, on
all interfaces: whoever reaches its port can start programs here.

Environment:
  WORKERS               Flink TaskManagers or Spark workers, one core each (default: 2)
  CATALOG_LABELS_CACHE  where downloads go (default: ~/.cache/catalog-labels)
  CLUSTER_STATE         where logs and process ids go (default: clusters, there)
  FLINK_REST_PORT (8081), FLINK_RPC_PORT (6123), SPARK_PORT (7077), SPARK_UI_PORT (8082),
  PRISM_PORT (8073), KAFKA_PORT (9092), KAFKA_CONTROLLER_PORT (9093)
TEXT
}

say() { printf 'local_cluster.sh: %s\n' "$*" >&2; }
die() { say "$1"; exit "${2:-1}"; }

need() { # COMMAND HINT
  command -v "$1" >/dev/null || die "$1 is missing: $2"
}

need_java() {
  need java 'install a JDK or JRE, 11 or 17 (Debian, Ubuntu: apt-get install openjdk-17-jre-headless)'
}

python() {
  if [[ -x $ROOT/.venv/bin/python ]]; then
    "$ROOT/.venv/bin/python" "$@"
  else
    "${PYTHON:-python3}" "$@"
  fi
}

fetch_from_pypi() { # NAME [PIP OPTIONS...]: what deploy/requirements/NAME.txt pins
  local name=$1 pins=$HERE/requirements/$1.txt folder
  shift
  folder=$CACHE/${name%-libraries}
  if cmp -s "$pins" "$folder/.fetched-$name"; then return; fi
  say "fetching $name from PyPI, once"
  mkdir -p -- "$folder"
  python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade \
    --target "$folder/$name" "$@" --requirement "$pins" >&2
  cp -rlf -- "$folder/$name/." "$folder/"
  rm -rf -- "${folder:?}/$name"
  cp -- "$pins" "$folder/.fetched-$name"
}

fetch_from_maven() { # FOLDER NEW: NEW/jars by Maven's own client, as FOLDER pins them
  local pins=$1 new=$2
  need mvn 'install Maven (Debian, Ubuntu: apt-get install maven)'
  rm -rf -- "$new"
  mkdir -p -- "$new"
  cp -- "$pins/pom.xml" "$new"
  (
    cd "$new"
    mvn --quiet --batch-mode -Dstyle.color=never \
      org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies -DoutputDirectory=jars
    (cd jars && sha256sum --check --quiet --strict "$pins/jars.sha256") ||
      die "Maven brought other jars than ${pins#"$ROOT/"}/jars.sha256 names"
  ) >&2 # stdout is for the options of pipeline.main alone
}

build_job_server() { # NAME KIND: Beam's job server in one jar
  local name=$1 jar=$JARS/$2-job-server.jar pom=$HERE/job_servers/$1 new=$CACHE/.building-$1
  if [[ -f $jar && $jar -nt $pom/pom.xml && $jar -nt $pom/jars.sha256 ]]; then return; fi
  say "building the job server for $name from Maven Central, once"
  fetch_from_maven "$pom" "$new"
  (cd "$new" && mvn --quiet --batch-mode -Dstyle.color=never package >&2)
  mkdir -p -- "$JARS"
  mv -- "$new/target/$name-job-server-1.jar" "$jar"
  rm -rf -- "$new"
}

get() { # URL: what answers there
  python - "$1" <<'PYTHON'
import sys
import urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=2).read().decode())
except OSError as error:
    sys.exit(f"nothing answers at {sys.argv[1]}: {error}")
PYTHON
}

answers() { get "$1" >/dev/null 2>&1; } # URL

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; } # PORT

has_workers() { # URL KEY: whether as many are there as were started
  get "$1" | python -c 'import json, sys; sys.exit(json.load(sys.stdin)[sys.argv[1]] < int(sys.argv[2]))' "$2" "$WORKERS"
}

wait_for() { # WHAT COMMAND...: until it succeeds, a minute at most
  local what=$1 second
  shift
  for ((second = 0; second < 60; second++)); do
    if "$@" 2>/dev/null; then return; fi
    sleep 1
  done
  die "$what does not answer after a minute; its logs are in $STATE"
}

start() { # NAME COMMAND...: in the background, its own session, with a log and a file of its id
  local name=$1
  shift
  mkdir -p -- "$STATE/log"
  setsid "$@" >"$STATE/log/$name.log" 2>&1 </dev/null &
  echo $! >"$STATE/$name.pid"
}

stop() { # NAME: with all that it started
  local pid_file=$STATE/$1.pid pid try
  [[ -f $pid_file ]] || return 0
  pid=$(<"$pid_file")
  kill -- "-$pid" 2>/dev/null || true
  for ((try = 0; try < 50; try++)); do
    kill -0 -- "-$pid" 2>/dev/null || break
    sleep 0.2
  done
  kill -9 -- "-$pid" 2>/dev/null || true
  rm -f -- "$pid_file"
}

stop_all() { # PREFIX of their names
  local file
  for file in "$STATE/$1"-*.pid; do
    [[ ! -f $file ]] || stop "$(basename -- "$file" .pid)"
  done
}

each_worker() { # COMMAND...: with the worker's number
  local number
  for ((number = 1; number <= WORKERS; number++)); do "$@" "$number"; done
}

# --- Flink: a JobManager and $WORKERS TaskManagers

flink_home() { printf '%s\n' "$CACHE/flink/pyflink"; }

flink_fetch() {
  need_java
  fetch_from_pypi flink --only-binary=:all: --python-version=3.11 --platform=manylinux2014_x86_64
  fetch_from_pypi flink-libraries
  flink_jar
  # Loaded once by the TaskManagers, not anew for each job: only so do SDK workers outlive a stage.
  # Flink's own loggers come first.
  ln -sf -- "$JARS/flink-1.19-job-server.jar" "$(flink_home)/lib/zz-beam-job-server.jar"
}

flink_jar() { build_job_server flink flink-1.19; }

flink_configure() {
  local home conf=$STATE/flink-conf
  home=$(flink_home)
  rm -rf -- "$conf"
  cp -r -- "$home/conf" "$conf"
  cat >"$conf/config.yaml" <<YAML
# What the distribution opens for Java 17.
env.java.opts.all: $(sed -n 's/^ *all: //p' "$home/conf/config.yaml")
jobmanager.bind-host: 127.0.0.1
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: $FLINK_RPC_PORT
jobmanager.memory.process.size: 1024m
taskmanager.bind-host: 127.0.0.1
taskmanager.host: 127.0.0.1
# Twice what is used: if one dies, the others have room for its work.
taskmanager.numberOfTaskSlots: 2
cluster.evenly-spread-out-slots: true
taskmanager.memory.process.size: 1536m
# Sorts take this; the rest is heap, on which streams keep their state.
taskmanager.memory.managed.size: 256m
taskmanager.memory.network.min: 192m
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: $FLINK_REST_PORT
classloader.resolve-order: parent-first
parallelism.default: $WORKERS
# A TaskManager that dies is noticed, and its work done again by the others.
heartbeat.interval: 2000
heartbeat.timeout: 20000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 5
restart-strategy.fixed-delay.delay: 2 s
io.tmp.dirs: $STATE/flink-tmp
# What streams keep: on the heap, and where every TaskManager finds it again.
state.backend.type: hashmap
state.checkpoints.dir: file://$STATE/flink-checkpoints
execution.buffer-timeout.interval: 10 ms
YAML
}

flink_up() {
  if answers "http://127.0.0.1:$FLINK_REST_PORT/overview"; then say 'Flink is up already'; flink_told; return; fi
  flink_fetch
  mkdir -p -- "$STATE/flink-tmp"
  flink_configure
  export FLINK_HOME FLINK_CONF_DIR=$STATE/flink-conf FLINK_LOG_DIR=$STATE/log
  FLINK_HOME=$(flink_home)
  start flink-jobmanager bash "$FLINK_HOME/bin/jobmanager.sh" start-foreground
  each_worker flink_worker
  wait_for Flink has_workers "http://127.0.0.1:$FLINK_REST_PORT/overview" taskmanagers
  flink_told
}

flink_worker() { start "flink-taskmanager-$1" bash "$FLINK_HOME/bin/taskmanager.sh" start-foreground; }

flink_told() { printf -- '--runner=FlinkRunner --flink_master=127.0.0.1:%s\n' "$FLINK_REST_PORT"; }

flink_down() { stop_all flink; }

flink_status() { get "http://127.0.0.1:$FLINK_REST_PORT/overview"; }

# --- Spark: a master and $WORKERS workers with a core each

spark_fetch() {
  need_java
  fetch_from_pypi spark
  spark_jar
}

spark_jar() { build_job_server spark spark-3; }

spark_up() {
  if answers "http://127.0.0.1:$SPARK_UI_PORT/json/"; then say 'Spark is up already'; spark_told; return; fi
  spark_fetch
  export SPARK_HOME=$CACHE/spark/pyspark SPARK_LOCAL_IP=127.0.0.1
  start spark-master bash "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.master.Master \
    --host 127.0.0.1 --port "$SPARK_PORT" --webui-port "$SPARK_UI_PORT"
  wait_for Spark answers "http://127.0.0.1:$SPARK_UI_PORT/json/"
  each_worker spark_worker
  wait_for Spark has_workers "http://127.0.0.1:$SPARK_UI_PORT/json/" aliveworkers
  spark_told
}

spark_worker() {
  start "spark-worker-$1" bash "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.worker.Worker \
    --host 127.0.0.1 --cores 1 --memory 1g --work-dir "$STATE/spark-work-$1" \
    "spark://127.0.0.1:$SPARK_PORT"
}

spark_told() { printf -- '--runner=SparkRunner --spark_master_url=spark://127.0.0.1:%s\n' "$SPARK_PORT"; }

spark_down() { stop_all spark; }

spark_status() { get "http://127.0.0.1:$SPARK_UI_PORT/json/"; }

# --- Prism: one process

prism_binary() { printf '%s\n' "$CACHE/prism/prism-$BEAM_VERSION"; }

prism_fetch() {
  local binary
  binary=$(prism_binary)
  [[ ! -x $binary ]] || return 0
  need go 'install Go 1.26 or later, see https://go.dev/doc/install'
  say 'building Prism from the Go module proxy, once'
  mkdir -p -- "$(dirname -- "$binary")"
  (cd "$HERE/prism" && go build -mod=readonly -o "$binary" github.com/apache/beam/sdks/v2/go/cmd/prism >&2)
}

prism_up() {
  prism_fetch
  if ! prism_status >/dev/null 2>&1; then
    start prism "$(prism_binary)" --job_port="$PRISM_PORT" --serve_http=false
    wait_for Prism prism_status >/dev/null
  fi
  printf -- '--runner=PrismRunner --prism_location=%s\n' "$(prism_binary)"
  printf -- '--runner=PortableRunner --job_endpoint=127.0.0.1:%s\n' "$PRISM_PORT"
}

prism_down() { stop prism; }

prism_status() {
  listens "$PRISM_PORT" || { echo 'Prism is down' >&2; return 1; }
  echo "Prism $BEAM_VERSION listens on 127.0.0.1:$PRISM_PORT"
}

# --- Kafka: a broker

# shellcheck source=/dev/null
source "$HERE/kafka/broker.bash"

case ${1:-}:${2:-} in
  flink:up | flink:down | flink:status | flink:fetch | spark:up | spark:down | spark:status | spark:fetch | \
    flink:jar | spark:jar | prism:up | prism:down | prism:status | prism:fetch | \
    kafka:up | kafka:down | kafka:status | kafka:fetch) "$1_$2" ;;
  --help: | -h:) usage ;;
  *) usage >&2; exit 2 ;;
esac
