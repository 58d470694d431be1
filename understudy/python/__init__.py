"""What `import understudy` offers: the library and the services for scripts and notebooks, in one process."""
