"""The scripts' commands: they read options, call the package, and print."""
