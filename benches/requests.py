#!/usr/bin/env python3
"""Writes a wrk script that posts thousands of distinct, signed JSON bodies of about 1 KiB.

usage: requests.py OUT.lua SECRET PATH [COUNT]
"""

import hashlib
import hmac
import json
import random
import sys

out, secret, path = sys.argv[1:4]
count = int(sys.argv[4]) if len(sys.argv) > 4 else 8192
random.seed(7)
NAMES = ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Leslie", "Frances", "Tony", "Niklaus", "Radia"]
TYPES = ["invoice.paid", "invoice.created", "charge.succeeded", "customer.updated", "payment_intent.created"]


def body(number):
    """A webhook as payment providers send them: nested, repetitive in its keys, distinct in its values."""
    return json.dumps({
        "id": "evt_%024x" % random.getrandbits(96),
        "object": "event",
        "api_version": "2025-09-30",
        "created": 1_760_000_000 + number,
        "type": random.choice(TYPES),
        "livemode": random.random() < 0.9,
        "pending_webhooks": random.randint(1, 3),
        "request": {"id": "req_%014x" % random.getrandbits(56), "idempotency_key": None},
        "data": {"object": {
            "id": "in_%024x" % random.getrandbits(96),
            "object": "invoice",
            "amount_due": random.randint(100, 1_000_000),
            "amount_paid": random.randint(100, 1_000_000),
            "currency": random.choice(["eur", "usd", "gbp"]),
            "customer": "cus_%014x" % random.getrandbits(56),
            "customer_email": "%s.%d@example.com" % (random.choice(NAMES).lower(), random.randint(1, 99999)),
            "customer_name": "%s %s" % (random.choice(NAMES), random.choice(NAMES)),
            "hosted_invoice_url": "https://pay.example.com/i/acct_%x/%x" % (random.getrandbits(60), random.getrandbits(120)),
            "lines": {"object": "list", "has_more": False, "total_count": 1, "data": [{
                "id": "il_%024x" % random.getrandbits(96),
                "amount": random.randint(100, 1_000_000),
                "description": "%d x Plan %s" % (random.randint(1, 9), random.choice("ABCDEF")),
                "period": {"start": 1_760_000_000 + random.randint(0, 9_999_999), "end": 1_770_000_000},
            }]},
            "footer": "Thank you, %s. Questions? billing-%d@example.com" % (random.choice(NAMES), random.randint(1, 999)),
            "payment_intent": "pi_%024x" % random.getrandbits(96),
            "metadata": {"order": "%d" % random.randint(1, 10**9), "region": random.choice(["eu-1", "us-2", "ap-3"])},
            "number": "%08X-%04d" % (random.getrandbits(32), random.randint(1, 9999)),
            "paid": True,
            "status": "paid",
        }},
    }, separators=(",", ":"))


with open(out, "w") as lua:
    lua.write("local requests = {}\nlocal function add(body, signature)\n")
    lua.write("  requests[#requests + 1] = wrk.format('POST', '%s', {\n" % path)
    lua.write("    ['Host'] = 'bench.example', ['Content-Type'] = 'application/json', ['User-Agent'] = 'bench/1',\n")
    lua.write("    ['X-Signature'] = signature}, body)\nend\n")
    lua.write("init = function(args)\n")
    total = 0
    for number in range(count):
        text = body(number)
        total += len(text)
        signature = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        lua.write("  add([==[%s]==], '%s')\n" % (text, signature))
    lua.write("end\nlocal at = 0\n")
    lua.write("request = function()\n  at = at % #requests + 1\n  return requests[at]\nend\n")
print("%d bodies of %d bytes on average" % (count, total // count))
