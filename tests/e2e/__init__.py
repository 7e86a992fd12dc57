"""End to end: the real ``twistd relayd`` process between real clients and scripted peers, all on the loopback."""
