"""Write the bundled sample's corpus and its three splits.

python scripts/sample.py --out runs/sample
"""

from docsgpt_embtune.cli.train import sample

if __name__ == "__main__":
    sample()
