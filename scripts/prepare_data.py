"""Check a dataset of any format, fix it and split it.

python scripts/prepare_data.py support.csv
python scripts/prepare_data.py support.csv --fix --out data/support
"""

from docsgpt_embtune.cli.prepare import prepare

if __name__ == "__main__":
    prepare()
