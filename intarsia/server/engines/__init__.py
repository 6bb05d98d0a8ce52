"""Jobs on engines: the hosts that run them, and the way between store and host."""
