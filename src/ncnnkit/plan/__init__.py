"""Which precision each layer gets, so that the network is fastest on a device within a limit."""
