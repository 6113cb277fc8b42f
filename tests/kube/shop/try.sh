#!/usr/bin/env bash
# try.sh [STEP...]: what the mesh does for the shop, with what came of it counted: canary,
# deny, limit, ejection, neighbours; all of them where none is named. Each takes away what
# it applied. Fails where a count is not what it should be.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
SHOP=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

s() { k -n shop "$@"; }
applied=
apply() {
	echo "\$ kubectl apply -f tests/kube/shop/$1.yaml"
	applied=$1
	s apply -f "$SHOP/$1.yaml" >/dev/null
}
# Also after a failure.
undo() {
	[ -z "$applied" ] || s delete -f "$SHOP/$applied.yaml" --wait=false >/dev/null
	applied=
}
trap undo EXIT

# ask COUNT URL: the answers to so many requests of web, one a line: the body's last line,
# or the status alone.
ask() {
	# shellcheck disable=SC2016
	s exec deployment/web -- sh -c 'for _ in $(seq "$0"); do wget -qO- "$1" 2>&1 | tail -n 1; done' "$@" |
		sed -E 's,.*HTTP/1\.[01] ([0-9]{3}).*,\1,; s,^api-v2-.* has ,version 2: ,; s,^api-.* has ,version 1: ,'
}
# pods COUNT URL: which pods answered them.
pods() {
	# shellcheck disable=SC2016
	s exec deployment/web -- sh -c 'for _ in $(seq "$0"); do wget -qO- "$1" 2>/dev/null; done' "$@" | cut -d' ' -f1 | sort -u
}
# count TEXT ANSWERS: how many of the answers begin so.
count() { grep -c "^$1" <<<"$2" || true; }
show() { sort <<<"$1" | uniq -c; }
# check WHAT CONDITION...
check() {
	local what=$1
	shift
	[ "$@" ] || die "$what: not so: $*"
	echo "  ok: $what"
}
answers() { ask "$2" "$3" | grep -q "^$1"; }

canary() {
	local said two
	apply canary
	wait_for 30 "the route is in force" answers "version 2" 20 http://api/cgi-bin/page
	said=$(ask 100 http://api/cgi-bin/page)
	show "$said"
	two=$(count "version 2" "$said")
	check "each is answered" $((two + $(count "version 1" "$said"))) = 100
	check "about 20 of 100 by version 2" "$two" -ge 5 -a "$two" -le 40
	undo
}

deny() {
	local said
	echo "before:"
	show "$(ask 10 http://api/admin/users)"
	apply deny-path
	wait_for 10 "the policy is in force" answers 403 1 http://api/admin/users
	said=$(ask 10 http://api/admin/users; ask 10 http://api/x/../%61dmin; ask 10 http://api/cgi-bin/page)
	show "$said"
	check "/admin is denied, in both spellings" "$(count 403 "$said")" = 20
	check "the rest is not" "$(count "version 1" "$said")" = 10
	undo
}

limit() {
	local said since took good
	apply rate-limit
	wait_for 10 "the limit is in force" answers 429 30 http://books/
	since=$SECONDS
	said=$(ask 100 http://books/)
	took=$((SECONDS - since + 1))
	show "$said"
	good=$(count "three books" "$said")
	check "the rest is 429" $((good + $(count 429 "$said"))) = 100
	check "in $took s at most 10 and 5 a second" "$good" -ge 1 -a "$good" -le $((10 + 5 * took))
	said=$(ask 5 http://api/cgi-bin/page)
	show "$said"
	check "api asks books too, and has a share of its own" "$(count "version 1: three books" "$said")" = 5
	undo
}

# The agent of web's node.
agent() {
	local node
	node=$(s get pods -l app=web -o 'jsonpath={.items[0].spec.nodeName}')
	k -n mesh-system get pods -l app.kubernetes.io/name=mesh-agent --field-selector "spec.nodeName=$node" -o name | head -n 1
}
repair() {
	local pod
	for pod in $(s get pods -l app=api-v2 -o name); do s exec "$pod" -- rm -f /tmp/broken; done
}
all_three() { [ "$(pods 30 http://api-v2/cgi-bin/page | wc -l)" = 3 ]; }

ejection() {
	local broken said bad
	repair # what a step left that was interrupted
	wait_for 30 "all three of version 2 answer" all_three
	broken=$(s get pods -l app=api-v2 -o name | head -n 1)
	echo "\$ kubectl -n shop exec $broken -- touch /tmp/broken"
	s exec "$broken" -- touch /tmp/broken
	said=$(ask 200 http://api-v2/cgi-bin/page)
	show "$said"
	bad=$(count 500 "$said")
	check "one of three fails all the time, and is noticed" "$bad" -ge 1
	check "and 95 % are answered" "$(count "version 2" "$said")" -ge 190
	echo "\$ kubectl -n mesh-system exec $(agent) -- mesh-agent status endpoints"
	# Its exit code tells of the ejected one, too.
	said=$(k -n mesh-system exec "$(agent)" -- mesh-agent status endpoints 2>/dev/null || true)
	grep shop/api-v2: <<<"$said"
	check "it is ejected" "$(grep -c "${broken#pod/}.*ejected" <<<"$said")" = 1
	repair
	wait_for 60 "it comes back" all_three
	echo "  ok: repaired, it has come back"
}

# figure NAME JSON: a number of it, without its fraction.
figure() { sed -E "s/.*\"$1\":([0-9]+).*/\1/" <<<"$2"; }
neighbours() {
	local vip alone beside greedy
	apply neighbours
	s wait --for=condition=Ready pod/quiet pod/greedy pod/counter --timeout=60s >/dev/null
	vip=$(s get service counter -o 'jsonpath={.spec.clusterIP}')
	quiet() { s exec quiet -- /mesh-app load http "$vip:81" --millis 4000; }
	alone=$(quiet)
	s exec greedy -- /mesh-app load connections "$vip:80" --width 50 --millis 8000 >"$STATE/greedy" &
	sleep 1
	beside=$(quiet)
	wait $!
	greedy=$(cat "$STATE/greedy")
	echo "greedy: $(figure units "$greedy") connections in 8 s, 50 at a time"
	for said in "$alone" "$beside"; do
		echo "quiet: $(figure units "$said") requests in 4 s, p50 $(figure p50_us "$said") us, p99 $(figure p99_us "$said") us"
	done
	check "the greedy one gets something" "$(figure units "$greedy")" -ge 100
	check "the quiet one fails nothing" $(($(figure errors "$alone") + $(figure errors "$beside"))) = 0
	undo
}

for step in "${@:-}"; do
	case $step in
	'') set -- canary deny limit ejection neighbours ;;
	canary | deny | limit | ejection | neighbours) ;;
	*) die "no step $step" ;;
	esac
done
for step in "$@"; do
	echo "== $step"
	"$step"
done
