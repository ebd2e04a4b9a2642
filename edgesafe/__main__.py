"""`python -m edgesafe`, which accelerate can start several times: accelerate launch -m edgesafe audit."""

from .cli import main

if __name__ == "__main__":
    main()
