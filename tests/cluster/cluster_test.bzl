"""A test in Python over real daemons."""

def cluster_test(name, data = [], **kwargs):
    """Runs <name>.py with the harness and the programs at hand, and nothing beside it.

    Args:
      name: the test's name, and its file's without the suffix.
      data: further files it reads.
      **kwargs: as for sh_test.
    """
    native.sh_test(
        name = name,
        size = "large",
        srcs = [name + ".py"],
        data = data + [
            "harness.py",
            "//cli:fathomctl",
            "//coordinator/service:fathom-coordinator",
            "//worker/agent:fathom-worker",
            "//worker/engine:fathom-rank",
            "//worker/health:fathom-preflight",
        ],
        # It times things out and fills two cores by itself.
        tags = ["exclusive"],
        **kwargs
    )
