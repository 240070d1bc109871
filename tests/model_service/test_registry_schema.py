"""A new registry has the schema that its migrations give, and one that has it is left alone."""

import sqlite3
import subprocess
import sys

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from model_service.registry.database import MIGRATIONS, migrate, newest_revision


def alembic(url=""):
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url)
    return config


def schema(path):
    """Every statement that made the file, and the revision that it says it has."""
    with sqlite3.connect(path) as connection:
        made = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    connection.close()
    return {(kind, name, of, " ".join((sql or "").split())) for kind, name, of, sql in made}, revision


def test_a_new_registry_has_what_all_migrations_make_of_an_empty_file(tmp_path):
    command.upgrade(alembic(f"sqlite:///{tmp_path / 'by_alembic.db'}"), "head")
    migrate(f"sqlite:///{tmp_path / 'new.db'}")
    assert schema(tmp_path / "new.db") == schema(tmp_path / "by_alembic.db")


def test_the_newest_revision_is_alembics_head():
    assert newest_revision() == ScriptDirectory.from_config(alembic()).get_current_head()


def test_a_registry_that_a_crash_left_half_made_is_made_whole(tmp_path):
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    migrate(url)
    whole = schema(tmp_path / "registry.db")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))
        connection.execute(sa.text("DROP TABLE device_consents"))
    engine.dispose()
    migrate(url)
    assert schema(tmp_path / "registry.db") == whole


def test_neither_a_new_registry_nor_one_of_the_newest_schema_loads_alembic(tmp_path):
    code = f"""
import sys
from model_service.registry.database import migrate
for _ in range(2):
    migrate("sqlite:///{tmp_path / "registry.db"}")
sys.exit("alembic" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
