"""The life of a connection endpoint as a table.

    IDLE ─associate─▶ ASSOCIATED ─connect─▶ CONNECTING ─established─▶ CONNECTED
                        │    ▲ └─listen─▶ LISTENING ─offer─▶ OFFERED ─accept─┘ │
                        │    └────────── refused, cancelled, aborted ──────────┤
                        ▼                                                      ├─release─▶ RELEASE_SENT ──────┐
                      IDLE ◀─disassociate                                      └─the peer's─▶ RELEASE_RECEIVED ┤
                                                                                       CLOSING ◀──────────────┘
    and from any of the last three back to ASSOCIATED: the endpoint outlives its connections.

A pair that is missing from the table is a refusal, and its status stands in the second table, or is INVALID_CONNECTION.
In CLOSING both sides have released, and what this side still has to send is on its way.
"""

from __future__ import annotations

from enum import Enum

from emulator.status import NtStatus, Refused


class State(Enum):
    """Where a connection endpoint is."""

    IDLE = "idle"
    ASSOCIATED = "associated"
    CONNECTING = "connecting"
    LISTENING = "listening"
    OFFERED = "offered"
    CONNECTED = "connected"
    RELEASE_SENT = "release sent"
    RELEASE_RECEIVED = "release received"
    CLOSING = "closing"


class Input(Enum):
    """What can happen to it: requests of its client first, then what the network brings."""

    ASSOCIATE = "ASSOCIATE"
    DISASSOCIATE = "DISASSOCIATE"
    CONNECT = "CONNECT"
    LISTEN = "LISTEN"
    ACCEPT = "ACCEPT"
    SEND = "SEND"
    RECEIVE = "RECEIVE"
    ABORT = "DISCONNECT with ABORT"
    RELEASE = "DISCONNECT with RELEASE"
    OFFER = "an offer"
    ESTABLISHED = "a connection"
    FAILED = "a failure"
    PEER_RELEASE = "the peer's release"
    DRAINED = "the end of its sends"
    BROKEN = "the end of the connection"


S, I = State, Input  # noqa: E741 -- the table is read by its columns

NEXT: dict[tuple[State, Input], State] = {
    (S.IDLE, I.ASSOCIATE): S.ASSOCIATED,
    (S.ASSOCIATED, I.DISASSOCIATE): S.IDLE,
    (S.ASSOCIATED, I.CONNECT): S.CONNECTING,
    (S.ASSOCIATED, I.LISTEN): S.LISTENING,
    # An ACCEPT that a connect handler supplied meets its offer here (C18).
    (S.ASSOCIATED, I.OFFER): S.OFFERED,
    (S.CONNECTING, I.ESTABLISHED): S.CONNECTED,
    (S.CONNECTING, I.FAILED): S.ASSOCIATED,
    (S.CONNECTING, I.ABORT): S.ASSOCIATED,
    (S.CONNECTING, I.RELEASE): S.ASSOCIATED,
    (S.LISTENING, I.OFFER): S.OFFERED,
    (S.LISTENING, I.FAILED): S.ASSOCIATED,
    (S.OFFERED, I.ACCEPT): S.CONNECTED,
    (S.OFFERED, I.FAILED): S.ASSOCIATED,
    (S.OFFERED, I.ABORT): S.ASSOCIATED,
    (S.OFFERED, I.RELEASE): S.ASSOCIATED,
    (S.CONNECTED, I.SEND): S.CONNECTED,
    (S.CONNECTED, I.RECEIVE): S.CONNECTED,
    (S.CONNECTED, I.ABORT): S.ASSOCIATED,
    (S.CONNECTED, I.RELEASE): S.RELEASE_SENT,
    (S.CONNECTED, I.PEER_RELEASE): S.RELEASE_RECEIVED,
    (S.CONNECTED, I.BROKEN): S.ASSOCIATED,
    (S.RELEASE_SENT, I.RECEIVE): S.RELEASE_SENT,
    (S.RELEASE_SENT, I.ABORT): S.ASSOCIATED,
    (S.RELEASE_SENT, I.RELEASE): S.RELEASE_SENT,
    (S.RELEASE_SENT, I.PEER_RELEASE): S.CLOSING,
    (S.RELEASE_SENT, I.BROKEN): S.ASSOCIATED,
    (S.RELEASE_RECEIVED, I.SEND): S.RELEASE_RECEIVED,
    (S.RELEASE_RECEIVED, I.ABORT): S.ASSOCIATED,
    (S.RELEASE_RECEIVED, I.RELEASE): S.CLOSING,
    (S.RELEASE_RECEIVED, I.BROKEN): S.ASSOCIATED,
    (S.CLOSING, I.ABORT): S.ASSOCIATED,
    (S.CLOSING, I.RELEASE): S.CLOSING,
    (S.CLOSING, I.DRAINED): S.ASSOCIATED,
    (S.CLOSING, I.BROKEN): S.ASSOCIATED,
}

