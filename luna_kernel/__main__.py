"""`python -m luna_kernel` is `luna`."""

from luna_kernel.cli.main import main

if __name__ == "__main__":
    main()
