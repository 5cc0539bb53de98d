from scripts.fuzz_readers import fuzz


def test_damaged_files_are_read_or_refused_and_nothing_else():
    outcomes, failures = fuzz(300, seed=7, prepare_every=100)
    assert not failures, failures[0]
    assert sum(count for outcome, count in outcomes.items() if outcome.endswith("refused")) > 100
