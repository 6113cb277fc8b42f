#!/usr/bin/env bash
# demo.sh IMAGE...: the mesh and a small shop in the running cluster, and a shell with
# what there is to try. Without a terminal: tries all of it, and fails where what it
# counts is not as it should be.
set -eu
. "$(dirname "$0")/lib.sh"

"$HERE/install.sh" "$@"
gateway_api
kubectl apply -f "$HERE/shop/shop.yaml" -f "$HERE/shop/api-v2.yaml" >/dev/null
for name in books api api-v2 web stranger; do
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

By files of tests/kube/shop, each applied, counted, and taken away again:

  tests/kube/shop/try.sh canary       # of 100 requests 20 go to the next version
  tests/kube/shop/try.sh deny         # /admin is denied
  tests/kube/shop/try.sh limit        # each caller of books 5 requests a second
  tests/kube/shop/try.sh ejection     # one of three fails: left out, and back when repaired
  tests/kube/shop/try.sh neighbours   # a greedy pod beside a quiet one

END
if [ -t 0 ]; then
	echo "This is a shell with kubectl and its configuration; its end is the cluster's."
	PS1='(mesh) \w \$ ' bash --norc -i || true
else
	"$HERE/shop/try.sh"
fi
