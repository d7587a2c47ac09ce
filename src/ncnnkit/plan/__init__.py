"""Chooses a precision for each layer, so that the network is as fast as possible on a device and accurate enough."""
