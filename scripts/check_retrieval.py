"""Prove that a tuned model finds more than its baseline, on questions that it never saw.

python scripts/check_retrieval.py --baseline bundled --tuned models/tuned --data data/test.json
"""

from docsgpt_embtune.cli.check import check

if __name__ == "__main__":
    check()
