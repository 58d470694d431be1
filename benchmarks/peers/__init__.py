"""What the attribution benchmark measures, what it compares with, and how it takes time."""
