"""The student's addresses, one module for each protocol; all of them ask the desk."""
