"""relayd: the outbound mail relay behind a CRM.  The walk of a message is told in docs/flow.md."""

__version__ = "0.1.0"
