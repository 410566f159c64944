"""Opens UDP sockets: the one place in stoq that does, so that options, probes and errors are the same everywhere."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass, field

from stoq.errors import ConfigurationError
from stoq.io.datagram import Address
from stoq.io.transport import TransportError, normalize_address

# Linux values which Python's socket module does not name (linux/in.h, linux/in6.h, linux/udp.h, asm-generic/socket.h).
UDP_SEGMENT = 103
UDP_GRO = 104
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
PMTUDISC_PROBE = 3
IP_PKTINFO = 8
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
# The kernel keeps twice the value in a signed 32-bit number.
BUFFER_MAX = (1 << 30) - 1


@dataclass(slots=True)
class UdpSocket:
    """An open, bound, non-blocking UDP socket, and what it can do."""

    sock: socket.socket
    family: int
    """4 or 6; a dual-stack socket is 6."""
    wildcard: bool
    gso: bool = False
    gro: bool = False
    ecn: bool = False
    pktinfo: bool = False
    receive_buffer: int = 0
    send_buffer: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def option(self, feature: str, *options: tuple[int, int, int]) -> bool:
        """Set socket options (level, name, value); False with a reason when the kernel refuses one of them."""
        try:
            for level, name, value in options:
                self.sock.setsockopt(level, name, value)
        except OSError as error:
            self.reasons[feature] = f"the kernel refuses it: {os.strerror(error.errno or 0)}"
            return False
        return True

    def enable(self, feature: str, wanted: bool, *options: tuple[int, int, int]) -> bool:
        """As option(), unless the caller does not want the feature."""
        if not wanted:
            self.reasons[feature] = "turned off by an argument"
            return False
        return self.option(feature, *options)

    def buffer(self, feature: str, wanted: int, name: int, force: int) -> int:
        """Size a socket buffer; returns the bytes that the kernel grants for data and its bookkeeping."""
        if not 0 < wanted <= BUFFER_MAX:
            raise ConfigurationError(f"{feature} is 1 to {BUFFER_MAX} bytes, not {wanted}")
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, force, wanted)  # needs CAP_NET_ADMIN, passes the sysctl limit
        except OSError:
            self.sock.setsockopt(socket.SOL_SOCKET, name, wanted)
        granted = self.sock.getsockopt(socket.SOL_SOCKET, name) // 2  # the kernel reports twice what was asked
        if granted < wanted:
            sysctl = "net.core.rmem_max" if name == socket.SO_RCVBUF else "net.core.wmem_max"
            self.reasons[feature] = f"{granted} of {wanted} bytes granted: raise {sysctl}"
        return granted


def describe(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolved(address: Address) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """(family 4 or 6, the address as Python's sockets take it)."""
    host, port = normalize_address(address)
    if ":" not in host:
        return 4, (host, port)
    host, _, scope = host.partition("%")
    if host.startswith(("fe8", "fe9", "fea", "feb")) and not scope:
        raise ConfigurationError(f"{host} is link-local: say on which interface, as in {host}%eth0")
    return 6, (host, port, 0, int(scope or 0))


def has_ipv6() -> bool:
    """Whether this host can bind IPv6 sockets at all."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def open_udp_socket(
    host: str | None,
    port: int,
    *,
    remote: Address | None,
    reuse_port: bool,
    receive_buffer: int,
    send_buffer: int,
    gso: bool,
    gro: bool,
    ecn: bool,
    pktinfo: bool,
) -> UdpSocket:
    """See stoq.io.udp.open_udp. The caller owns the socket. ConfigurationError, TransportError."""
    reasons: dict[str, str] = {}
    if host is None or host == "":
        if remote is not None:
            host = "::" if resolved(remote)[0] == 6 else "0.0.0.0"
        elif has_ipv6():
            host = "::"
        else:
            host, reasons["ipv6"] = "0.0.0.0", "this host has no IPv6"
    family, address = resolved((host, port))
    where = describe((host, port))
    if remote is not None and resolved(remote)[0] != family:
        raise ConfigurationError(f"{where} cannot reach {describe(remote)}: one is IPv4, the other IPv6")
    try:
        sock = socket.socket(AF[family], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise TransportError(f"cannot open a UDP socket for {where}: {os.strerror(error.errno or 0)}") from None
    wildcard = host in ("::", "0.0.0.0")
    opened = UdpSocket(sock, family, wildcard, reasons=reasons)
    try:
        dual = host == "::" and opened.option("dual_stack", (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0))
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.receive_buffer = opened.buffer("receive_buffer", receive_buffer, socket.SO_RCVBUF, SO_RCVBUFFORCE)
        opened.send_buffer = opened.buffer("send_buffer", send_buffer, socket.SO_SNDBUF, SO_SNDBUFFORCE)
        set_features(opened, dual, gso=gso, gro=gro, ecn=ecn, pktinfo=pktinfo and remote is None)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise TransportError(f"cannot open UDP {where}: the port is in use") from None
        raise TransportError(f"cannot open UDP {where}: {os.strerror(error.errno or 0)}") from None
    except BaseException:
        sock.close()
        raise
    return opened


def set_features(opened: UdpSocket, dual: bool, *, gso: bool, gro: bool, ecn: bool, pktinfo: bool) -> None:
    """Probe and set each optional feature; IPv4's options are set too on a dual-stack socket."""
    v4 = opened.family == 4 or dual
    v6 = opened.family == 6
    ip, ip6, udp = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_UDP
    # A segment size of 0 changes nothing: it only asks whether the option exists (Linux 4.18).
    opened.gso = opened.enable("gso", gso, (udp, UDP_SEGMENT, 0))
    opened.gro = opened.enable("gro", gro, (udp, UDP_GRO, 1))
    # RFC 9000 §14: never fragmented. PROBE sets DF and ignores what the kernel believes about the path:
    # QUIC's own discovery decides (RFC 8899), and a forged ICMP message cannot shrink our packets.
    probe = [(ip, IP_MTU_DISCOVER, PMTUDISC_PROBE)] * v4 + [(ip6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)] * v6
    opened.option("dont_fragment", *probe)
    tos = [(ip, socket.IP_RECVTOS, 1)] * v4 + [(ip6, socket.IPV6_RECVTCLASS, 1)] * v6
    opened.ecn = opened.enable("ecn", ecn, *tos)
    if opened.wildcard and pktinfo:
        # One is enough on a dual-stack socket: IPv4's address arrives mapped.
        info = (ip6, socket.IPV6_RECVPKTINFO, 1) if v6 else (ip, IP_PKTINFO, 1)
        opened.pktinfo = opened.option("pktinfo", info)
    elif opened.wildcard:
        opened.reasons["pktinfo"] = "turned off by an argument, or the socket is connected"
    else:
        opened.reasons["pktinfo"] = "not needed: the socket is bound to one address"
