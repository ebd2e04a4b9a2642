"""The apps: each reads one exported artifact and draws with it, on a device that has no Python.

    web/        the web app and the browser benchmark: TypeScript, and what it was built into
    fixtures/   what Python gives, for the apps' tests: ids, noise, sampling steps
"""
