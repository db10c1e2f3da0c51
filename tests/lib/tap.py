"""Reports of a suite's checks, as TAP."""

failures = 0


def check(name, good, detail=""):
    """Prints one check and, where it failed, the detail. Returns whether it is good."""
    global failures
    print(("ok - " if good else "not ok - ") + name, flush=True)
    if not good:
        failures += 1
        for line in str(detail).splitlines():
            print("# " + line, flush=True)
    return good


def status():
    """The exit status of the suite."""
    return 1 if failures else 0
