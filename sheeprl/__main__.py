"""`python -m sheeprl`."""

from sheeprl.cli import main

if __name__ == "__main__":
    main()
