"""What holds towards a destination: from the tables [egress], [provider], [site] and [[route]] to one policy.

Enter: the configuration, a domain with its mail hosts.  Leave: the policy that routing and scheduler go by; for those
who ask, each limit with the table, file and line that it comes from.  A domain's own [site], else the [site] of its
preferred mail host, goes before its [provider], that before [egress], key by key; what they say of whole sources, pools
and accounts holds side by side.
"""

from typing import Any

import msgspec

from relayd.config import Config, Limited, NextHop, Routes
from relayd.delivery.routing import Policy
from relayd.shaping.limits import LIMITS, NONE, Layer, Limits, Terms, show_limits
from relayd.shaping.rules import Providers

SCOPES = ("source", "pool", "account")


class Destinations:
    """See the module.  ``policy`` gives one value for all domains for which the same tables hold."""

    def __init__(self, loaded: Config) -> None:
        self._config = loaded
        self._routes = Routes(loaded.route)
        self._providers = Providers({name: table.match for name, table in loaded.provider.items()})
        self._known: dict[tuple[str, str], Policy] = {}

    def policy(self, domain: str, hosts: tuple[str, ...]) -> Policy:
        """``hosts`` the preferred one first."""
        key = self._tables(domain, hosts)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._made(*key)
        return found

    def routed(self, name: str, hop: NextHop) -> Policy:
        """Of a static next hop; ``name`` is its table's."""
        general = self._made("", "")
        own = Limits(hop.connections, Limited(rate=hop.rate).of_path().rate)
        names = (name,) if own != NONE else ()
        terms = msgspec.structs.replace(general.terms, limits=own.over(general.terms.limits), names=names)
        return Policy(hop.tls, terms)

    def is_routed(self, domain: str) -> bool:
        """Whether its mail goes by a static route, and nothing is looked up."""
        return self._routes.find(domain) is not None

    def provider(self, hosts: tuple[str, ...]) -> str:
        """The provider that runs a domain with these mail hosts, "" for none that has a name."""
        return self._providers.of(hosts[0]) if hosts else ""

    def _tables(self, domain: str, hosts: tuple[str, ...]) -> tuple[str, str]:
        """The names of its [site] and its [provider]."""
        sites = self._config.site
        name = domain if domain in sites else hosts[0] if hosts and sites else ""
        while name and name not in sites:
            name = name.partition(".")[2]
        return name, self.provider(hosts)

    def _made(self, site: str, provider: str) -> Policy:
        egress, tables = self._config.egress, self._named(site, provider)
        limits = egress.of_path()
        for _, table in reversed(tables[:-1]):
            limits = table.of_path().over(limits)
        layers = tuple(
            Layer(name, table.source, table.pool, table.account)
            for name, table in reversed(tables)
            if any(getattr(table, scope) != NONE for scope in SCOPES)
        )
        tls = next(tls for _, table in tables if (tls := getattr(table, "tls", None)))
        names = tuple(filter(None, (provider, f"site {site}" if site else "")))
        return Policy(tls, Terms(limits, names, provider, layers))

    def _named(self, site: str, provider: str) -> list[tuple[str, Limited]]:
        """The tables that hold, the nearest first, by the names that operators know them by."""
        loaded = self._config
        found: list[tuple[str, Limited]] = [(f"[site.{site}]", loaded.site[site])] if site else []
        found += [(f"[provider.{provider}]", loaded.provider[provider])] if provider else []
        return [*found, ("[egress]", loaded.egress)]

    def explain(self, domain: str, hosts: tuple[str, ...]) -> list[dict[str, Any]]:
        """Every limit that holds: its scope, what it is, and where it was said."""
        tables = self._named(*self._tables(domain, hosts))
        rows = []
        for limit in LIMITS:
            said = next(((name, table) for name, table in tables if getattr(table, limit)), None)
            if said:
                name, table = said
                value = show_limits(table.of_path())[limit]
                rows.append(self._row("path", limit, value, name, limit))
        for name, table in tables:
            for scope in SCOPES:
                for limit, value in show_limits(getattr(table, scope)).items():
                    rows.append(self._row(scope, limit, value, name, f"{scope}.{limit}"))
        return rows

    def _row(self, scope: str, limit: str, value: Any, table: str, key: str) -> dict[str, Any]:
        where = self._config.origin(f"{table.strip('[]')}.{key}")
        return {"scope": scope, "limit": limit, "value": value, "table": table, "where": where}
