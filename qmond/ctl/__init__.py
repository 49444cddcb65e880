"""`qmonctl`: the command-line client of the daemon. It uses only the daemon's socket."""

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run qmonctl; returns the exit status. The default arguments are those of the command line.

    From here on, Ctrl-C ends the process, and no exception can be seen: modules in C that are
    interrupted while they are imported may even crash. For verbs that must clean up, see
    `interrupts`. All imports are in here, because Ctrl-C must leave no trace during them either.
    """
    try:
        if arguments is None:
            from qmond.ctl.interrupts import end_on_ctrl_c  # noqa: PLC0415

            end_on_ctrl_c()
        from qmond.ctl.edge import run  # noqa: PLC0415

        return run(arguments)
    except KeyboardInterrupt:
        return 130  # as a shell reports SIGINT
