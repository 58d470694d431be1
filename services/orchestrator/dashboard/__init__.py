"""The dashboard's page: HTML, CSS and ES modules as they are served, without a build step. See `routes.dashboard`."""
