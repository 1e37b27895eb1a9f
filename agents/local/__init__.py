"""Models in folders on this machine: what a folder holds, told from its small files and without torch."""
