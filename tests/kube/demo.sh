#!/usr/bin/env bash
# demo.sh IMAGE...: the mesh and a small shop in the running cluster, and a shell with
# what there is to try. Without a terminal: shows it, and ends.
set -eu
. "$(dirname "$0")/lib.sh"

"$HERE/install.sh" "$@"
kubectl apply -f "$HERE/shop.yaml" >/dev/null
for name in books api web stranger; do
	kubectl -n shop rollout status "deployment/$name" --timeout=60s >&2
done
wait_for 30 "web has a page" sh -c "kubectl -n shop logs deployment/web | grep -q 'three books'"
wait_for 30 "the stranger is refused" sh -c "kubectl -n shop logs deployment/stranger | grep -q refused"
kubectl -n shop get pods -o wide
echo
kubectl -n mesh-system exec daemonset/mesh-agent -- mesh-agent connections --limit 5

cat <<'END'

A namespace `shop`: web asks api, api asks books; a stranger asks api, and is refused.
To try:

  kubectl -n shop logs deployment/web --tail=3
  kubectl -n shop logs deployment/stranger --tail=3
  kubectl -n mesh-system exec daemonset/mesh-agent -- mesh-agent status
  kubectl -n mesh-system exec daemonset/mesh-agent -- mesh-agent connections
  kubectl -n mesh-system exec daemonset/mesh-agent -- mesh-agent connections --state refused
  kubectl -n mesh-system exec daemonset/mesh-agent -- mesh-agent explain spiffe://cluster.local/ns/shop/sa/stranger service/shop/api 80
  kubectl -n shop delete authorizationpolicy api-is-for-web      # the stranger gets its page

END
if [ -t 0 ]; then
	echo "This is a shell with kubectl and its configuration; its end is the cluster's."
	PS1='(mesh) \w \$ ' bash --norc -i || true
fi
