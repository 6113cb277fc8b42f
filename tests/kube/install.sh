#!/usr/bin/env bash
# install.sh IMAGE...: brings these images to every node of the running cluster, and
# installs the mesh from deploy/ with them.
set -eu
. "$(dirname "$0")/lib.sh"

for ((i = 1; i <= NODES; i++)); do
	"$HERE/images.sh" "$i" "$@"
done
began=$SECONDS
k apply -k "$HERE/mesh" >/dev/null
k -n mesh-system rollout status deployment/mesh-agent-ca --timeout=120s >&2
k -n mesh-system rollout status daemonset/mesh-agent --timeout=120s >&2
log "the mesh is there after $((SECONDS - began)) s"
