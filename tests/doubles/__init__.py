"""Servers that speak a vendor's protocol on loopback, each in a process of its own. What they leave out answers 501."""
