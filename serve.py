#!/usr/bin/env python3
"""Serve a trained model."""

from xlab.commands.serve import main

if __name__ == "__main__":
    main()
