#!/usr/bin/env python3
"""Write text with a trained model."""

from xlab.commands.infer import main

if __name__ == "__main__":
    main()
