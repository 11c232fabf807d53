"""What `cargo xtask schemathesis` does not ask for: streams that go on for ever, and reads that wait for a change. They would be
all that the time is spent on. The tests of crates/api have both."""

import schemathesis

ENDLESS = {"follow", "wait"}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    for path in raw_schema["paths"].values():
        for operation in path.values():
            operation["parameters"] = [one for one in operation["parameters"] if one["name"] not in ENDLESS]
