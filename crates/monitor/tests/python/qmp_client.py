#!/usr/bin/env python3
"""Drives a monitor with the Python package qemu.qmp, and checks every answer.

usage: qmp_client.py SOCKET [--migrate-to URI [--destination SOCKET]] [--quit]

Needs `pip install qemu.qmp`. Works on any monitor of Whimbrel's whose machine runs and is not migrating; leaves the
machine running, unless --migrate-to or --quit say otherwise. Exit status 0 if everything held.
"""
import argparse
import asyncio
import json
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient
from qemu.qmp.protocol import ConnectError

DEADLINE = 20.0
# A port that nobody listens on: migrating to it must fail and leave the machine running.
NOWHERE = "tcp:127.0.0.1:1"
COMMANDS = """qmp_capabilities query-version query-commands query-status stop cont system_powerdown system_reset quit migrate
    migrate-incoming migrate_cancel migrate-continue query-migrate migrate-set-capabilities query-migrate-capabilities
    migrate-set-parameters query-migrate-parameters query-balloon balloon announce-self human-monitor-command send-key
    query-name query-uuid query-cpus-fast""".split()


def check(condition, what):
    if not condition:
        raise AssertionError(what)


async def connect(path, name):
    client = QMPClient(name)
    await asyncio.wait_for(client.connect(path), DEADLINE)
    return client


async def refused(client, command, arguments, text):
    try:
        await client.execute(command, arguments)
    except ExecuteError as error:
        check(text in str(error), f"{command} {arguments}: {error}")
        check(error.error_class in ("GenericError", "CommandNotFound"), f"{command}: class {error.error_class}")
        return
    raise AssertionError(f"{command} {arguments} was not refused")


async def status_becomes(client, wanted):
    """Polls query-migrate until the status is one of these, and returns what it said."""
    async def poll():
        while (info := await client.execute("query-migrate")).get("status") not in wanted:
            check(info.get("status") != "failed", info.get("error-desc"))
            await asyncio.sleep(0.02)
        return info
    return await asyncio.wait_for(poll(), 6 * DEADLINE)


async def next_event(listener, name):
    while (event := await asyncio.wait_for(listener.get(), DEADLINE))["event"] != name:
        pass
    check(0 <= event["timestamp"]["microseconds"] < 1_000_000, "timestamp")
    return event


async def queries(client):
    check(isinstance(client.greeting.QMP.version["qemu"]["major"], int), "greeting")
    version = await client.execute("query-version")
    check(set(version["qemu"]) == {"major", "minor", "micro"}, "query-version")
    names = {command["name"] for command in await client.execute("query-commands")}
    check(names >= set(COMMANDS), f"missing: {set(COMMANDS) - names}")
    check((await client.execute("query-status"))["running"] is True, "the machine runs")
    check(len((await client.execute("query-uuid"))["UUID"]) == 36, "query-uuid")
    await client.execute("query-name")
    cpus = await client.execute("query-cpus-fast")
    check([cpu["cpu-index"] for cpu in cpus] == list(range(len(cpus))) and cpus, "query-cpus-fast")
    check(all(cpu["thread-id"] > 0 for cpu in cpus), "thread ids")


async def run_state(client):
    with client.listener(names={"STOP", "RESUME"}) as listener:
        await client.execute("stop")
        check((await client.execute("query-status")) == {"running": False, "status": "paused"}, "stopped")
        await client.execute("stop")
        await client.execute("cont")
        check((await client.execute("query-status")) == {"running": True, "status": "running"}, "running")
        check([(await next_event(listener, name))["event"] for name in ("STOP", "RESUME")] == ["STOP", "RESUME"], "events")


async def migration_settings(client):
    before = await client.execute("query-migrate-parameters")
    change = {"max-bandwidth": 123_000_000, "downtime-limit": 77, "announce-rounds": 3}
    await client.execute("migrate-set-parameters", change)
    after = await client.execute("query-migrate-parameters")
    check(after == {**before, **change}, f"parameters: {after}")
    await client.execute("migrate-set-parameters", {name: before[name] for name in change})
    await refused(client, "migrate-set-parameters", {"downtime-limit": 2_000_001}, "downtime-limit")
    await refused(client, "migrate-set-parameters", {"zork": 1}, "zork")
    await refused(client, "migrate-set-parameters", {"max-bandwidth": "fast"}, "max-bandwidth")
    for state in (True, False):
        await client.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": state}]})
        now = {c["capability"]: c["state"] for c in await client.execute("query-migrate-capabilities")}
        check(now["events"] is state and "postcopy-ram" in now, f"capabilities: {now}")
    await refused(client, "migrate-set-capabilities", {"capabilities": [{"capability": "zork", "state": True}]}, "zork")


async def devices(client):
    try:
        actual = (await client.execute("query-balloon"))["actual"]
        await client.execute("balloon", {"value": actual})
        await refused(client, "balloon", {"value": 0}, "size")
    except ExecuteError as error:
        check(error.error_class == "DeviceNotActive", error)
        print("the machine has no balloon")
    await refused(client, "balloon", {"value": "all"}, "expected: integer")
    await refused(client, "send-key", {"keys": [{"type": "qcode", "data": "zork"}]}, "zork")
    await client.execute("announce-self", {"initial": 50, "max": 550, "rounds": 1, "step": 50})


