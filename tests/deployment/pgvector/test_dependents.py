"""Views and whatever else depends on the vectors are named before anything is done."""

import re

import pytest

from docsgpt_embtune.deployment import reembed as steps
from docsgpt_embtune.deployment.environment_file import EnvironmentFile
from docsgpt_embtune.deployment.faiss_folder import WORK
from docsgpt_embtune.deployment.faiss_store import FaissStore
from docsgpt_embtune.errors import DeploymentError

from ..conftest import CHUNKS, same_vectors
from .tables import dump, execute, vectors

DEPENDENTS = {
    "view v": ("CREATE VIEW v AS SELECT id, {column} FROM {table}", "DROP VIEW v"),
    "materialized view m": ("CREATE MATERIALIZED VIEW m AS SELECT {column} FROM {table}", "DROP MATERIALIZED VIEW m"),
    "rule r on table {table}": (
        "CREATE RULE r AS ON UPDATE TO {table} WHERE old.{column} IS NULL DO INSTEAD NOTHING",
        "DROP RULE r ON {table}",
    ),
    "trigger t on table {table}": (
        "CREATE TRIGGER t BEFORE UPDATE OF {column} ON {table} FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "DROP TRIGGER t ON {table}",
    ),
    "column g of table {table}": (
        "ALTER TABLE {table} ADD COLUMN g int GENERATED ALWAYS AS (vector_dims({column})) STORED",
        "ALTER TABLE {table} DROP COLUMN g",
    ),
    "constraint c on table {table}": (
        "ALTER TABLE {table} ADD CONSTRAINT c CHECK (vector_dims({column}) < 99)",
        "ALTER TABLE {table} DROP CONSTRAINT c",
    ),
    "constraint u on table {table}": (
        "ALTER TABLE {table} ADD CONSTRAINT u UNIQUE (id, {column})",
        "ALTER TABLE {table} DROP CONSTRAINT u",
    ),
    "default value for column {column} of table {table}": (
        "ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT array_fill(1, array[32])::vector",
        "ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT",
    ),
    "policy p on table {table}": (
        "CREATE POLICY p ON {table} USING ({column} IS NOT NULL)",
        "DROP POLICY p ON {table}",
    ),
    "statistics object s": ("CREATE STATISTICS s ON id, {column} FROM {table}", "DROP STATISTICS s"),
    "function f()": (
        "CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count({column}) FROM {table}; END",
        "DROP FUNCTION f()",
    ),
    "publication of table {table} in publication b": (
        "CREATE PUBLICATION b FOR TABLE {table} (id, {column})",
        "DROP PUBLICATION b",
    ),
}


class _Dependent:
    """An object that depends on a column, and how it is made and dropped."""

    def __init__(self, uri, description, table="documents", column="embedding"):
        self._uri = uri
        make, drop = DEPENDENTS[description]
        names = {"table": table, "column": column}
        self._make, self._drop = make.format(**names), drop.format(**names)
        said = re.escape(description.format(**names))
        self.refusal = rf"\.{table}: {said} depends on the column '{column}', which is to give way; drop it, run the "

    def make(self):
        execute(self._uri, self._make)

    def drop(self):
        execute(self._uri, self._drop)


@pytest.fixture
def dependent(uri, request):
    return _Dependent(uri, request.param)


@pytest.fixture
def view(uri):
    return _Dependent(uri, "view v")


@pytest.mark.parametrize("dependent", DEPENDENTS, indirect=True)
def test_what_depends_on_the_vectors_is_named_before_anything_is_embedded_taken_back_or_deleted(
    uri, stores, tuned, dependent, monkeypatch
):
    store = stores[0]
    dependent.make()
    before = dump(uri)
    with monkeypatch.context() as patch:
        patch.setattr(type(tuned), "embed_many", lambda *_: pytest.fail("embedded"))
        for step in (steps.plan, steps.reembed):
            with pytest.raises(DeploymentError, match=dependent.refusal):
                step([store], tuned)
    assert dump(uri) == before
    dependent.drop()
    steps.reembed([store], tuned)
    dependent.make()
    with pytest.raises(DeploymentError, match=dependent.refusal):
        steps.roll_back([store])
    assert store.is_on(tuned)
    store.forget()  # which has nothing to do with the new column
    assert store.kept() == ""
    dependent.drop()


def test_table_that_cannot_be_switched_is_named_before_another_one_is_embedded(uri, stores, tuned):
    execute(uri, "CREATE VIEW v AS SELECT name_embedding FROM graph_nodes; CREATE VIEW w AS SELECT * FROM graph_nodes")
    before = dump(uri)
    with pytest.raises(DeploymentError, match=r"view v \(the first of 2\) depends on the column 'name_embedding'"):
        steps.reembed(stores, tuned)
    assert dump(uri) == before


def test_view_is_named_before_an_index_folder_beside_the_database_is_embedded_or_its_old_vectors_are_deleted(
    uri, stores, tuned, view, index_folder
):
    stores = [FaissStore(index_folder), *stores]
    view.make()
    with pytest.raises(DeploymentError, match=view.refusal):
        steps.reembed(stores, tuned)
    assert not (index_folder / WORK).exists()
    view.drop()
    steps.reembed(stores, tuned)
    view = _Dependent(uri, "view v", "documents", "embedding_embtune_previous")
    view.make()
    with pytest.raises(DeploymentError, match="view v depends on the column 'embedding_embtune_previous'"):
        steps.forget(stores)
    assert all(store.kept() for store in stores)


def test_view_that_is_made_before_the_swap_forbids_it_and_nothing_is_embedded_twice(uri, stores, stock, tuned, view):
    store = stores[0]
    store.build(tuned)
    view.make()
    with pytest.raises(DeploymentError, match=view.refusal):
        store.swap(tuned)
    assert same_vectors(vectors(uri), stock.embed(CHUNKS))
    view.drop()
    assert store.remaining(tuned) == []
    store.swap(tuned)


def test_rollback_that_a_view_forbids_leaves_env_as_it_is(uri, stores, tuned, view, tmp_path):
    environment = EnvironmentFile(tmp_path / ".env")
    environment.path.write_text("EMBEDDINGS_NAME=old\n")
    before = dump(uri)
    steps.reembed(stores, tuned, environment)
    view.make()
    with pytest.raises(DeploymentError, match=view.refusal):
        steps.roll_back(stores, environment)
    assert environment.get("EMBEDDINGS_NAME") == str(tuned.folder)
    view.drop()
    steps.roll_back(stores, environment)
    assert environment.get("EMBEDDINGS_NAME") == "old"
    assert dump(uri) == before


def test_view_of_the_old_vectors_is_named_before_they_are_deleted_and_goes_back_with_them(uri, stores, tuned, third):
    steps.reembed(stores, tuned)
    view = _Dependent(uri, "view v", "graph_nodes", "name_embedding_embtune_previous")
    view.refusal += "same command again, and make it anew over 'name_embedding' after that"
    view.make()
    for step in (lambda: steps.forget(stores), lambda: steps.reembed(stores, third)):
        with pytest.raises(DeploymentError, match=view.refusal):
            step()
    assert all(store.kept() for store in stores)
    steps.roll_back(stores)
    assert not any(store.kept() for store in stores)
