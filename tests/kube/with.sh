#!/usr/bin/env bash
# with.sh COMMAND...: starts a cluster, runs the command with its KUBECONFIG and
# kubectl at hand, and ends the cluster, also after a failure or Ctrl-C.
# CLUSTER_KEEP=1: takes one that runs, and leaves it running.
set -eu
. "$(dirname "$0")/lib.sh"

if [ "${CLUSTER_KEEP:-0}" != 1 ]; then
	# What an earlier one left that was not ended, as by a power failure.
	"$HERE/down.sh"
	trap '"$HERE/down.sh"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
fi
KUBECONFIG=$("$HERE/up.sh")
export KUBECONFIG CLUSTER_NAME=$NAME CLUSTER_STATE=$STATE CLUSTER_CACHE=$CACHE CLUSTER_API_PORT=$API_PORT CLUSTER_NODES=$NODES
"$@"
