"`python -m lca_md`: the `lca-md` command."
from lca_md.cli import main

if __name__ == "__main__": main()
