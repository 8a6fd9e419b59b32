"""A cluster whose machines are network namespaces: each node's address is its own, all traffic goes
through a hub, and a link can be cut in one direction or both.

A test that wants one calls `enter()` first: the program is then run anew in namespaces of its own,
where it may make more, and which vanish with it. The host's network is never touched. What crosses
the links is gRPC under mutual TLS, as addresses other than loopback demand.
"""

import os
import subprocess
import sys
import uuid

from harness import Cluster, program, wait_until

INSIDE = "FATHOM_TEST_NAMESPACES"
# What is needed of the machine, in small.
PROBE = """mount -t tmpfs tmpfs /run && ip netns add probe &&
ip link add hub0 type veth peer name e0 netns probe && echo 1 >/proc/sys/net/ipv4/ip_forward"""


def enter():
    if INSIDE in os.environ:
        run("mount", "-t", "tmpfs", "tmpfs", "/run")  # where `ip netns` keeps its handles
        run("ip", "link", "set", "lo", "up")
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as stream:
            stream.write("1")
        return
    unshare = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    probe = subprocess.run([*unshare, "sh", "-c", PROBE], capture_output=True, text=True)
    if probe.returncode != 0:
        print(f"skipped: this machine grants no network namespaces: {probe.stderr.strip()}")
        sys.exit(0)
    os.environ[INSIDE] = "1"
    os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {result.stderr}")
    return result.stdout


class NamespaceCluster(Cluster):
    """A coordinator in the hub's namespace and daemons in one each: node-0, node-1, ..., spare-0.

    node-<i> is at 10.99.<i>.2, the hub at 10.99.<i>.1; spares are counted on."""

    COORDINATOR = "10.99.0.1"

    def up(self, *options):
        self._run = uuid.uuid4().hex[:6]
        self.processes = {}
        self._certificates()
        names = [f"node-{i}" for i in range(self.nodes)]
        names += [f"spare-{i}" for i in range(self.spares)]
        for index, name in enumerate(names):
            self._add_namespace(index, name)
        self.places = {name: index for index, name in enumerate(names)}
        self.start("coordinator")
        address = os.path.join(self.state, "coordinator", "coordinator.json")
        wait_until(lambda: os.path.exists(address), 30, "the coordinator listens")
        self.environment["FATHOM_COORDINATOR"] = f"{self.COORDINATOR}:7070"
        for name in names:
            self.start(name)
        wait_until(lambda: len([node for node in self.items("get", "nodes")
                                if node["state"] in ("READY", "SPARE")]) == len(names), 60,
                   "all nodes are there", lambda: self.ctl("get", "nodes", expect=None).stdout)

    def start(self, name):
        """Starts a daemon that isn't there (any more)."""
        tls = self._tls_flags()
        state = os.path.join(self.state, name)
        os.makedirs(state, exist_ok=True)
        if name == "coordinator":
            command = [program("coordinator/service/fathom-coordinator"),
                       *tls, "--listen-address", f"{self.COORDINATOR}:7070",
                       "--metrics-address", "127.0.0.1:0", "--state-directory", state]
        else:
            address = f"10.99.{self.places[name]}.2"
            command = ["ip", "netns", "exec", self._namespace(name),
                       program("worker/agent/fathom-worker"), *tls,
                       "--coordinator-address", f"{self.COORDINATOR}:7070", "--node-name", name,
                       "--address", address, "--metrics-address", "127.0.0.1:0",
                       "--state-directory", state, "--devices", str(self.ranks_per_node)]
            if name.startswith("spare"):
                command.append("--spare")
        log = open(os.path.join(state, "daemon.log"), "ab")
        self.processes[name] = subprocess.Popen(
            command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log)
        log.close()

    def ctl(self, *arguments, **options):
        folder = os.path.join(self.folder, "tls")
        return super().ctl(*arguments, "--tls-ca", f"{folder}/ca.pem", "--tls-certificate",
                           f"{folder}/peer.pem", "--tls-key", f"{folder}/peer.key", **options)

    def __exit__(self, kind, error, trace):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.launcher = ["true"]  # nothing that `local down` could find
        super().__exit__(kind, error, trace)
        for name in self.places:
            run("ip", "netns", "del", self._namespace(name))
            subprocess.run(["ip", "link", "del", self._link(name)], capture_output=True)

    # --- Links ---

    def cut(self, name):
        """Nothing gets to the node or from it any more; no connection is told."""
        run("ip", "link", "set", self._link(name), "down")

    def mend(self, name):
        run("ip", "link", "set", self._link(name), "up")

    def mute(self, name, to):
        """What `name` sends to the node `to` (or "coordinator") is lost; the other way is open."""
        run("ip", "-n", self._namespace(name), "route", "add", "blackhole", self._address(to))

    def unmute(self, name, to):
        run("ip", "-n", self._namespace(name), "route", "del", "blackhole", self._address(to))

    # --- How it is made ---

    def _address(self, name):
        return self.COORDINATOR if name == "coordinator" else f"10.99.{self.places[name]}.2"

    def _namespace(self, name):
        return f"{self._run}-{name}"

    def _link(self, name):
        return f"h{self._run}-{self.places[name]}"

    def _add_namespace(self, index, name):
        space, link = self._namespace(name), f"h{self._run}-{index}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "e0", "netns", space)
        run("ip", "addr", "add", f"10.99.{index}.1/24", "dev", link)
        run("ip", "link", "set", link, "up")
        run("ip", "-n", space, "addr", "add", f"10.99.{index}.2/24", "dev", "e0")
        run("ip", "-n", space, "link", "set", "e0", "up")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "route", "add", "default", "via", f"10.99.{index}.1")

    def _tls_flags(self):
        folder = os.path.join(self.folder, "tls")
        return ["--tls-certificate-file", f"{folder}/peer.pem", "--tls-key-file",
                f"{folder}/peer.key", "--tls-ca-file", f"{folder}/ca.pem"]

    def _certificates(self):
        folder = os.path.join(self.folder, "tls")
        os.makedirs(folder)

        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", "peer.key", "-out", "peer.csr", "-subj", "/CN=fathom")
        names = os.path.join(folder, "names")
        with open(names, "w", encoding="ascii") as stream:
            stream.write(f"subjectAltName=IP:{self.COORDINATOR}\n")
        openssl("x509", "-req", "-in", "peer.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-extfile", names, "-out", "peer.pem")
