"""Words of the language that the recorded cases here do not use, and how a run is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from . import report, scenarios, vectors

UNDEFINED = {"$undefined": True}
NOTHING = {"value": UNDEFINED}


def case(
    name: str, *steps_and_outcomes: tuple[dict[str, Any], Any], **fields: Any
) -> dict[str, Any]:
    expect = fields.pop("expect", {})
    return {
        "name": name,
        "suite": "own",
        "backend": "sqlite",
        **fields,
        "steps": [step for step, _ in steps_and_outcomes],
        "expect": {**expect, "steps": [outcome for _, outcome in steps_and_outcomes]},
    }


def put(key: str, value: Any) -> dict[str, Any]:
    return {"op": "put", "args": [key, value]}


def get(key: str) -> dict[str, Any]:
    return {"op": "get", "args": [key]}


ABC = [["a"], ["b"], ["c"]]
SELECT_ABC = "SELECT 'a' AS x UNION ALL SELECT 'b' UNION ALL SELECT 'c'"

CASES = [
    case(
        "a handler that throws keeps its writes and its instance",
        ({"op": "let", "name": "v", "value": {"n": 1}}, {"value": True}),
        (put("a", 1), NOTHING),
        (
            {"op": "throwFromHandler", "message": "boom"},
            {"eventError": {"name": "Error", "message": "boom"}},
        ),
        (get("a"), {"value": 1}),
        ({"op": "putVar", "name": "v", "key": "v"}, NOTHING),
        (get("v"), {"value": {"n": 1}}),
    ),
    case(
        "steps issued before the handler throws are kept",
        (
            {"op": "unawaited", "steps": [put("a", 1)], "then": "throw"},
            {"steps": [NOTHING], "eventError": {"name": "Error", "message": "handler failed"}},
        ),
        (get("a"), {"value": 1}),
    ),
    case(
        "a critical section that throws resets the object",
        (put("a", 1), NOTHING),
        ({"op": "sync"}, NOTHING),
        (
            {"op": "blockConcurrencyWhile", "steps": [put("a", 2)], "throw": "init"},
            {
                "steps": [NOTHING],
                "eventError": {"name": "Error", "message": "init", "durableObjectReset": True},
            },
        ),
        (get("a"), {"value": 1}),
    ),
    case(
        "every use of a cursor",
        (
            {
                "op": "sql.exec",
                "args": [SELECT_ABC],
                "as": "c",
                "use": ["iterNext", {"rawTake": 1}, "rawNext", "next", "toArray", "columnNames"],
            },
            {
                "value": [
                    {"value": {"done": False, "value": {"x": "a"}}},
                    {"value": [["b"]]},
                    {"value": {"done": False, "value": ["c"]}},
                    {"value": {"done": True}},
                    {"value": []},
                    {"value": ["x"]},
                ]
            },
        ),
        (
            {"op": "sql.exec", "args": [SELECT_ABC], "use": ["rawToArray"]},
            {"value": [{"value": ABC}]},
        ),
        (
            {"op": "sql.exec", "args": [SELECT_ABC], "use": [{"take": 2}, "iter", "iter"]},
            {
                "value": [
                    {"value": [{"x": "a"}, {"x": "b"}]},
                    {"value": [{"x": "c"}]},
                    {"value": []},
                ]
            },
        ),
    ),
    case(
        "values that only JavaScript has, and shared and cyclic ones",
        (put("regexp", {"$regexp": ["a+", "gi"]}), NOTHING),
        (put("error", {"$error": {"name": "TypeError", "message": "m"}}), NOTHING),
        (put("boxed", {"$boxed": 5}), NOTHING),
        (put("object", {"$obj": [["$bytes", 1]]}), NOTHING),
        (put("shared", {"$shared": {"a": 1}}), NOTHING),
        (put("cycle", {"a": [1, {"$cycle": 0}]}), NOTHING),
        ({"op": "restart"}, {"value": "ok"}),
        (get("regexp"), {"value": {"$regexp": ["a+", "gi"]}}),
        (get("error"), {"value": {"$error": {"name": "TypeError", "message": "m"}}}),
        (get("boxed"), {"value": {"$boxed": 5}}),
        (get("object"), {"value": {"$obj": [["$bytes", 1]]}}),
        (get("shared"), {"value": [{"a": 1}, {"a": 1}]}),
        (get("cycle"), {"value": {"a": [1, {"$cycle": 0}]}}),
    ),
    case(
        "an alarm that throws runs again",
        ({"op": "setAlarm", "args": [{"$now": 100}]}, NOTHING),
        ({"op": "waitAlarm", "count": 2, "timeoutMs": 4000}, {"value": 2}),
        ({"op": "getAlarm", "args": []}, {"value": None}),
        alarmSteps=[put("k", 1)],
        alarmThrows=1,
        expect={
            "alarms": [
                {"isRetry": False, "retryCount": 0, "steps": [NOTHING]},
                {"isRetry": True, "retryCount": 1, "steps": [NOTHING]},
            ]
        },
    ),
    case(
        "an event of several that fails",
        (
            {
                "op": "parallelEvents",
                "staggerMs": 1,
                "events": [
                    {"steps": [{"op": "throwFromHandler", "message": "one"}]},
                    {"steps": [put("a", 1)]},
                ],
            },
            {
                "value": "ok",
                "events": [
                    {
                        "delivered": False,
                        "error": {"name": "Error", "message": "one"},
                        "steps": [{"pending": True}],
                    },
                    {"delivered": True, "steps": [NOTHING]},
                ],
            },
        ),
    ),
    case(
        "probes and live values",
        ({"op": "hasMethod", "name": "transactionSync"}, {"value": "function"}),
        ({"op": "hasMethod", "name": "sql"}, {"value": "object"}),
        ({"op": "hasMethod", "name": "kv.put"}, {"value": "function"}),
        ({"op": "hasMethod", "name": "nothing"}, {"value": "undefined"}),
        ({"op": "bookmarkOrder"}, {"value": True}),
        ({"op": "kv.put", "args": ["u", UNDEFINED]}, NOTHING),
        ({"op": "kv.get", "args": ["u"]}, NOTHING),
        ({"op": "list", "args": [], "project": "keys"}, {"value": ["bookmarkOrder", "u"]}),
        ({"op": "getVar", "name": "g", "key": "u"}, NOTHING),
    ),
]


def kv_list(name: str, *use: Any) -> dict[str, Any]:
    return {"op": "kv.list", "args": [], "as": name, "use": list(use)}


def iterate(name: str, *use: Any) -> dict[str, Any]:
    return {"op": "iter", "name": name, "use": list(use)}


INVALIDATED = {
    "error": {
        "message": "kv.list() iterator was invalidated because a new call to kv.list() was started."
    }
}
INTERNAL = {"error": {"message": "internal error", "messageLoose": True, "internal": True}}

CASES += [
    case(
        "an invalidated iterator raises at every step",
        (put("a", 1), NOTHING),
        (put("b", 2), NOTHING),
        (kv_list("x", "next"), {"value": [{"value": {"done": False, "value": ["a", 1]}}]}),
        ({"op": "kv.list", "args": []}, {"value": [["a", 1], ["b", 2]]}),
        (iterate("x", "next", "next", "rest"), {"value": [INVALIDATED] * 3}),
    ),
    case(
        "an iterator whose table was rolled back may go on",
        (put("a", 1), NOTHING),
        (put("b", 2), NOTHING),
        (kv_list("x", "next"), {"value": [{"value": {"done": False, "value": ["a", 1]}}]}),
        (
            {"op": "transactionSync", "steps": [put("c", 3)], "throw": "undo"},
            {"steps": [NOTHING], "error": {"name": "Error", "message": "undo"}},
        ),
        (iterate("x", "rest"), {"value": [INTERNAL]}),
    ),
    case(
        "a limit with a fraction",
        (put("a", 1), NOTHING),
        ({"op": "list", "args": [{"limit": 1.9}]}, {"value": {"$map": [["a", 1]]}}),
        (
            {"op": "list", "args": [{"limit": 0.9}]},
            {"error": {"name": "TypeError", "message": "List limit must be positive."}},
        ),
    ),
    case(
        "what a bookmark is, not which",
        (
            {"op": "getCurrentBookmark", "args": [], "project": "typeof"},
            {"value": "string"},
        ),
        ({"op": "getCurrentBookmark", "args": [], "project": "length"}, {"value": 59}),
    ),
    case(
        "an event of several that never starts",
        (
            {
                "op": "parallelEvents",
                "staggerMs": 1,
                "events": [
                    {
                        "steps": [
                            {
                                "op": "blockConcurrencyWhile",
                                "steps": [{"op": "tick", "ms": 60}],
                                "throw": "x",
                            }
                        ]
                    },
                    {"steps": [put("a", 1), get("a")]},
                ],
            },
            {
                "value": "ok",
                "events": [
                    {"delivered": False, "error": {"message": "x"}, "steps": [{"pending": True}]},
                    {
                        "delivered": False,
                        "error": {"message": "x"},
                        "steps": [{"pending": True}, {"pending": True}],
                    },
                ],
            },
        ),
    ),
]

BRANCHES = {
    "name": "own-branches",
    "events": [
        {
            "id": "e1",
            "start_ms": 0,
            "steps": [
                [
                    "try",
                    [
                        [
                            "parallel",
                            [[["sleep", 60], ["log", "late"]], [["log", "in"], ["throw", "x"]]],
                        ]
                    ],
                    [["log", "handled"]],
                ]
            ],
        }
    ],
    "settle_ms": 150,
    "expect": {
        "trace": [
            ["@main", "ctor#1"],
            ["e1", "in"],
            ["e1", "caught:x"],
            ["e1", "handled"],
            ["e1", "late"],
        ],
        "results": {"e1": {"ok": "handled"}},
        "done": ["e1"],
        "storage": {"main": {"kv": {}, "sql": {}, "mem": {}}},
        "ctors": {"main": 1},
    },
}

SCENARIO = {
    "name": "own-words",
    "events": [
        {
            "id": "e1",
            "start_ms": 0,
            "steps": [
                ["kvincr", "n"],
                ["kvincr", "n"],
                ["kvget", "n"],
                ["kvdelete", "n"],
                ["memincr", "m"],
                [
                    "txnsync",
                    [["kvput", "a", 1], ["trysync", [["throw", "no"]], [["log", "handled"]]]],
                ],
                ["txn", [["tput", "b", 2], ["tget", "b"], ["rollback"]]],
                ["try", [["txn", [["put", "c", 3], ["throw", "undo"]]]], [["log", "undone"]]],
                ["txn_nowait", [["put", "d", 4], ["throw", "late"]]],
                ["if_ctor_n", 2, [["log", "never"]]],
                ["call_other", "other", [["if_ctor_n", 1, [["log", "there"]]]]],
                ["return", 1.0],
            ],
        },
        {"id": "e2", "start_ms": 60, "steps": [["delall"], ["list"]]},
    ],
    "ctor": {"main": [["put", "made", 1], ["if_ctor_n", 1, [["memset", "m", 1]]]]},
    "expect": {
        "trace": [
            ["@main", "ctor#1"],
            ["e1", "n=2"],
            ["e1", "caught:no"],
            ["e1", "handled"],
            ["e1", "b=2"],
            ["e1", "caught:undo"],
            ["e1", "undone"],
            ["e1", "txnfail:late"],
            ["@other", "ctor#1"],
            ["e1>other", "there"],
            ["e2", "list={}"],
        ],
        "results": {"e1": {"ok": 1}, "e2": {"ok": {}}},
        "done": ["e1", "e2"],
        "done_ticks": {"e1": 0, "e2": 3},
        "trace_ticks": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
        "storage": {
            "main": {"kv": {}, "sql": {}, "mem": {"m": 2}},
            "other": {"kv": {}, "sql": {}, "mem": {}},
        },
        "ctors": {"main": 1, "other": 1},
    },
}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_word_of_the_language_is_understood(backend: report.Backend) -> None:
    for result in vectors.run(CASES, backend):
        assert result.verdict == "passed", str(result)


@pytest.mark.parametrize("scenario", [SCENARIO, BRANCHES])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_step_of_a_scenario_is_understood(
    backend: report.Backend, scenario: dict[str, Any]
) -> None:
    (result,) = scenarios.run([json.loads(json.dumps(scenario))], backend)
    assert result.verdict == "passed", str(result)


@pytest.mark.parametrize("expect", [{}, {"storage": {}}, {**BRANCHES["expect"], "ctors": {}}])
def test_a_scenario_without_its_expectation_is_a_failure(expect: dict[str, Any]) -> None:
    scenario = json.loads(json.dumps({**BRANCHES, "expect": expect}))
    (result,) = scenarios.run([scenario], "asyncio")
    assert result.verdict == "failed"


def test_an_unknown_word_of_an_expectation_is_a_failure_and_the_run_goes_on() -> None:
    cases = [case("unknown", (get("a"), {"value": {"$surprise": 1}})), case("known")]
    unknown, known = vectors.run(cases, "asyncio")
    assert (unknown.verdict, known.verdict) == ("failed", "passed")
    assert "$surprise" in unknown.reason


@pytest.mark.parametrize(
    "step",
    [
        {"op": "surprise"},
        {"op": "sql.exec", "args": ["SELECT 1"], "use": ["surprise"]},
        {"op": "get", "args": [{"$surprise": 1}]},
        {"op": "get", "args": ["a"], "project": "surprise"},
        {"op": "get", "args": ["a"], "surprise": True},
        {"op": "unawaited", "steps": [], "then": "surprise"},
    ],
)
def test_an_unknown_word_is_a_failure_and_the_run_goes_on(step: dict[str, Any]) -> None:
    cases = [case("unknown", (step, NOTHING)), case("known", (put("a", 1), NOTHING))]
    unknown, known = vectors.run(cases, "asyncio")
    assert unknown.verdict == "failed"
    assert known.verdict == "passed"


def test_a_limit_that_is_not_enforced_is_a_failure() -> None:
    tags = ["limit-differs-from-docs"]
    keys = {"$dict": {"key": "k{i}", "from": 0, "to": 129, "value": 1}}
    enforced, not_enforced = vectors.run(
        [
            case("enforced", ({"op": "put", "args": [keys]}, NOTHING), tags=tags),
            case("not enforced", (put("k", 1), NOTHING), tags=tags),
        ],
        "asyncio",
    )
    assert enforced.verdict == "passed", str(enforced)
    assert not_enforced.verdict == "failed"


def test_files_of_several_forms_are_read(tmp_path: Path) -> None:
    own = case("own", (put("a", 1), NOTHING))
    (tmp_path / "list.json").write_text(json.dumps([own]))
    (tmp_path / "object.json").write_text(json.dumps({"cases": [own]}))
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "one.json").write_text(json.dumps(own))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "scenario.json").write_text(json.dumps(SCENARIO))
    cases, unreadable = report.load(tmp_path, "steps")
    assert len(cases) == 3
    assert sorted(result.name for result in unreadable) == ["broken.json", "empty.json"]
    cases, _ = report.load(tmp_path, "events")
    assert [scenario["name"] for scenario in cases] == ["own-words"]


def test_a_report_counts_and_shows_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        report.Result("a/1", "a", "passed"),
        report.Result("a/2", "a", "skipped", "reason"),
        report.Result("b/1", "b", "failed", "", [report.Difference("here", "this", "that")]),
    ]
    assert not report.print_results(results)
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "a: 1/1 (1 skipped)"
    assert output[1] == "b: 0/1"
    assert "        got      that" in output
    assert output[-1] == "1 passed, 1 failed, 1 skipped"
