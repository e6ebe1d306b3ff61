from __future__ import annotations

import asyncio
import io
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from durable_storage import MigrationError, ObjectResetError, Runtime
from durable_storage.testing import ManualClock, evict_durable_object, run_in_durable_object
from examples import (
    agent_memory,
    bank_transfer,
    batch_processing,
    cleanup,
    game,
    initialise_from_storage,
    memory_cache,
    rate_limiter,
    schema_migration,
    undo,
    unique_numbers,
)

FOLDER = Path(unique_numbers.__file__).parent


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
async def runtime(clock: ManualClock, tmp_path: Path) -> AsyncIterator[Runtime]:
    # Nothing is left alone for so long that it would be closed while a test moves the clock.
    async with Runtime(tmp_path / "data", clock=clock, idle_timeout=1e6) as runtime:
        yield runtime


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("unique_numbers", [], "invoices {n} to {m}"),
        ("initialise_from_storage", [], "visits so far, the last by grace"),
        ("memory_cache", [], "171 words added\nmost frequent: the (15)"),
        ("batch_processing", [], "sending 3 items: ada, grace, edsger"),
        ("rate_limiter", [], "call 11 has to wait"),
        ("bank_transfer", [], "refused: 1 from ada to nobody"),
        ("cleanup", ["0.5"], "user after that: None"),
        ("schema_migration", [], "Lovelace, Ada"),
        ("undo", [], "undone:   Dear Ada, thank you\n"),
        ("agent_memory", [], "the server is called rhea"),
        ("game", ["7"], "wins"),
    ],
)
def test_the_example_runs_with_one_command_and_again(
    name: str, arguments: list[str], said: str, tmp_path: Path
) -> None:
    for run in range(2):
        result = subprocess.run(
            [sys.executable, "-W", "error", FOLDER / f"{name}.py", tmp_path / "data", *arguments],
            input="note the server is called rhea\nask which server?\n",
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert said.format(n=run * 40 + 1, m=run * 40 + 40) in result.stdout


def test_every_example_is_tried_and_listed() -> None:
    tried = (FOLDER.parent / "tests" / "examples").glob("test_*.py")
    tests = "".join(path.read_text() for path in tried)
    listed = (FOLDER / "README.md").read_text()
    for path in FOLDER.glob("*.py"):
        if path.name != "__init__.py":
            assert path.stem in tests
            assert f"]({path.name})" in listed


@pytest.mark.anyio
async def test_numbers_are_unique_across_restarts(tmp_path: Path) -> None:
    numbers: list[int] = []
    for _ in range(2):
        async with Runtime(tmp_path) as runtime:
            shop = runtime.namespace(unique_numbers.InvoiceNumbers).get_by_name("2026")
            numbers += await asyncio.gather(*(shop.next() for _ in range(25)))
    assert sorted(numbers) == list(range(1, 51))


@pytest.mark.anyio
async def test_state_is_loaded_before_the_first_call(runtime: Runtime) -> None:
    page = runtime.namespace(initialise_from_storage.Visitors).get_by_name("/")
    await page.visit("ada")
    await evict_durable_object(page)
    assert await page.visit("grace") == ["ada", "grace"]


@pytest.mark.anyio
async def test_an_answer_is_computed_once_until_the_data_changes(runtime: Runtime) -> None:
    statistics = runtime.namespace(memory_cache.WordStatistics).get_by_name("a")
    await statistics.add("to be or not to be")
    for _ in range(3):
        assert await statistics.most_frequent(2) == {"be": 2, "to": 2}
    assert await run_in_durable_object(statistics, lambda it, _: it.computed) == 1
    await statistics.add("to")
    assert await statistics.most_frequent(1) == {"to": 3}


@pytest.mark.anyio
async def test_items_wait_for_five_seconds_and_are_sent_together(
    runtime: Runtime, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    batcher = runtime.namespace(batch_processing.Batcher).get_by_name("mail")
    await batcher.add("one")
    await clock.advance(seconds=3)
    await batcher.add("two")
    await clock.advance(seconds=1.9)
    assert await batcher.waiting() == 2
    await clock.advance(seconds=0.2)
    assert await batcher.batches() == [{"number": 1, "items": 2, "retries": 0}]
    assert "one, two" in capsys.readouterr().out


@pytest.mark.anyio
async def test_a_batch_that_fails_is_sent_again(
    runtime: Runtime, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    async def send(self: object, items: list[str]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionError

    monkeypatch.setattr(batch_processing.Batcher, "_send", send)
    batcher = runtime.namespace(batch_processing.Batcher).get_by_name("mail")
    await batcher.add("one")
    await clock.advance(seconds=5 + 2 * 1.25 + 4 * 1.25)
    assert await batcher.batches() == [{"number": 1, "items": 1, "retries": 2}]
    assert await batcher.waiting() == 0


@pytest.mark.anyio
async def test_an_item_that_comes_while_a_batch_is_sent_is_in_the_next(
    runtime: Runtime, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending, go_on = asyncio.Event(), asyncio.Event()
    batches: list[list[str]] = []

    async def send(self: object, items: list[str]) -> None:
        batches.append(items)
        sending.set()
        await go_on.wait()

    monkeypatch.setattr(batch_processing.Batcher, "_send", send)
    batcher = runtime.namespace(batch_processing.Batcher).get_by_name("mail")
    await batcher.add("one")
    async with asyncio.TaskGroup() as group:
        group.create_task(clock.advance(seconds=5))
        await sending.wait()
        await batcher.add("two")
        go_on.set()
    await clock.advance(seconds=5)
    assert batches == [["one"], ["two"]]
    assert await batcher.waiting() == 0


@pytest.mark.anyio
async def test_a_bucket_empties_refills_and_is_forgotten(
    runtime: Runtime, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter.time, "time", lambda: clock.now.timestamp())
    limiter = runtime.namespace(rate_limiter.RateLimiter).get_by_name("a")
    assert [await limiter.take() for _ in range(10)] == [0.0] * 10
    assert await limiter.take() == pytest.approx(0.5)
    await clock.advance(seconds=1)
    assert await limiter.take() == 0.0
    assert await limiter.take() == 0.0
    assert await limiter.take() > 0
    await clock.advance(seconds=5)
    assert await run_in_durable_object(limiter, lambda _, ctx: list(ctx.storage.kv.list())) == []


@pytest.mark.anyio
async def test_a_transfer_is_whole_or_nothing(runtime: Runtime) -> None:
    bank = runtime.namespace(bank_transfer.Bank).get_by_name("a")
    for name, cents in (("ada", 100), ("grace", 0), ("bank", 0)):
        await bank.open_account(name, cents)
    await bank.transfer("ada", "grace", 40)
    with pytest.raises(bank_transfer.RefusedError):
        await bank.transfer("ada", "grace", 61)
    with pytest.raises(bank_transfer.RefusedError):
        await bank.transfer_with_fee("ada", "grace", 60)
    with pytest.raises(bank_transfer.RefusedError):
        await bank.transfer("ada", "nobody", 1)
    assert await bank.balances() == {"ada": 60, "bank": 0, "grace": 40}
    assert await bank.transfer_with_fee("ada", "grace", 50) == 1
    assert await bank.balances() == {"ada": 9, "bank": 1, "grace": 90}


@pytest.mark.anyio
async def test_a_session_ends_half_an_hour_after_its_last_use(
    runtime: Runtime, clock: ManualClock
) -> None:
    session = runtime.namespace(cleanup.Session).get_by_name("a")
    await session.set("user", "ada")
    await clock.advance(timedelta(minutes=20))
    assert await session.get("user") == "ada"
    await clock.advance(timedelta(minutes=29))
    assert await session.get("user") == "ada"
    await clock.advance(timedelta(minutes=30))
    assert await session.get("user") is None
    assert await session.expires() is None


@pytest.mark.anyio
async def test_an_older_program_cannot_open_a_newer_object(tmp_path: Path) -> None:
    async with Runtime(tmp_path) as runtime:
        old = runtime.namespace(schema_migration.ContactsVersion1, name="Contacts")
        await old.get_by_name("a").add("Ada Lovelace")
    async with Runtime(tmp_path) as runtime:
        new = runtime.namespace(schema_migration.ContactsVersion2, name="Contacts")
        assert await new.get_by_name("a").applied() == 3
        assert await new.get_by_name("a").by_last_name() == [{"last": "Lovelace", "first": "Ada"}]
    async with Runtime(tmp_path) as runtime:
        old = runtime.namespace(schema_migration.ContactsVersion1, name="Contacts")
        with pytest.raises(ObjectResetError, match="step 4") as caught:
            await old.get_by_name("a").add("Grace Hopper")
    assert isinstance(caught.value.__cause__, MigrationError)


@pytest.mark.anyio
async def test_every_edit_can_be_undone_and_redone(runtime: Runtime) -> None:
    document = runtime.namespace(undo.Document).get_by_name("a")
    for text in ("one", "two", "three"):
        await document.edit(text)
    redo: list[str] = []
    for expected in ("two", "one", ""):
        before = await document.before()
        assert before is not None
        redo.append(await undo.go_to(document, before))
        assert await document.read() == expected
    assert await document.before() is None
    for expected in ("one", "two", "three"):
        await undo.go_to(document, redo.pop())
        assert await document.read() == expected


@pytest.mark.anyio
async def test_the_agent_recalls_the_message_that_answers(runtime: Runtime) -> None:
    conversation = runtime.namespace(agent_memory.Conversation).get_by_name("a")
    for line in (
        "note The build server is called rhea",
        "note Lunch is at noon",
        "note Our servers stand in the cellar",
    ):
        assert await agent_memory.talk(conversation, line) == "noted"
    answer = await agent_memory.talk(conversation, 'ask what is the "build" server called?')
    assert answer.startswith("The build server is called rhea")
    assert "Lunch" not in answer
    assert await conversation.recall("to be") == []


@pytest.mark.anyio
async def test_reminders_come_in_their_order_each_at_its_time(
    runtime: Runtime, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Now(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return clock.now

    monkeypatch.setattr(agent_memory, "datetime", Now)
    conversation = runtime.namespace(agent_memory.Conversation).get_by_name("a")
    await agent_memory.talk(conversation, "remind 60 tea")
    await agent_memory.talk(conversation, "remind 10 water")
    await clock.advance(seconds=11)
    assert [message.text for message in await conversation.recent()] == ["Reminder: water"]
    await clock.advance(seconds=50)
    assert await agent_memory.talk(conversation, "log") == (
        "assistant: Reminder: water\nassistant: Reminder: tea"
    )


@pytest.mark.anyio
async def test_a_match_follows_the_rules_and_everybody_sees_it(runtime: Runtime) -> None:
    runtime.env.matches = runtime.namespace(game.Match)
    lobby = runtime.namespace(game.Lobby).get_by_name("lobby")
    assert await lobby.join("ada") is None
    assert await lobby.join("ada") is None  # nobody plays against themselves
    number = await lobby.join("grace")
    assert number == "1"
    match = runtime.env.matches.get_by_name(number)
    watching = await match.watch()
    for player, cell, why in (("grace", 0, "turn"), ("ada", 9, "cannot"), ("eve", 0, "turn")):
        with pytest.raises(game.IllegalMoveError, match=why):
            await match.move(player, cell)
    for player, cell in (("ada", 0), ("grace", 3), ("ada", 1), ("grace", 4), ("ada", 2)):
        await match.move(player, cell)
    boards = [board async for board in watching]
    assert [board.cells for board in boards] == [
        "         ", "X        ", "X  O     ", "XX O     ", "XX OO    ", "XXXOO    ",
    ]  # fmt: skip
    assert boards[-1].winner == "ada"
    assert boards[-1].turn is None
    with pytest.raises(game.IllegalMoveError):
        await match.move("grace", 5)


@pytest.mark.anyio
async def test_two_moves_at_once_are_one_move(runtime: Runtime) -> None:
    match = runtime.namespace(game.Match).get_by_name("a")
    await match.begin("ada", "grace")
    results = await asyncio.gather(
        *(match.move("ada", cell) for cell in range(9)), return_exceptions=True
    )
    assert sum(isinstance(result, game.Board) for result in results) == 1
    assert (await match.board()).cells.count("X") == 1


@pytest.mark.anyio
async def test_players_that_choose_at_random_end_every_match(runtime: Runtime) -> None:
    matches = runtime.namespace(game.Match)
    for seed in range(5):
        match = matches.get_by_name(str(seed))
        dice = random.Random(seed)
        await match.begin("ada", "grace")
        await asyncio.gather(game.play(match, "ada", dice), game.play(match, "grace", dice))
        assert (await match.board()).turn is None


@pytest.mark.anyio
async def test_talking_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nnote\nremind soon tea\n"))
    await agent_memory.main(str(tmp_path))
    usage = "note TEXT, ask QUESTION, remind SECONDS TEXT, or log"
    assert capsys.readouterr().out.splitlines() == [usage] * 3
