"""One module a noun: files, jobs, models. A route reads the request, asks the stores, and renders the answer."""
