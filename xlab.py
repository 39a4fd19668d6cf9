#!/usr/bin/env python3
"""Train, validate, test, predict."""

from xlab.commands.train import main

if __name__ == "__main__":
    main()
