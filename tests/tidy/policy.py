"""What tidy holds the tree to, as tables. A rule that needs an opinion takes it from here."""

# --- Size (style.md 5 and 7) ---
MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 100
MAX_MAIN_LINES = 150

# --- Pure code: input and `now` in, output out (style.md 3 and 4) ---
PURE_PACKAGES = (
    "common/calibration",
    "common/cluster",
    "common/health",
    "common/model",
    "common/schedule",
    "common/plan",
    "coordinator/core",
    "coordinator/planner",
)
# Single pure files in packages that otherwise do I/O, by path without suffix.
PURE_FILES = (
    "worker/agent/agent_core",
    "worker/agent/desired_jobs",
    "worker/transport/channel_layout",
)
IMPURE_HEADERS = (
    r"thread", r"mutex", r"shared_mutex", r"condition_variable", r"future", r"semaphore", r"latch",
    r"fstream", r"filesystem", r"iostream", r"cstdio", r"stdio\.h", r"ctime", r"time\.h",
    r"unistd\.h", r"fcntl\.h", r"poll\.h", r"signal\.h", r"csignal", r"spawn\.h", r"sys/.*",
    r"netinet/.*", r"arpa/.*", r"netdb\.h", r"pthread\.h", r"dirent\.h",
    r"absl/synchronization/.*", r"absl/random/.*", r"grpc.*", r"httplib\.h", r"sqlite3\.h",
)

# --- Real time and randomness, and who may read them (style.md 4) ---
# Path without suffix -> why. An entry whose file reads neither is an error.
CLOCK_READERS = {
    "common/base/real_clock": "the real Clock that everything else is given",
    "worker/calibration/core_clock": "the time that cores spend on a thread, which calibrates them",
    "worker/transport/socket": "turns a deadline into poll's time-out, against the steady clock",
}
# Sleeping or waiting by the wall clock, and who may. Tests wait for a condition, never for a time.
SLEEPERS = {
}

# --- gRPC headers (style.md 2) ---
GRPC_STEMS = ("_service", "_client", "main")

# --- Arrows that must not exist: (what, from, to), Bazel target patterns ---
# A pattern is a package ("//a/b"), a package and all below it ("//a/b/..."), or one label.
# A pattern that matches nothing is an error, so that a renamed package cannot empty a rule.
FORBIDDEN_ARROWS = (
    ("pure code reaches gRPC", PURE_PACKAGES + (
        "//worker/agent:agent_core", "//worker/transport:channel_layout"), ("@system//:grpc",)),
    ("pure code reaches SQLite", PURE_PACKAGES, ("@system//:sqlite",)),
    ("the coordinator reaches CUDA", ("//coordinator/...",), ("//kernels/...",)),
    ("the coordinator reaches the worker", ("//coordinator/...",), ("//worker/...",)),
    ("the worker reaches the planner", ("//worker/...",), ("//coordinator/...",)),
    ("kernels reach common", ("//kernels/...",), ("//common/...", "//proto/...")),
    ("kernels reach the worker", ("//kernels/...",), ("//worker/...",)),
    ("the model reaches the transport", ("//worker/model/...",), ("//worker/transport/...",)),
    ("the model reaches the engine", ("//worker/model/...",), ("//worker/engine/...",)),
    ("the transport reaches the engine", ("//worker/transport/...",),
     ("//worker/engine/...", "//worker/model/...")),
    ("fathomctl reaches more of the coordinator than its planner", ("//cli/...",),
     ("//coordinator/core/...", "//coordinator/store/...", "//coordinator/service/...")),
    ("fathomctl reaches the worker", ("//cli/...",), ("//worker/...", "//kernels/...")),
    ("common reaches another layer", ("//common/...",),
     ("//coordinator/...", "//worker/...", "//cli/...", "//kernels/...")),
)

# --- Words that must not stand in a tracked file ---
# Each in two halves, so that this file does not name what it forbids.
MACHINE_PATHS = ("/wo" + "rk/", "/ro" + "ot/", "/tmp/" + "w/")
SWITCHED_OFF = (r"\bDISABLED_\w", r"\bGTEST_SKIP\b", r"[\"']flaky[\"']", r"\bflaky\s*=\s*(True|1)")

# Folders whose C++ and BUILD files are overlays of others' libraries.
OVERLAY_FOLDERS = ("third_party/",)

# Patterns of FORBIDDEN_ARROWS that may match nothing yet.
ABSENT_PACKAGES = ()
