#!/bin/sh
# Writes .env for compose.yaml once: fresh passwords, and the group that may use the engine's socket.
set -eu
cd "$(dirname "$0")/.."
[ ! -e .env ] || { echo '.env is already there; nothing was changed'; exit 0; }
# A letter first: NATS reads a value that starts with digits as a number.
password() { printf p; head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
umask 077
cat >.env <<EOF
GOALWRIGHT_NATS_SERVICE_PASSWORD=$(password)
GOALWRIGHT_NATS_CLIENT_PASSWORD=$(password)
GOALWRIGHT_POSTGRES_PASSWORD=$(password)
DOCKER_GROUP=$(stat -c %g "${DOCKER_SOCKET:-/var/run/docker.sock}")
# The model, one of:
#OPENAI_API_KEY=
#OPENAI_BASE_URL=
# or, to rehearse without one:
#COMPOSE_PROFILES=rehearsal
#OPENAI_BASE_URL=http://rehearsal:8000/v1
#GOALWRIGHT_MODEL=rehearsal
EOF
echo 'wrote .env (readable by you alone)'
