"""Multiplayer game: a lobby pairs players, and every match is an object that knows the rules.

    python examples/game.py [DIRECTORY]          two players that choose at random
    python examples/game.py [DIRECTORY] SEED     the same game again

The state of a match is in its storage, who watches it is in memory. A move is checked and made
without anything in between, so two players who move at the same time cannot both have the turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from durable_storage import DurableObject, DurableObjectState, Runtime

LINES = ("012", "345", "678", "036", "147", "258", "048", "246")
EMPTY = " " * 9


class IllegalMoveError(Exception):
    """The move is against the rules; nothing has changed."""


@dataclass(frozen=True)
class Board:
    """Tic-tac-toe: nine cells, and whose turn it is; nobody's when the match is over."""

    cells: str
    turn: str | None
    winner: str | None

    def __str__(self) -> str:
        return "\n".join("|".join(self.cells[row : row + 3]) for row in (0, 3, 6))


class Match(DurableObject):
    """One match. The moves are stored; the board follows from them."""

    def __init__(self, ctx: DurableObjectState, env: Any) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("""
            CREATE TABLE IF NOT EXISTS players(name TEXT PRIMARY KEY, mark TEXT UNIQUE);
            CREATE TABLE IF NOT EXISTS moves(number INTEGER PRIMARY KEY, cell INTEGER UNIQUE);
        """)
        self.watchers: set[asyncio.Queue[Board]] = set()

    async def begin(self, first: str, second: str) -> None:
        self.ctx.storage.sql.exec("INSERT INTO players VALUES (?, 'X'), (?, 'O')", first, second)

    async def board(self) -> Board:
        cells = list(EMPTY)
        for number, cell in self.ctx.storage.sql.exec("SELECT number, cell FROM moves").raw():
            cells[cell] = "XO"[(number - 1) % 2]
        names: dict[str, str] = dict(
            self.ctx.storage.sql.exec("SELECT mark, name FROM players").raw()
        )
        winner = None
        for line in LINES:
            a, b, c = (cells[int(cell)] for cell in line)
            if a == b == c != " ":
                winner = names[a]
        moves = sum(cell != " " for cell in cells)
        over = winner is not None or moves == len(cells)
        return Board("".join(cells), None if over else names["XO"[moves % 2]], winner)

    async def move(self, player: str, cell: int) -> Board:
        board = await self.board()
        if board.turn != player:
            raise IllegalMoveError(f"{player}, it is not your turn")
        if cell not in range(9) or board.cells[cell] != " ":
            raise IllegalMoveError(f"{player}, you cannot play {cell}")
        self.ctx.storage.sql.exec("INSERT INTO moves(cell) VALUES (?)", cell)
        board = await self.board()
        # The watchers are outside of the object: they must not hear of a move that is then lost.
        await self.ctx.storage.sync()
        for watcher in self.watchers:
            watcher.put_nowait(board)
        return board

    async def watch(self) -> AsyncIterator[Board]:
        """Every board from now on, until the match is over."""
        queue: asyncio.Queue[Board] = asyncio.Queue()
        self.watchers.add(queue)
        queue.put_nowait(await self.board())
        return self._boards(queue)

    async def _boards(self, queue: asyncio.Queue[Board]) -> AsyncIterator[Board]:
        try:
            while True:
                board = await queue.get()
                yield board
                if board.turn is None:
                    return
        finally:
            self.watchers.discard(queue)


class Lobby(DurableObject):
    """Pairs players in the order in which they come. ``env`` leads to the matches."""

    async def join(self, player: str) -> str | None:
        """The number of the match, or None: then the next player to join is the opponent."""
        waiting = await self.ctx.storage.get("waiting")
        if waiting is None or waiting == player:
            self.ctx.storage.put("waiting", player)
            return None
        number = await self.ctx.storage.get("matches", 0) + 1
        self.ctx.storage.put("matches", number)
        self.ctx.storage.delete("waiting")
        # A call to another object leaves only when what was written so far is on the disk.
        await self.env.matches.get_by_name(str(number)).begin(waiting, player)
        return str(number)


async def play(match: Match, player: str, dice: random.Random) -> None:
    """A client: it sees the boards, and moves when it is its turn."""
    async for board in await match.watch():
        if board.turn == player:
            cell = dice.choice([cell for cell in range(9) if board.cells[cell] == " "])
            with contextlib.suppress(IllegalMoveError):
                await match.move(player, cell)


async def main(directory: str = "./data", seed: str | None = None) -> None:
    dice = random.Random(seed)
    async with Runtime(directory) as runtime:
        runtime.env.matches = runtime.namespace(Match)
        lobby = runtime.namespace(Lobby).get_by_name("lobby")
        await lobby.join("ada")
        number = await lobby.join("grace")
        assert number is not None
        match = runtime.env.matches.get_by_name(number)
        await asyncio.gather(play(match, "ada", dice), play(match, "grace", dice))
        board = await match.board()
        print(f"match {number}\n{board}\n{board.winner or 'nobody'} wins")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
