"""`python -m unlearn_cli`, which `accelerate launch -m unlearn_cli` also uses."""

from unlearn_cli.cli import main

if __name__ == "__main__":
    main()
