"""The teacher's addresses, one file a protocol."""
