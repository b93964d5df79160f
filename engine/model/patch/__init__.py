"""Prove a part on this device, then put it in the stock part's place."""
