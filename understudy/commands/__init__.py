"""The command line's commands, one module each: read the options, call the library, print. `understudy.cli` joins them.

At its top a module imports what its help needs; what takes long to import comes when the command runs, so that `--help`
and the shell's completion answer at once.
"""
