"""Tune an embedding model on questions with good and bad chunks.

python scripts/train.py --train data/train.json --val data/validation.json --base bundled --out models/tuned --zip
"""

from docsgpt_embtune.cli.train import train

if __name__ == "__main__":
    train()
