"""Execution backends. Each is imported only when it is asked for; see :mod:`intarsia.backends.protocol`."""
