"""Whether the sources' addresses are on this machine.  One that is not is taken out of use, and put back when it is."""

import errno
import os
import socket

from twisted.logger import Logger

from relayd.egress.pools import Pools

log = Logger()


def missing(address: str) -> str:
    """ "" if sockets can be bound to the address, else why not."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            what = "is not on this machine" if error.errno == errno.EADDRNOTAVAIL else os.strerror(error.errno or 0)
            return f"address {address} {what}"
    return ""


def check_sources(pools: Pools) -> list[str]:
    """Looks at every source.  Gives the names of those that came back into use."""
    back = []
    for name, source in pools.sources.items():
        fault = next(filter(None, map(missing, source.addresses)), "")
        if fault and name not in pools.out_of_use:
            log.error(
                "Source {source} is out of use: {fault}. Add the address to the machine or correct [source.{source}]",
                source=name,
                fault=fault,
            )
        if fault:
            pools.out_of_use[name] = fault
        elif pools.out_of_use.pop(name, ""):
            log.info("Source {source} is back in use", source=name)
            back.append(name)
    return back
