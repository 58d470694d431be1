"""One module a phase: a plain function `(context, job, item, grip) -> result` that a test can call without a worker."""
