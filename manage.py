#!/usr/bin/env python3
"""Manage checkpoints."""

from xlab.commands.manage import main

if __name__ == "__main__":
    main()
