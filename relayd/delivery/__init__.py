"""Delivery: performs what the scheduler decides.  Routes domains to sites, opens and keeps sessions, carries deliveries
over them, judges the outcomes and has the spool record them."""

from relayd.delivery.courier import Courier

__all__ = ["Courier"]
