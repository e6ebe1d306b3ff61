"""SQLAlchemy's Core and ORM through its own SQLite dialect, and pandas, inside an object."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable_storage import DurableObject, DurableObjectState, History, Limits, Runtime
from durable_storage.integrations import dbapi

sa = pytest.importorskip("sqlalchemy")
pd = pytest.importorskip("pandas")

from sqlalchemy.orm import (  # noqa: E402
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
)
from sqlalchemy.pool import NullPool  # noqa: E402

pytestmark = pytest.mark.anyio


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    born: Mapped[datetime.date | None] = mapped_column(default=None)
    seen: Mapped[datetime.datetime | None] = mapped_column(default=None)
    photo: Mapped[bytes | None] = mapped_column(default=None)
    rating: Mapped[float | None] = mapped_column(default=None)
    active: Mapped[bool] = mapped_column(default=True)
    posts: Mapped[list[Post]] = relationship(
        back_populates="author", order_by="Post.id", cascade="all, delete-orphan"
    )


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("user.id"))
    author: Mapped[User] = relationship(back_populates="posts")


def engine_of(ctx: DurableObjectState, **options: Any) -> Any:
    return sa.create_engine("sqlite://", creator=lambda: dbapi.connect(ctx.storage), **options)


async def in_object(
    tmp_path: Path, callback: Callable[[DurableObjectState], Any], limits: Limits | None = None
) -> Any:
    async with DurableObjectState.open(
        tmp_path / "a.sqlite", history=History(enabled=False), limits=limits
    ) as ctx:
        return await ctx.run_event(callback, ctx)


@pytest.fixture(params=["default pool", "no pool"])
def pool(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {} if request.param == "default pool" else {"poolclass": NullPool}


async def test_a_model_makes_the_round_trip(tmp_path: Path, pool: dict[str, Any]) -> None:
    seen = datetime.datetime(2026, 1, 2, 3, 4, 5, 6)
    born = datetime.date(1815, 12, 10)

    def write(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx, **pool)
        Base.metadata.create_all(engine)
        Base.metadata.create_all(engine)
        with Session(engine) as session, session.begin():
            session.add(User(name="ada", born=born, seen=seen, photo=b"\x00\xff", rating=4.5))

    def read(ctx: DurableObjectState) -> None:
        with Session(engine_of(ctx, **pool)) as session:
            ada = session.scalars(sa.select(User).where(User.name == "ada")).one()
            assert (ada.id, ada.born, ada.seen, ada.photo) == (1, born, seen, b"\x00\xff")
            assert (ada.rating, ada.active) == (4.5, True)

    await in_object(tmp_path, write)
    await in_object(tmp_path, read)


async def test_relationships_are_loaded_changed_and_cascade(
    tmp_path: Path, pool: dict[str, Any]
) -> None:
    def event(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx, **pool)
        Base.metadata.create_all(engine)
        with Session(engine) as session, session.begin():
            session.add(User(name="ada", posts=[Post(title="one"), Post(title="two")]))
            session.add(User(name="bob", posts=[Post(title="three")]))
        with Session(engine) as session:
            ada = session.scalars(
                sa.select(User).options(sa.orm.selectinload(User.posts)).order_by(User.name)
            ).first()
            assert [post.title for post in ada.posts] == ["one", "two"]
            joined = session.execute(
                sa.select(User.name, sa.func.count(Post.id)).join(Post).group_by(User.name)
            ).all()
            assert joined == [("ada", 2), ("bob", 1)]
            ada.posts[0].title = "uno"
            ada.posts.pop()
            session.commit()
            assert session.scalars(sa.select(Post.title).order_by(Post.id)).all() == [
                "uno",
                "three",
            ]
            session.delete(ada)
            session.commit()
            assert session.scalars(sa.select(Post.title)).all() == ["three"]

    await in_object(tmp_path, event)


async def test_a_session_is_rolled_back(tmp_path: Path, pool: dict[str, Any]) -> None:
    def event(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx, **pool)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add(User(name="ada"))
            session.flush()
            session.rollback()
            session.add(User(name="bob"))
            session.commit()
        with pytest.raises(LookupError), Session(engine) as session, session.begin():  # noqa: PT012
            session.add(User(name="eve"))
            session.flush()
            raise LookupError
        with Session(engine) as session:
            assert session.scalars(sa.select(User.name)).all() == ["bob"]

    await in_object(tmp_path, event)


async def test_a_violated_constraint_is_an_integrity_error(
    tmp_path: Path, pool: dict[str, Any]
) -> None:
    def event(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx, **pool)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add(User(name="ada"))
            session.commit()
            session.add(User(name="ada"))
            with pytest.raises(sa.exc.IntegrityError, match="UNIQUE"):
                session.commit()
            session.rollback()
            session.add(Post(title="nobody's", author_id=99))
            with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
                session.commit()
            session.rollback()
            assert session.scalars(sa.select(User.name)).all() == ["ada"]

    await in_object(tmp_path, event)


async def test_a_nested_transaction_is_rolled_back_alone(
    tmp_path: Path, pool: dict[str, Any]
) -> None:
    def event(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx, **pool)
        Base.metadata.create_all(engine)
        with Session(engine) as session, session.begin():
            session.add(User(name="ada"))
            with pytest.raises(sa.exc.IntegrityError), session.begin_nested():  # noqa: PT012
                session.add(User(name="ada"))
                session.flush()
            with session.begin_nested():
                session.add(User(name="bob"))
        with Session(engine) as session:
            assert session.scalars(sa.select(User.name).order_by(User.id)).all() == ["ada", "bob"]

    await in_object(tmp_path, event)


async def test_tables_are_reflected(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx)
        Base.metadata.create_all(engine)
        ctx.storage.kv.put("hidden", 1)
        inspector = sa.inspect(engine)
        assert inspector.get_table_names() == ["post", "user"]
        assert inspector.has_table("user")
        assert not inspector.has_table("nothing")
        assert inspector.get_schema_names() == ["main"]
        assert [key["referred_table"] for key in inspector.get_foreign_keys("post")] == ["user"]
        assert inspector.get_pk_constraint("user")["constrained_columns"] == ["id"]
        reflected = sa.MetaData()
        reflected.reflect(engine)
        assert set(reflected.tables) == {"user", "post"}
        reflected.drop_all(engine)
        assert sa.inspect(engine).get_table_names() == []

    await in_object(tmp_path, event)


async def test_core_upserts_returns_and_inserts_many(tmp_path: Path) -> None:
    from sqlalchemy.dialects.sqlite import insert

    def event(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            found = connection.execute(
                sa.insert(User).returning(User.id),
                [{"name": f"user {n}", "active": True} for n in range(10)],
            )
            assert sorted(found.scalars()) == list(range(1, 11))
            upsert = insert(User).values(name="user 3", active=False)
            connection.execute(
                upsert.on_conflict_do_update(index_elements=["name"], set_={"active": False})
            )
            changed = connection.execute(sa.update(User).values(rating=Decimal("1.5")))
            assert changed.rowcount == 10
        with engine.connect() as connection:
            assert connection.scalar(sa.select(User.active).where(User.name == "user 3")) is False
            assert connection.scalar(sa.select(sa.func.sum(User.rating))) == 15
            assert connection.get_isolation_level() == "SERIALIZABLE"
            assert connection.default_isolation_level == "SERIALIZABLE"

    await in_object(tmp_path, event)


async def test_autocommit_is_supported_and_read_uncommitted_refused(tmp_path: Path) -> None:
    def event(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx)
        Base.metadata.create_all(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.insert(User).values(name="ada"))
            connection.rollback()
        with engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count(User.id))) == 1
        with engine.connect() as connection:
            with pytest.raises((sa.exc.DBAPIError, dbapi.NotSupportedError), match="one connec"):
                connection.execution_options(isolation_level="READ UNCOMMITTED")

    await in_object(tmp_path, event)


async def test_a_statement_of_many_rows_needs_more_parameters(tmp_path: Path) -> None:
    insert = sa.insert(User).returning(User.id)
    rows = [{"name": f"user {n}", "active": True} for n in range(100)]

    def too_many(ctx: DurableObjectState) -> None:
        engine = engine_of(ctx)
        Base.metadata.create_all(engine)
        with Session(engine) as session, pytest.raises(sa.exc.OperationalError) as caught:
            session.connection().execute(insert, rows)
        assert "Limits(parameters=" in caught.value.orig.__notes__[0]

    def one_each(ctx: DurableObjectState) -> None:
        with Session(engine_of(ctx)) as session, session.begin():
            session.add_all(User(name=f"another {n}") for n in range(100))

    def with_limits(ctx: DurableObjectState) -> int:
        with engine_of(ctx).begin() as connection:
            connection.execute(insert, rows)
            return connection.scalar(sa.select(sa.func.count(User.id)))

    await in_object(tmp_path, too_many)
    await in_object(tmp_path, one_each)
    assert await in_object(tmp_path, with_limits, Limits(parameters=32766)) == 200


async def test_an_object_keeps_an_engine(tmp_path: Path) -> None:
    class Blog(DurableObject):
        def __init__(self, ctx: DurableObjectState, env: Any) -> None:
            super().__init__(ctx, env)
            self.engine = engine_of(ctx, poolclass=NullPool)
            Base.metadata.create_all(self.engine)

        async def publish(self, name: str, title: str) -> int:
            with Session(self.engine) as session, session.begin():
                author = session.scalars(sa.select(User).where(User.name == name)).one_or_none()
                post = Post(title=title, author=author or User(name=name))
                session.add(post)
            with Session(self.engine) as session:
                return session.scalar(sa.select(sa.func.count(Post.id)))

    async with Runtime(tmp_path) as runtime:
        blog = runtime.namespace(Blog).get_by_name("a")
        async with anyio.create_task_group() as group:
            for n in range(5):
                group.start_soon(blog.publish, "ada", f"post {n}")
        await runtime.evict_all()
        assert await blog.publish("bob", "last") == 6


# -- pandas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["engine", "connection"])
async def test_pandas_reads_a_table(tmp_path: Path, through: str) -> None:
    def event(ctx: DurableObjectState) -> None:
        ctx.storage.sql.exec("CREATE TABLE city(name TEXT, people INTEGER, area REAL)")
        for row in [("Ghent", 265_000, 156.2), ("Bruges", 119_000, 138.4), ("Nowhere", None, None)]:
            ctx.storage.sql.exec("INSERT INTO city VALUES (?, ?, ?)", *row)
        source = engine_of(ctx) if through == "engine" else dbapi.connect(ctx.storage)
        frame = pd.read_sql("SELECT * FROM city ORDER BY name", source)
        assert list(frame.columns) == ["name", "people", "area"]
        assert frame["name"].tolist() == ["Bruges", "Ghent", "Nowhere"]
        assert frame["people"].sum() == 384_000
        some = pd.read_sql("SELECT name FROM city WHERE people > ?", source, params=(200_000,))
        assert some["name"].tolist() == ["Ghent"]
        assert pd.read_sql("SELECT name FROM city WHERE 0", source).empty
        chunks = list(pd.read_sql("SELECT * FROM city", source, chunksize=2))
        assert [len(chunk) for chunk in chunks] == [2, 1]

    await in_object(tmp_path, event)


@pytest.mark.parametrize("through", ["engine", "connection"])
async def test_pandas_writes_a_table(tmp_path: Path, through: str) -> None:
    def event(ctx: DurableObjectState) -> None:
        source = engine_of(ctx) if through == "engine" else dbapi.connect(ctx.storage)
        frame = pd.DataFrame(
            {"n": range(150), "when": pd.Timestamp("2026-01-01 10:00"), "text": "x"}
        )
        frame.to_sql("made", source, index=False)
        frame.to_sql("made", source, index=False, if_exists="append")
        assert ctx.storage.sql.exec("SELECT count(*) AS n FROM made").one() == {"n": 300}
        back = pd.read_sql("SELECT * FROM made LIMIT 3", source, parse_dates=["when"])
        assert back["when"].tolist() == [pd.Timestamp("2026-01-01 10:00")] * 3
        frame[:1].to_sql("made", source, index=False, if_exists="replace")
        assert ctx.storage.sql.exec("SELECT count(*) AS n FROM made").one() == {"n": 1}

    await in_object(tmp_path, event)
