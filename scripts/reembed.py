"""Embed stored chunks with the tuned model, or roll that back.

python scripts/reembed.py --model models/tuned --indexes DocsGPT/indexes --env DocsGPT/.env --dry-run
python scripts/reembed.py --model models/tuned --indexes DocsGPT/indexes --env DocsGPT/.env
python scripts/reembed.py --indexes DocsGPT/indexes --env DocsGPT/.env --rollback
"""

from docsgpt_embtune.cli.reembed import reembed

if __name__ == "__main__":
    reembed()
