"""Python reads this at every start while the tests run (it is on their PYTHONPATH): no program of theirs reaches out.

Whoever tries gets an error, and is noted in a file, so that the test fails even where the error was swallowed.
"""

import ipaddress
import os
import sys

NOTES = "STUDIO_TESTS_TRIED"


def _is_here(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost") or " " in str(name):  # which is no name that anybody could be asked for
        return True
    try:
        return ipaddress.ip_address(str(name).partition("%")[0]).is_loopback or str(name) in ("0.0.0.0", "::")
    except ValueError:
        return False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not _is_here(host):
        if NOTES in os.environ:
            with open(os.environ[NOTES], "a", encoding="utf-8") as notes:  # noqa: PTH123  pathlib would be a start's cost
                notes.write(f"{' '.join(sys.argv)}: {host}\n")
        raise PermissionError(f"No test reaches the network, and this one asked for {host}.")


sys.addaudithook(_watch)
