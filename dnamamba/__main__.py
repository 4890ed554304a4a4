"""`python -m dnamamba` and `torchrun -m dnamamba`, also from a checkout not installed."""

from dnamamba.cli.main import main

if __name__ == "__main__":
    main()
