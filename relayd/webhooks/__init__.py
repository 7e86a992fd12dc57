"""Webhooks: events posted to customers' own servers, in order, signed, again and again until they are taken.

Each webhook follows the history behind places of its own; there is no queue.  Floors within: signature, target,
standing < batch, shelf, post, lanes < report < sender.
"""

from relayd.webhooks.post import Settings
from relayd.webhooks.sender import Webhooks
from relayd.webhooks.signature import new_secret, shown
from relayd.webhooks.target import parse_url

__all__ = ["Settings", "Webhooks", "new_secret", "parse_url", "shown"]
