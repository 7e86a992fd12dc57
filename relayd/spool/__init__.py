"""The spool: what relayd has promised to deliver, on disk.

Enter: receptions, departures and requeues, each with its record.  Leave: the same made durable in shared transactions,
deliveries that are due, body files, record segments for feeds to tail, and the audit.
"""

from relayd.spool.ledger import Audit
from relayd.spool.segments import Checkpoint
from relayd.spool.spool import Spool, SpoolError
from relayd.spool.store import NEVER, Departure, Reception, Requeue

__all__ = ["NEVER", "Audit", "Checkpoint", "Departure", "Reception", "Requeue", "Spool", "SpoolError"]
