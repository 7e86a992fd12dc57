"""Teaches twistd the word ``relayd``.  Read by every twistd on this machine, so it imports nothing of ours."""

from twisted.application.service import ServiceMaker

relayd = ServiceMaker("relayd", "relayd.service", "Outbound mail relay", "relayd")
