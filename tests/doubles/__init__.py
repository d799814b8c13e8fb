"""Stand-ins for servers that can't be installed here. Each speaks its vendor's protocol on loopback, in a process of its own."""
