"""Real daemons for a test: a coordinator and node daemons brought up by `fathomctl local up`.

A Cluster is a context manager. Whatever happens inside it, every process it started is gone
afterwards: each carries a mark in its environment by which the harness finds it again. Nothing here
waits for a time to pass: it polls for a state until a deadline, and says what it saw last.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
MARK = "FATHOM_TEST_CLUSTER"
POLL_SECONDS = 0.1

# Exit codes of fathomctl.
OK, ERROR, USAGE, NOT_FOUND, REFUSED, UNREACHABLE, TIMED_OUT = 0, 1, 2, 3, 4, 5, 124


def program(path):
    """A built program such as "cli/fathomctl": a test's own copy, or that of the last build."""
    for root in (os.getcwd(), os.path.join(REPOSITORY, "bazel-bin")):
        if os.path.exists(os.path.join(root, path)):
            return os.path.join(root, path)
    raise FileNotFoundError(f"{path} is not built; run: bazel build //{path.replace('/', ':')}")


class CommandFailed(AssertionError):
    """A command ended otherwise than the test said it must."""


def wait_until(condition, seconds, what, describe=lambda: ""):
    """The first true value of condition(); an error that says `what` after that many seconds."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds} s: {what}\n{describe()}")
        pause.wait(POLL_SECONDS)


def ended(job):
    return job.get("state") in ("COMPLETED", "FAILED", "CANCELLED")


def write_text(path, kilobytes, seed=1):
    """English-like text with something to learn in it: words drawn by a seeded choice."""
    choose = random.Random(seed)
    words = ("the of and a to in is was he for it with as his on be at by had not are but from "
             "model expert router token stage rank node step loss weight gradient").split()
    with open(path, "w", encoding="utf-8") as stream:
        written = 0
        while written < kilobytes * 1024:
            line = " ".join(choose.choice(words) for _ in range(choose.randint(6, 14))) + ".\n"
            if choose.random() < 0.1:
                line += "\n"
            written += stream.write(line)


class Cluster:
    """A coordinator and `nodes` daemons of `ranks_per_node` devices, in a folder of their own."""

    def __init__(self, nodes=1, ranks_per_node=2, spares=0, environment=None):
        self.nodes = nodes
        self.ranks_per_node = ranks_per_node
        self.spares = spares
        # Under /tmp and short: socket paths have a limit of some hundred bytes.
        self.folder = tempfile.mkdtemp(prefix="fathom-", dir="/tmp")
        self.state = os.path.join(self.folder, "state")
        self._mark = uuid.uuid4().hex
        self.environment = dict(os.environ, **(environment or {}))
        self.environment[MARK] = self._mark
        self.environment["HOME"] = self.folder
        self.environment["FATHOM_STATE_DIR"] = self.state
        self.environment.pop("FATHOM_COORDINATOR", None)
        self._token_file = None
        # What the daemons are started under, such as a mount namespace.
        self.launcher = []

    @classmethod
    def unstarted(cls, **arguments):
        """One whose daemons the test brings up, or fails to, by itself."""
        cluster = cls(**arguments)
        cluster.up = lambda: None
        return cluster

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, _error, _trace):
        with contextlib.suppress(Exception):
            self.ctl("local", "down", expect=None, seconds=30)
        left = self.kill_marked()
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            if left and not self.launcher:  # `down` doesn't see into a namespace
                raise AssertionError(f"`local down` left processes behind: {left}")
        else:
            print(f"state kept in {self.folder}", flush=True)

    def up(self, *options):
        arguments = ["--nodes", str(self.nodes), "--ranks-per-node", str(self.ranks_per_node)]
        if self.spares:
            arguments += ["--spares", str(self.spares)]
        ports = ["--coordinator-port", "0", "--metrics-port", "0"]
        self.ctl("local", "up", *arguments, *ports, *options, seconds=60, launcher=self.launcher)

    # --- Commands ---

    def ctl(self, *arguments, expect=OK, seconds=60, folder=None, launcher=()):
        """Runs fathomctl; its result, if it ended with the code `expect` (None: any)."""
        command = [*launcher, program("cli/fathomctl"), *arguments]
        result = subprocess.run(
            command, env=self.environment, cwd=folder or self.folder, timeout=seconds,
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if expect is not None and result.returncode != expect:
            raise CommandFailed(
                f"{' '.join(command)}\nended with {result.returncode}, not {expect}\n"
                f"stdout: {result.stdout[-3000:]}\nstderr: {result.stderr[-3000:]}")
        return result

    def items(self, *arguments):
        """The items of a list command, such as items("get", "nodes")."""
        return json.loads(self.ctl(*arguments, "-o", "json").stdout)["items"]

    def job(self, name):
        """One job as `get jobs` shows it."""
        for item in reversed(self.items("get", "jobs")):
            if item["name"] == name:
                return item
        raise AssertionError(f"no job is called {name}")

    def coordinator(self):
        """What the coordinator's state folder says of it: address, metrics_address, pid."""
        with open(self.inside("coordinator/coordinator.json"), encoding="utf-8") as stream:
            return json.load(stream)

    def inside(self, path):
        """A path of the state folder as the coordinator sees it, in a mount namespace or not."""
        pid = next(pid for pid, command in self.marked().items() if "fathom-coordinator" in command)
        return f"/proc/{pid}/root{self.state}/{path}"

    # --- Jobs ---

    def token_file(self):
        """A token file of some 200 KB of text; the same bytes in every cluster."""
        if self._token_file is None:
            text = os.path.join(self.folder, "text.txt")
            self._token_file = os.path.join(self.folder, "text.tokens")
            write_text(text, 200)
            self.ctl("data", "prepare", text, "-o", self._token_file,
                     "--validation-fraction", "0.1")
        return self._token_file

    def job_file(self, name="toy", **changes):
        """A job file of the toy model; `changes` are JobSpec fields, merged into the defaults."""
        spec = {
            "model": {"preset": "toy"},
            "data": {"token_file": self.token_file(), "sequence_length": 32},
            "precision": "fp32",
            "parallelism": {"pipeline": 2},
            "training": {"steps": 6, "micro_batches": 4, "learning_rate": 3e-3},
        }
        for field, value in changes.items():
            if isinstance(value, dict):
                spec.setdefault(field, {}).update(value)
            else:
                spec[field] = value
        job = {"apiVersion": "fathom/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
        path = os.path.join(self.folder, f"{name}.yaml")
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(job, stream, indent=1)  # JSON is YAML
        return path

    def train(self, name="toy", seconds=120, **changes):
        """Submits a job, waits until it is complete, and returns it."""
        self.ctl("submit", "-f", self.job_file(name, **changes), "--wait", seconds=seconds)
        job = self.job(name)
        assert job["state"] == "COMPLETED", job
        return job

    def wait_for_job(self, name, condition, seconds, what):
        """Polls a job until condition(job); returns it."""
        seen = {}

        def holds():
            seen.update(self.job(name))
            return dict(seen) if condition(seen) else None

        return wait_until(holds, seconds, f"{name}: {what}", lambda: self.describe_state(seen))

    def describe(self, name):
        """One job with its recoveries and ranks, as `describe job` shows it."""
        return json.loads(self.ctl("describe", "job", name, "-o", "json").stdout)

    def recoveries(self, name):
        return self.describe(name)["recoveries"]

    def begin(self, name, step, **changes):
        """Submits a job and returns once it has done so many steps."""
        self.ctl("submit", "-f", self.job_file(name, **changes))
        return self.wait_for_job(name, lambda job: job["step"] >= step or ended(job), 120,
                                 f"has done {step} steps")

    def finish(self, name, seconds=180):
        """Waits for a job's end and returns it; an error if it isn't COMPLETED."""
        job = self.wait_for_job(name, ended, seconds, "ends")
        if job["state"] != "COMPLETED":
            raise AssertionError(self.describe_state(job))
        return job

    def describe_state(self, job):
        logs = self.ctl("logs", job.get("name", ""), expect=None).stdout[-2000:]
        events = self.ctl("get", "events", expect=None).stdout[-2000:]
        return f"job: {job}\nevents:\n{events}\nlogs:\n{logs}"

    # --- Processes ---

    def marked(self):
        """{pid: command line} of every process of this cluster: one that carries its mark, has its
        folder on its command line, or writes into it, as a rank without an environment does."""
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as stream:
                    command = stream.read().replace(b"\0", b" ").decode(errors="replace").strip()
                with open(f"/proc/{entry}/environ", "rb") as stream:
                    marked = f"{MARK}={self._mark}".encode() in stream.read().split(b"\0")
                output = os.readlink(f"/proc/{entry}/fd/2")
            except OSError:
                continue
            if command and (marked or self.state in command or output.startswith(self.state)):
                found[int(entry)] = command
        return found

    def kill_marked(self):
        """Kills what is left of the cluster; what that was."""
        left = self.marked()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.marked(), 10, "killed processes are gone")
        return left

    def node(self, name):
        return next(node for node in self.items("get", "nodes") if node["name"] == name)

    def busy_nodes(self):
        """Nodes that have ranks, by name."""
        return [node for node in self.items("get", "nodes") if node["ranks"]]

    def daemon_pid(self, name):
        """Process id of a node's daemon, or of the coordinator, by what runs."""
        found = [pid for pid, command in self.marked().items()
                 if (f"--node-name {name} " in command + " " and "fathom-worker" in command)
                 or (name == "coordinator" and "fathom-coordinator" in command)]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} processes are the daemon {name}: {found}")
        return found[0]

    def kill_daemon(self, name, number=signal.SIGKILL):
        """Kills a daemon and waits until it and, of a node, its ranks are gone."""
        pid = self.daemon_pid(name)
        os.kill(pid, number)
        wait_until(lambda: pid not in self.marked(), 10, f"{name} is dead")
        return pid

    def rank_pids(self):
        """Process ids of rank processes that have a job, by what runs rather than by what is
        reported: an idle one of a spare still writes to its device's own log."""
        found = []
        for pid, command in self.marked().items():
            with contextlib.suppress(OSError):
                if "fathom-rank" in command and "/idle-" not in os.readlink(f"/proc/{pid}/fd/2"):
                    found.append(pid)
        return found
