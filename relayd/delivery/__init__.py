"""Delivery: performs what the scheduler decides.  Routes domains to sites, opens and keeps sessions, carries deliveries
over them, judges the outcomes and has the spool record them.  And does to what is queued what operators want done."""

from relayd.delivery.courier import Courier
from relayd.delivery.jobs import Jobs

__all__ = ["Courier", "Jobs"]
