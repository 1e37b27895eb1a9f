"""One file a provider; whatever lies here and holds a ``PROVIDER`` is one."""
