"""Indexes over the vectors are copied, and one that the new model does not fit is named."""

import re

import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.deployed_model import DeployedModel, load_deployed_model
from docsgpt_embtune.errors import DeploymentError

from ...conftest import build_tiny_folder
from .tables import dump, execute, indexes_in_force

INDEX_BY_CAST = "CREATE INDEX by_cast ON documents USING hnsw ((embedding::real[]::vector(32)) vector_ip_ops)"


def test_every_re_embedding_copies_the_index_under_a_name_of_its_own(uri, stores, stock, tuned):
    before = indexes_in_force(uri)
    for model in [tuned, stock] * 5:
        steps.reembed(stores[:1], model)
        names = indexes_in_force(uri)
        assert list(names.values()) == list(before.values())
        assert all(re.fullmatch(r"documents_by_vector_embtune_[0-9a-f]{8}", name) for name in names)


def test_index_is_copied_with_its_condition_and_whatever_other_schemas_have(uri, stores, tuned):
    execute(
        uri,
        "CREATE INDEX partial ON documents USING hnsw (embedding vector_l2_ops) "
        "WHERE embedding IS NOT NULL AND source_id <> 'embedding';"
        "CREATE INDEX by_source ON documents USING btree (source_id) WHERE embedding IS NULL;"
        "DROP SCHEMA IF EXISTS other CASCADE; CREATE SCHEMA other;"
        "CREATE TABLE other.documents_by_vector_embtune (x int);",
    )
    execute(uri, INDEX_BY_CAST)
    before = indexes_in_force(uri)
    store = stores[0]
    store.build(tuned)
    store.build(tuned)  # as after a crash: what was copied is not copied again
    store.swap(tuned)
    assert list(indexes_in_force(uri).values()) == list(before.values())
    assert len(before) == 4


def test_the_name_of_an_index_is_no_sql(uri, stores, tuned):
    name = "by USING btree (id); DROP TABLE graph_nodes; --"
    execute(uri, f'ALTER INDEX documents_by_vector RENAME TO "{name}"')
    steps.reembed(stores, tuned)  # both tables
    assert all(made.startswith("by USING btree (id); DROP") for made in indexes_in_force(uri))


def test_index_in_which_the_old_width_is_written_is_named_before_anything_is_embedded(uri, stores, tmp_path):
    wide = load_deployed_model(str(build_tiny_folder(tmp_path, seed=2, hidden_size=48)))
    execute(uri, INDEX_BY_CAST)
    before = dump(uri)
    with pytest.raises(DeploymentError, match=r"index 'by_cast' .* vectors of 32 numbers, .* have 48; drop it"):
        steps.reembed(stores, wide)
    assert dump(uri) == before
    execute(uri, "DROP INDEX by_cast")
    assert steps.reembed(stores, wide) == stores


class _NeverAsked:
    dimension = 2001


@pytest.mark.parametrize("index", ["hnsw (embedding vector_cosine_ops)", "ivfflat (embedding)"])
def test_index_that_takes_no_vectors_as_wide_is_named_before_anything_is_embedded(uri, stores, index):
    execute(uri, f"DROP INDEX documents_by_vector; CREATE INDEX by_vector ON documents USING {index}")
    before = dump(uri)
    with pytest.raises(DeploymentError, match=r"index 'by_vector' .* at most 2,000 numbers, .* 2,001; drop it"):
        steps.reembed(stores[:1], DeployedModel("wide", "f" * 64, _NeverAsked()))
    assert dump(uri) == before
