"""The command line of ``twistd relayd``: which configuration, and whether it is only to be checked.

In: arguments.  Out: the configuration; or what is wrong with it, on standard error, and exit code 1.
"""

import sys
from typing import ClassVar

from twisted.python import usage

from relayd import assembly, config


class Options(usage.Options):
    """See the module.  ``loaded``: the configuration."""

    synopsis = "[options]"
    longdesc = """Runs the relay that FILE describes.

    Examples:  twistd -n relayd --config /etc/relayd/relayd.toml
               twistd relayd --config /etc/relayd/relayd.toml --check
    """
    optParameters: ClassVar = [
        ["config", "c", "/etc/relayd/relayd.toml", "The configuration file; conf.d/*.toml beside it is read too"]
    ]
    optFlags: ClassVar = [["check", None, "Check the configuration, say what is wrong with it, and exit"]]

    def postOptions(self) -> None:
        try:
            self.loaded = config.load(self["config"])
        except config.ConfigError as error:
            print(error, file=sys.stderr)
            raise SystemExit(1) from None
        if self["check"]:
            faults = assembly.signing(self.loaded, prove=True).faults
            for domain, fault in faults.items():
                print(f"{self['config']}: dkim.{domain}: {fault}", file=sys.stderr)
            strangers = assembly.ssh_faults(self.loaded)
            for fault in strangers:
                print(f"{self['config']}: ssh.authorized_keys: {fault}", file=sys.stderr)
            if faults or strangers:
                raise SystemExit(1)
            print(f"{self['config']}: all is well")
            raise SystemExit(0)
