"""The words of `openapi.py`: schemas of bodies and replies, and the parameters of queries and headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from idioteque.server.wire.filters import DEAD_LETTERS, LOGS, MESSAGES, PENDING, Kind
from idioteque.server.wire.headers import METHODS

Json = dict[str, object]

TEXT: Json = {"type": "string"}
FLAG: Json = {"type": "boolean"}
COUNT: Json = {"type": "integer", "minimum": 0}
NAME: Json = {"type": "string", "pattern": "^[A-Za-z0-9._-]+$"}
NAMES: Json = {"type": "array", "items": TEXT}
DURATION: Json = {"type": "string", "pattern": "^([0-9]+[smhd])+$", "examples": ["10s", "1h30m", "3d"]}
HEADER_MAP: Json = {"type": "object", "additionalProperties": NAMES}
TIME_MS: Json = {"type": "integer", "minimum": 0, "description": "Unix time in milliseconds"}

REFUSALS: Mapping[int, str] = {
    400: "A value breaks a rule; the text names both",
    401: "No token, or a wrong one",
    403: "This token may only read",
    404: "There is no such thing",
    412: "A limit that the operator set is reached",
    413: "More bytes than a request may have",
    429: "Too many requests; the headers say when to come back",
    503: "The server cannot do this at the moment",
    507: "There is no room left; nothing was stored",
}


def reference(name: str) -> Json:
    """Return the schema that a name stands for; `Name[]` is a list."""
    if name.endswith("[]"):
        return {"type": "array", "items": reference(name[:-2])}
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str = "", /, **properties: Mapping[str, object]) -> Json:
    shape: Json = {"type": "object", "properties": properties}
    if required:
        shape["required"] = required.split()
    return shape


def _selection(kind: Kind) -> Json:
    """Return a JSON body that selects as the query does: each value alone, or a list of alternatives."""
    return {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {
            name: {"anyOf": [TEXT, COUNT, {"type": "array", "items": TEXT}]} for name in sorted(kind.allowed)
        },
    }


_SINGLE: Mapping[str, Json] = {
    "count": {"type": "integer", "minimum": 1},
    "cursor": TEXT,
    "order": {"type": "string", "enum": ["earliestFirst", "latestFirst"]},
    "fromDate": TIME_MS,
    "toDate": TIME_MS,
    "source": {"type": "string", "enum": ["workflow"]},
}


def _query(kind: Kind) -> Sequence[Json]:
    return [
        {"name": name, "in": "query", "schema": _SINGLE.get(name, NAMES), "explode": True}
        for name in sorted(kind.allowed)
    ]


def _parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "schema": schema}


QUERIES: Mapping[str, Sequence[Json]] = {
    "": (),
    "messages": _query(MESSAGES),
    "dlq": _query(DEAD_LETTERS),
    "logs": _query(LOGS),
    "pending": _query(PENDING),
    "search": (_parameter("search", TEXT),),
    "pin": tuple(_parameter(name, {"type": "integer", "minimum": 1}) for name in ("parallelism", "rate", "period")),
    "waiting": tuple(_parameter(name, TEXT) for name in ("flowControlKey", "queueName")),
    "unpin": tuple(_parameter(name, FLAG) for name in ("parallelism", "rate")),
}


PATHS: Mapping[str, Json] = {
    "": {"type": "string", "minLength": 1},
    "queue": NAME,
    "key": {"type": "string", "pattern": "^[A-Za-z0-9._/-]+$", "description": "A flow-control key, slashes and all"},
    "destination": {
        "type": "string",
        "pattern": "^(https?://[^/?#]+.*|[A-Za-z0-9._-]+)$",
        "description": "A URL, neither encoded nor shortened, its query being the request's; or a URL group's name",
    },
}


def _header(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "header", "schema": schema, "description": description}


_PUBLISH = (
    _header("Upstash-Method", {"type": "string", "enum": list(METHODS)}, "The method of the delivery; POST"),
    _header("Upstash-Delay", DURATION, "Deliver after so long"),
    _header("Upstash-Not-Before", COUNT, "Deliver at this Unix time in seconds; wins over the delay"),
    _header("Upstash-Retries", COUNT, "How often a failed delivery is tried again; 3"),
    _header("Upstash-Retry-Delay", TEXT, "Milliseconds to the next attempt, an expression over `retried`"),
    _header("Upstash-Timeout", DURATION, "How long one attempt may take"),
    _header("Upstash-Callback", TEXT, "A URL that is told of every attempt"),
    _header("Upstash-Failure-Callback", TEXT, "A URL that is told of the final failure"),
    _header("Upstash-Deduplication-Id", TEXT, "A repetition within ten minutes is not sent"),
    _header("Upstash-Content-Based-Deduplication", {"type": "string", "enum": ["true", "false"]}, "Let content decide"),
    _header("Upstash-Label", TEXT, "Labels to find the message by, separated by commas"),
    _header("Upstash-Redact-Fields", TEXT, "What this API never shows: body, header, header[Name]"),
    _header("Upstash-Header-Forward", {"type": "string", "enum": ["true", "false"]}, "Forward all headers as they are"),
    _header("Upstash-Flow-Control-Key", NAME, "The key whose limits hold for this message"),
    _header("Upstash-Flow-Control-Value", TEXT, "parallelism=<n>, rate=<n>, period=<duration>"),
)
_SCHEDULE = (
    {**_header("Upstash-Cron", TEXT, "Five fields, in UTC or behind CRON_TZ=<zone>"), "required": True},
    _header("Upstash-Schedule-Id", NAME, "An id of one's own; a schedule that has it is overwritten"),
    _header("Upstash-Queue-Name", NAME, "The queue that the messages go through"),
)

HEADERS: Mapping[str, Sequence[Json]] = {"": (), "publish": _PUBLISH, "schedule": (*_SCHEDULE, *_PUBLISH)}

_FLOW: Mapping[str, Json] = {"flowControlKey": TEXT, "parallelism": COUNT, "rate": COUNT, "period": COUNT}
_MESSAGE: Mapping[str, Json] = {
    "messageId": TEXT, "url": TEXT, "method": TEXT, "header": HEADER_MAP, "body": TEXT, "bodyBase64": TEXT,
    "maxRetries": COUNT, "notBefore": TIME_MS, "createdAt": TIME_MS, "topicName": TEXT, "endpointName": TEXT,
    "queueName": TEXT, "scheduleId": TEXT, "callback": TEXT, "failureCallback": TEXT, "callbackHeader": HEADER_MAP,
    "failureCallbackHeader": HEADER_MAP, "callerIP": TEXT, "retryDelayExpression": TEXT, "label": TEXT,
    "labels": NAMES, **_FLOW,
}  # fmt: skip
_ANSWER: Mapping[str, Json] = {
    "responseStatus": COUNT,
    "responseHeader": HEADER_MAP,
    "responseBody": TEXT,
    "error": TEXT,
}
_STATES = ["CREATED", "ACTIVE", "DELIVERED", "ERROR", "RETRY", "FAILED", "CANCEL_REQUESTED", "CANCELED"]
_STATE: Json = {"type": "string", "enum": _STATES}
_SCHEDULE_STATES: Json = {
    "type": "object",
    "additionalProperties": {"type": "string", "enum": ["IN_PROGRESS", "SUCCESS", "FAIL"]},
}
_LATENCY: Mapping[str, Json] = {name: {"type": ["number", "null"]} for name in ("p50Seconds", "p95Seconds")}
_STRETCH: Mapping[str, Json] = {
    "from": TIME_MS, "accepted": COUNT, "delivered": COUNT, "retried": COUNT, "deadLettered": COUNT, **_LATENCY,
}  # fmt: skip

SCHEMAS: Json = {
    "Error": _object("error", error=TEXT),
    "Status": _object("status", status=TEXT),
    "Nothing": _object(),
    "Document": _object("openapi paths", openapi=TEXT, paths={"type": "object"}),
    "PublishedOne": _object("messageId url", messageId=TEXT, url=TEXT, deduplicated=FLAG),
    "Published": {
        "description": "One object for a URL, a list for a URL group",
        "anyOf": [reference("PublishedOne"), reference("PublishedOne[]")],
    },
    "Batch": {
        "type": "array",
        "items": _object(
            "destination",
            destination=TEXT,
            headers={"type": "object", "additionalProperties": TEXT},
            body={"type": ["string", "null"]},
            queue={"type": ["string", "null"]},
        ),
    },
    "Batched": {
        "type": "array",
        "items": {"anyOf": [reference("PublishedOne"), reference("PublishedOne[]"), reference("Error")]},
    },
    "Message": _object("messageId url method maxRetries notBefore createdAt", **_MESSAGE),
    "DeadLetter": _object(
        "messageId url method maxRetries notBefore createdAt dlqId responseStatus",
        **{**_MESSAGE, **_ANSWER, "dlqId": TEXT, "responseBodyBase64": TEXT},
    ),
    "DeadLetters": _object("messages", messages=reference("DeadLetter[]"), cursor=TEXT),
    "LogEntry": _object(
        "time messageId state url",
        **{
            **_MESSAGE, **_ANSWER, "time": TIME_MS, "state": _STATE,
            "nextDeliveryTime": TIME_MS, "timeout": COUNT, "callbackHeaders": HEADER_MAP,
            "failureCallbackHeaders": HEADER_MAP, "retryDelayExpr": TEXT, "responseHeaders": HEADER_MAP,
        },
    ),
    "Log": _object("events logs", events=reference("LogEntry[]"), logs=reference("LogEntry[]"), cursor=TEXT),
    "Cancelled": _object("cancelled", cancelled=COUNT),
    "Deleted": _object("deleted", deleted=COUNT, cursor=TEXT),
    "RetriedOne": _object("messageId", messageId=TEXT),
    "Retried": _object("responses", responses=reference("RetriedOne[]"), cursor=TEXT),
    "MessageSelection": _selection(MESSAGES),
    "DeadLetterSelection": _selection(DEAD_LETTERS),
    "Keys": _object("current next", current=TEXT, next=TEXT),
    "Endpoint": _object("url", url=TEXT, name=NAME),
    "Endpoints": _object("endpoints", endpoints=reference("Endpoint[]")),
    "EndpointRemovals": _object("endpoints", endpoints={"type": "array", "items": _object(url=TEXT, name=TEXT)}),
    "UrlGroup": _object(
        "name createdAt updatedAt endpoints",
        name=TEXT, createdAt=TIME_MS, updatedAt=TIME_MS, endpoints=reference("Endpoint[]"),
    ),
    "DefaultHeaders": _object(
        "headers", headers={"type": "object", "additionalProperties": {"anyOf": [TEXT, NAMES]}}
    ),
    "Scheduled": _object("scheduleId", scheduleId=TEXT),
    "Schedule": _object(
        "scheduleId cron createdAt destination method retries isPaused",
        **{
            **_MESSAGE, "scheduleId": TEXT, "cron": TEXT, "destination": TEXT, "retries": COUNT, "isPaused": FLAG,
            "delay": COUNT, "timeout": COUNT, "callerIp": TEXT, "lastScheduleTime": TIME_MS,
            "nextScheduleTime": TIME_MS, "error": TEXT,
            "lastScheduleStates": _SCHEDULE_STATES,
        },
    ),
    "Queue": _object(
        "name parallelism createdAt updatedAt lag paused",
        name=TEXT, parallelism=COUNT, createdAt=TIME_MS, updatedAt=TIME_MS, lag=COUNT, paused=FLAG,
    ),
    "QueueSettings": _object(
        "queueName", queueName=NAME, parallelism={"type": "integer", "minimum": 1}, paused=FLAG
    ),
    "FlowControlKey": _object(
        "flowControlKey waitListSize parallelismMax parallelismCount rateMax rateCount ratePeriod ratePeriodStart"
        " isPaused isPinnedParallelism isPinnedRate",
        flowControlKey=TEXT, waitListSize=COUNT, parallelismMax=COUNT, parallelismCount=COUNT, rateMax=COUNT,
        rateCount=COUNT, ratePeriod=COUNT, ratePeriodStart=COUNT, isPaused=FLAG, isPinnedParallelism=FLAG,
        isPinnedRate=FLAG,
    ),
    "ServerStatus": _object(
        "version startedAt pending inFlight inFlightMax retrying deadLetters countedMax linesHeld oldestDueAt"
        " latency stretchMs activity fileBytes walBytes rows durability retention",
        version=TEXT, startedAt=TIME_MS, pending=COUNT, inFlight=COUNT, inFlightMax=COUNT,
        retrying={**COUNT, "description": "At most countedMax"},
        deadLetters={**COUNT, "description": "At most countedMax"}, countedMax=COUNT, linesHeld=COUNT,
        oldestDueAt={"type": ["integer", "null"]}, latency=reference("Latency"), stretchMs=COUNT,
        activity=reference("Stretch[]"), fileBytes=COUNT, walBytes=COUNT,
        rows={"type": "object", "additionalProperties": COUNT, "description": "As of the last minute"},
        durability=TEXT, retention={"type": "object", "additionalProperties": COUNT},
    ),
    "Latency": _object("p50Seconds p95Seconds", **_LATENCY),
    "Stretch": _object("from accepted delivered retried deadLettered p50Seconds p95Seconds", **_STRETCH),
    "WaitingList": _object("waiting", waiting=reference("Waiting[]")),
    "PendingList": _object("pending", pending={"type": "array", "items": TEXT}),
    "Waiting": _object(
        "place messageId url createdAt retried isUnderWay",
        place=COUNT, messageId=TEXT, url=TEXT, createdAt=TIME_MS, dueAt=TIME_MS, retried=COUNT, isUnderWay=FLAG,
    ),
    "GlobalParallelism": _object(
        "parallelismMax parallelismCount", parallelismMax=COUNT, parallelismCount=COUNT
    ),
}  # fmt: skip
