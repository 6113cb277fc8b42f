#!/usr/bin/env bash
# What a mesh could leave on this node, a line for each thing: links, rules, routes,
# sysctls, qdiscs, programs at cgroups, links and namespaces, pins, CNI files, other files, mounts. Without what
# the container runtime's own plugins note of each pod, and keys that the kernel makes up at
# their first use.
# Run it in the node's namespaces (node.sh exec N); compare two runs.
set -u
export LC_ALL=C

# network NAME COMMAND...: of one network namespace.
network() {
	local name=$1
	shift
	"$@" ip -o link | sed -E 's/^[0-9]+: //; s/ (qlen|group|promiscuity) .*//; s/link-netns.*//' | sed "s/^/$name link /"
	for family in -4 -6; do
		"$@" ip "$family" rule | sed "s/^/$name rule $family /"
		"$@" ip -o "$family" route show table all | sed -E 's/ (expires|pref|hoplimit) .*//' | sed "s/^/$name route $family /"
	done
	"$@" sysctl -a 2>/dev/null | grep -E '^net\.ipv[46]\.' | grep -vE 'stable_secret|fastopen_key|flush|_max_orphans' | sed "s/^/$name sysctl /"
	"$@" tc qdisc show | sed "s/^/$name qdisc /"
	for link in $("$@" ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/\1/'); do
		for way in ingress egress; do
			"$@" tc filter show dev "$link" "$way" 2>/dev/null | sed "s/^/$name filter $link $way /"
		done
	done
}
network node
for file in /run/netns/*; do
	[ -e "$file" ] && network "${file##*/}" nsenter --net="$file"
done
python3 - <<'END'
import ctypes, os, platform, socket, struct
BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
kinds = {10: "connect4", 11: "connect6", 3: "sock_ops", 14: "sendmsg4", 15: "sendmsg6", 2: "sock_create"}
for root, dirs, _ in os.walk("/sys/fs/cgroup/unified"):
    fd = os.open(root, os.O_RDONLY)
    for kind, name in kinds.items():
        attributes = ctypes.create_string_buffer(struct.pack("IIIIQI", fd, kind, 0, 0, 0, 0), 64)
        if libc.syscall(BPF, 16, attributes, 64) == 0:
            count = struct.unpack_from("I", attributes, 24)[0]
            if count:
                print("cgroup", root, name, count)
    os.close(fd)

# What is attached to links and namespaces: tc shows none of it.
CLONE_NEWNET = 0x40000000
own = os.open("/proc/self/ns/net", os.O_RDONLY)
spaces = [("node", own)]
for name in sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else []:
    try:
        spaces.append((name, os.open("/run/netns/" + name, os.O_RDONLY)))
    except OSError:
        pass  # Its pod is just going.

def programs(target, kind):
    attributes = ctypes.create_string_buffer(struct.pack("IIIIQI", target, kind, 0, 0, 0, 0), 64)
    if libc.syscall(BPF, 16, attributes, 64) != 0:
        return 0
    return struct.unpack_from("I", attributes, 24)[0]

for name, fd in spaces:
    if libc.setns(fd, CLONE_NEWNET) != 0:
        continue
    count = programs(fd, 36)
    if count:
        print("namespace", name, "sk_lookup", count)
    for index, link in socket.if_nameindex():
        for kind, way in ((46, "ingress"), (47, "egress")):
            count = programs(index, kind)
            if count:
                print("link", name, link, way, count)
libc.setns(own, CLONE_NEWNET)
END
find /sys/fs/bpf -mindepth 1 | sed 's/^/pin /'
find /etc/cni /opt/cni -type f -exec sha256sum {} + | sed 's/^/cni /'
find /run /var/lib /etc /opt -maxdepth 2 -not -path '/run/netns/*' -not -path '/run/containerd/*' -not -path '/run/cni-ipam*' \
	-not -path '/var/lib/cni*' -not -path '/var/lib/kubelet/*' -not -path '/var/lib/containerd/*' | sed 's/^/file /'
awk '$5 !~ "^/(run/containerd|var/lib/kubelet|run/netns)/" { print "mount", $5 }' /proc/self/mountinfo
