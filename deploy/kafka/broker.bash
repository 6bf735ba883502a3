# shellcheck shell=bash
# A Kafka broker for deploy/local_cluster.sh, which reads this file: one node, its own controller.

KAFKA_PORT=${KAFKA_PORT:-9092}
KAFKA_CONTROLLER_PORT=${KAFKA_CONTROLLER_PORT:-9093}

kafka_fetch() {
  local jars=$CACHE/kafka/jars
  need_java
  if [[ -d $jars && $jars -nt $HERE/kafka/jars.sha256 ]]; then return; fi
  say 'fetching Kafka from Maven Central, once'
  fetch_from_maven "$HERE/kafka" "$CACHE/.fetching-kafka"
  rm -rf -- "$CACHE/kafka"
  mv -- "$CACHE/.fetching-kafka" "$CACHE/kafka"
}

kafka_configure() {
  mkdir -p -- "$STATE/kafka"
  cat >"$STATE/kafka/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$KAFKA_CONTROLLER_PORT
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$STATE/kafka/data
num.partitions=8
# Else a partition without a record would hold the time of all others back, see docs/clusters.md.
log.message.timestamp.type=LogAppendTime
# Kafka's own topics, as small as a single node needs them.
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
}

kafka_up() {
  local classes=$CACHE/kafka/jars/'*' settings=$STATE/kafka/server.properties
  if kafka_status >/dev/null 2>&1; then say 'Kafka is up already'; kafka_told; return; fi
  kafka_fetch
  kafka_configure
  if [[ ! -f $STATE/kafka/data/meta.properties ]]; then # the id is any 16 bytes, in base64
    java -cp "$classes" kafka.tools.StorageTool format --cluster-id catalog-labels-local-A \
      --config "$settings" >"$STATE/kafka/format.log" 2>&1 || die "see $STATE/kafka/format.log"
  fi
  start kafka java -Xms128m -Xmx384m -XX:+UseSerialGC -cp "$classes" kafka.Kafka "$settings"
  wait_for Kafka kafka_status >/dev/null
  kafka_told
}

kafka_told() { printf -- '127.0.0.1:%s\n' "$KAFKA_PORT"; }

kafka_down() { stop kafka; } # what it holds stays

kafka_status() {
  listens "$KAFKA_PORT" || { echo 'Kafka is down' >&2; return 1; }
  echo "Kafka listens on 127.0.0.1:$KAFKA_PORT"
}
