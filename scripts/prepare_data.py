"""Any source in, a checked and split dataset out.

python scripts/prepare_data.py support.csv
python scripts/prepare_data.py support.csv --fix --out data/support
"""

from docsgpt_embtune.cli.data import prepare

if __name__ == "__main__":
    prepare()
