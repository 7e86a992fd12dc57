"""Reception: the doors of the listeners that take mail to relay.

Enter: a session's questions and a message's content.  Leave: answers, by the directory, ``submission``, quotas, stop-
lists and balance; and messages in the spool: the 250 goes out when the transaction that holds message, deliveries and
record is on disk, not before.  Floors within: relay < screen < intake < door; and beside them
``returns``, the door for what comes back.
"""

from relayd.reception.door import Allowed, RelayDoor
from relayd.reception.relay import Relay
from relayd.reception.returns import Returned, ReturnsDoor
from relayd.reception.screen import Screen

__all__ = ["Allowed", "Relay", "RelayDoor", "Returned", "ReturnsDoor", "Screen"]