ACTIVE = frozenset(State) - {S.IDLE, S.ASSOCIATED}
"""States in which an endpoint cannot be disassociated or connected (C4, C6)."""

REFUSALS: dict[tuple[State, Input], tuple[NtStatus, str]] = {
    **{(state, I.ASSOCIATE): (NtStatus.ADDRESS_ALREADY_ASSOCIATED, "C2") for state in S if state is not S.IDLE},
    **{(state, I.DISASSOCIATE): (NtStatus.CONNECTION_ACTIVE, "C4") for state in ACTIVE},
    **{(state, I.CONNECT): (NtStatus.CONNECTION_ACTIVE, "C6") for state in ACTIVE},
    (S.IDLE, I.DISASSOCIATE): (NtStatus.ADDRESS_NOT_ASSOCIATED, "C4"),
    (S.IDLE, I.CONNECT): (NtStatus.ADDRESS_NOT_ASSOCIATED, "C6"),
    **{(state, I.LISTEN): (NtStatus.INVALID_CONNECTION, "C13") for state in S},
    **{(state, I.ACCEPT): (NtStatus.INVALID_CONNECTION, "C17") for state in S},
    **{(state, I.SEND): (NtStatus.INVALID_CONNECTION, "C5") for state in S},
    **{(state, I.RECEIVE): (NtStatus.INVALID_CONNECTION, "C5") for state in S},
    (S.RELEASE_SENT, I.SEND): (NtStatus.LOCAL_DISCONNECT, "C33"),
    (S.CLOSING, I.SEND): (NtStatus.LOCAL_DISCONNECT, "C33"),
    (S.RELEASE_RECEIVED, I.RECEIVE): (NtStatus.REMOTE_DISCONNECT, "C38"),
    (S.CLOSING, I.RECEIVE): (NtStatus.REMOTE_DISCONNECT, "C38"),
}

ADVICE: dict[Input, str] = {
    I.ASSOCIATE: "disassociate it first",
    I.DISASSOCIATE: "disconnect it first",
    I.CONNECT: "associate an idle endpoint with an address first",
    I.LISTEN: "associate an idle endpoint with an address first",
    I.ACCEPT: "accept follows a LISTEN with TDI_QUERY_ACCEPT that has completed",
    I.SEND: "connect first, or listen and accept",
    I.RECEIVE: "connect first, or listen and accept",
    I.ABORT: "there is no connection to end",
    I.RELEASE: "there is no connection to end",
}


def following(state: State, given: Input) -> State:
    """The state after an input; Refused, with the rule, for one that has no place in this state."""
    found = NEXT.get((state, given))
    if found is None:
        status, rule = REFUSALS.get((state, given), (NtStatus.INVALID_CONNECTION, "C6"))
        advice = ADVICE.get(given, "it comes too late")
        text = f"the endpoint is {state.value}, where {given.value} has no place: {advice}"
        raise Refused(status, text, rule=rule)
    return found
