"""Where the server listens, and how a phone finds it: the address in words and as a QR code."""

import io
import ipaddress
import socket

import segno

from edgesafe.errors import EdgeSafeError

LOOPBACK, PORT = "127.0.0.1", 8765
ELSEWHERE = "192.0.2.1"  # TEST-NET-1: never reached; a datagram socket only looks up the way to it


def own(given: str | None = None) -> str:
    """This computer's address in the local network. Raises: EdgeSafeError"""
    if given is not None:
        try:
            return str(ipaddress.IPv4Address(given))
        except ValueError as error:
            raise EdgeSafeError(f"--address {given}: {error}. Give one of this computer's IPv4 addresses, such as 192.168.1.5") from error
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ELSEWHERE, 9))
            found = probe.getsockname()[0]
        except OSError as error:
            raise EdgeSafeError(f"--lan: this computer is in no network ({error}). Join one, or name its address with --address") from error
    if found == "0.0.0.0":
        raise EdgeSafeError("--lan: this computer's address in the network is not known. Name it with --address")
    return found


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket; without a port PORT, or any that is free. Raises: EdgeSafeError"""
    for number in (port,) if port is not None else (PORT, 0):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, number))
            made.listen(64)
            return made
        except OSError as error:
            made.close()
            if number in (port, 0):
                where = f"--port {port}" if port is not None else f"--address {host}"
                raise EdgeSafeError(f"{where}: cannot listen at {host}:{number} ({error.strerror}). Give another one") from error
    raise AssertionError("the loop returns or raises")


def qr(url: str) -> str:
    """For a terminal: two modules a character."""
    out = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out=out, border=2, compact=True)
    return out.getvalue().rstrip("\n")