async def human(client):
    async def line(text):
        return await client.execute("human-monitor-command", {"command-line": text})
    check(await line("info status") == "VM status: running\r\n", "info status")
    text = await line("info migrate")
    for label in "store-global-state only-migratable send-configuration send-section-footer clear-bitmap-shift".split():
        check(f"{label}: " in text, f"info migrate lacks {label}")
    check("unknown command" in await line("zork"), "zork")
    check("migrate_set_parameter" in await line("help"), "help")
    for topic in ("version", "name", "uuid", "cpus", "migrate_parameters", "migrate_capabilities"):
        check(await line(f"info {topic}") != "", topic)
    check(await line("migrate_set_parameter zork 1") == "Error: invalid parameter value: zork\r\n", "unknown parameter")


async def wrong(client, path):
    await refused(client, "zork", None, "The command zork has not been found")
    await refused(client, "stop", {"zork": 1}, "Parameter 'zork' is unexpected")
    await refused(client, "migrate", None, "Parameter 'uri' is missing")
    await refused(client, "migrate", {"uri": "zork"}, "valid migration protocol")
    await refused(client, "migrate-continue", {"state": "pre-switchover"}, "")
    await refused(client, "migrate-continue", {"state": "zork"}, "zork")
    await client.execute("migrate_cancel")
    reader, writer = await asyncio.open_unix_connection(path)
    check("QMP" in json.loads(await reader.readline()), "greeting")
    for rubbish, error in ((b'{"execute":"quit"}', "CommandNotFound"), (b"zork\n", "GenericError"), (b"[" * 2000 + b"\n", "GenericError"),
                           (b'"' + b"x" * 20_000_000 + b'"', "GenericError")):
        writer.write(rubbish)
        await asyncio.wait_for(writer.drain(), DEADLINE)
        reply = json.loads(await asyncio.wait_for(reader.readline(), DEADLINE))
        check(reply["error"]["class"] == error, f"{rubbish[:20]}: {reply}")
    writer.close()
    check((await client.execute("query-status"))["running"] is True, "the machine runs after all that")


async def several_clients(client, path):
    others = [await connect(path, f"other {i}") for i in range(4)]
    with others[-1].listener(names={"STOP", "RESUME"}) as listener:
        await client.execute("stop")
        await client.execute("cont")
        await next_event(listener, "STOP")
        await next_event(listener, "RESUME")
    check(all((await asyncio.gather(*(other.execute("query-status") for other in others)))), "all are answered")
    for other in others:
        await other.disconnect()


async def failing_migration(client):
    await client.execute("migrate", {"uri": NOWHERE})
    async def poll():
        while (info := await client.execute("query-migrate"))["status"] != "failed":
            await asyncio.sleep(0.02)
        return info
    info = await asyncio.wait_for(poll(), DEADLINE)
    check(info["error-desc"], "why it failed")
    check((await client.execute("query-status"))["running"] is True, "the source runs on")


async def migration(client, uri, destination):
    await client.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    with client.listener(names={"MIGRATION", "MIGRATION_PASS", "STOP"}) as listener:
        await client.execute("migrate", {"uri": uri})
        info = await status_becomes(client, {"completed"})
        told = []
        while "completed" not in told:
            event = await asyncio.wait_for(listener.get(), DEADLINE)
            told.append(event.get("data", {}).get("status", event["event"]))
    check(told[0] == "setup" and "active" in told and "MIGRATION_PASS" in told and "STOP" in told, told)
    check((await client.execute("query-status"))["status"] == "postmigrate", "the source has moved away")
    for name in ("total-time", "downtime", "setup-time"):
        check(info[name] >= 0, name)
    for name in ("transferred remaining total duplicate normal normal-bytes dirty-pages-rate mbps dirty-sync-count page-size "
                 "multifd-bytes pages-per-second precopy-bytes downtime-bytes postcopy-bytes").split():
        check(name in info["ram"], f"ram lacks {name}")
    check(info["whimbrel"]["rounds"], "rounds")
    print(await client.execute("human-monitor-command", {"command-line": "info migrate"}))
    if destination:
        other = await connect(destination, "destination")
        check((await other.execute("query-status"))["running"] is True, "the destination runs")
        await other.disconnect()


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket")
    parser.add_argument("--migrate-to", metavar="URI")
    parser.add_argument("--destination", metavar="SOCKET", help="monitor of the destination, to look whether it runs")
    parser.add_argument("--quit", action="store_true", help="end the machine")
    arguments = parser.parse_args()
    client = await connect(arguments.socket, "driver")
    steps = [("queries", queries(client)), ("run state", run_state(client)), ("migration settings", migration_settings(client)),
             ("devices", devices(client)), ("human monitor", human(client)), ("wrong input", wrong(client, arguments.socket)),
             ("several clients", several_clients(client, arguments.socket)), ("failing migration", failing_migration(client))]
    if arguments.migrate_to:
        steps.append(("migration", migration(client, arguments.migrate_to, arguments.destination)))
    for name, step in steps:
        await step
        print(f"ok: {name}", flush=True)
    if arguments.quit:
        with client.listener(names={"SHUTDOWN"}) as listener:
            await client.execute("quit")
            event = await next_event(listener, "SHUTDOWN")
            check(event["data"] == {"guest": False, "reason": "host-qmp-quit"}, event)
        print("ok: quit")
    try:
        await client.disconnect()
    except (EOFError, ConnectError):
        check(arguments.quit, "the monitor closed the connection")


if __name__ == "__main__":
    asyncio.run(main())
    sys.exit(0)
