//! Where instances run, and how they are replaced.

use expect_test::expect;

use super::*;

#[test]
fn placement() {
    check_service(
        "IMAGE\nplacement = { spread = \"rack\", require = { disk = \"ssd\", datacenter = \"fra1\" }, prefer = { gen = \"9.1\" } }",
        expect!["valid"],
    );
    check_service("IMAGE\nplacement = { spread = \"node\" }", expect!["valid"]);
    check_service(
        "IMAGE\nplacement = { spread = \"datacentre\" }",
        expect![[
            r#"line 4, column 24: services.web.placement.spread: found "datacentre"; did you mean "datacenter"?"#
        ]],
    );
    check_service(
        "IMAGE\nplacement = { spread = \"Rack 1\" }",
        expect![[
            r#"line 4, column 24: services.web.placement.spread: "Rack 1" is not a valid label name: use lower-case letters, digits and hyphens only"#
        ]],
    );
    check_service(
        "IMAGE\nplacement = { requires = { disk = \"ssd\" } }",
        expect![[r#"line 4, column 15: services.web.placement.requires: unknown key; did you mean "require"?"#]],
    );
    check_service(
        "IMAGE\nplacement = { require = { disk = [\"ssd\", \"nvme\"], Disk = \"ssd\", gpu = \"a 100\", cores = 8 } }",
        expect![[r#"
            line 4, column 34: services.web.placement.require.disk: found a list, expected one value: a node has one value of a label
            line 4, column 51: services.web.placement.require.Disk: "Disk" is not a valid label name: use lower-case letters, digits and hyphens only
            line 4, column 71: services.web.placement.require.gpu: "a 100" is not a valid label value: use 1 to 63 letters, digits, dots, hyphens and underscores
            line 4, column 88: services.web.placement.require.cores: found the number 8, expected text: write "8""#]],
    );
    check_service(
        "IMAGE\nplacement = { require = { disk = \"ssd\" }, prefer = { disk = \"nvme\" } }",
        expect![
            "line 4, column 52: services.web.placement.prefer: disk is required already, so that preferring it says nothing; take one out"
        ],
    );
    let text = format!(
        "app = \"shop\"\n[services.web]\nimage = \"r.example/shop@{DIGEST}\"\nplacement = {{ spread = \"rack\", prefer = {{ disk = \"ssd\" }} }}"
    );
    let definition = AppDefinition::parse(&text, Format::Toml).expect("valid");
    let json = definition.to_json().to_string();
    assert_eq!(AppDefinition::parse(&json, Format::Json), Ok(definition));
}

#[test]
fn updates_are_read_and_checked() {
    let update = |text: &str| format!("IMAGE\nupdate = {text}");
    check_service(
        &update("{ strategy = \"rolling\", max_unavailable = 1, max_surge = 0, bake = \"0s\" }"),
        expect!["valid"],
    );
    check_service(
        &update(
            "{ strategy = \"canary\", instances = 2, weight = \"5%\", promote = \"manual\", max_errors = \"0.5%\" }",
        ),
        expect!["valid"],
    );
    check_service(&update("{ strategy = \"blue-green\", promote = \"auto\" }"), expect!["valid"]);
    check_service(
        &update("{ max_surge = 0 }"),
        expect![
            "line 4, column 24: services.web.update.max_surge: with max_surge and max_unavailable both 0 nothing could ever be replaced; raise one to 1"
        ],
    );
    check_service(
        &update("{ min_healthy = \"10s\", deadline = \"5s\" }"),
        expect![
            "line 4, column 26: services.web.update.min_healthy: it is not shorter than the deadline; no instance could get healthy in time"
        ],
    );
    check_service(
        &update("{ deadline = \"5s\" }"),
        expect![
            "line 4, column 23: services.web.update.deadline: it is not longer than min_healthy, which is 5s unless it is given"
        ],
    );
    check_service(
        &update("{ strategy = \"canari\" }"),
        expect![[r#"line 4, column 23: services.web.update.strategy: found "canari"; did you mean "canary"?"#]],
    );
    check_service(
        &update("{ weight = 10, promote = \"auto\" }"),
        expect![[r#"
        line 4, column 21: services.web.update.weight: only strategy "canary" has it; write that strategy, or take the key out
        line 4, column 35: services.web.update.promote: strategy "rolling" goes on by itself; write "canary" or "blue-green", or take the key out"#]],
    );
    check_service(
        &update("{ strategy = \"canary\", weight = \"100%\", max_errors = \"half\" }"),
        expect![[r#"
        line 4, column 42: services.web.update.weight: found "100%", expected a share of the requests from "1%" to "99%"
        line 4, column 63: services.web.update.max_errors: found "half", expected a share of the requests from "0%" to "100%", like "0.5%""#]],
    );
}

#[test]
fn hooks() {
    let hooks = |text: &str| format!("IMAGE\nhooks = {text}");
    check_service(
        &hooks("{ before = [\"./migrate\", \"up\"], after = [\"./notify\"], timeout = \"10m\" }"),
        expect!["valid"],
    );
    check_service(&hooks("{ before = [\"./migrate\"] }"), expect!["valid"]);
    check_service(&hooks("{ after = [\"./notify\"] }"), expect!["valid"]);
    check_service(
        &hooks("{ before = \"./migrate up\" }"),
        expect![[
            r#"line 4, column 20: services.web.hooks.before: found one text, expected a list of arguments: write ["./migrate", "up"]"#
        ]],
    );
    check_service(
        &hooks("{ before = [] }"),
        expect!["line 4, column 20: services.web.hooks.before: it is empty; write the program and its arguments"],
    );
    check_service(
        &hooks("{ before = [\"\"] }"),
        expect!["line 4, column 20: services.web.hooks.before: the first argument is the program, and it is empty"],
    );
    check_service(
        &hooks("{ timeout = \"5m\" }"),
        expect![[
            r#"line 4, column 9: services.web.hooks: nothing is run; write before = ["./migrate"], after = ["./notify"], or both"#
        ]],
    );
    check_service(
        &hooks("{ befor = [\"a\"], after = [\"a\"], timeout = \"2d\" }"),
        expect![[r#"
        line 4, column 11: services.web.hooks.befor: unknown key; did you mean "before"?
        line 4, column 51: services.web.hooks.timeout: "2d" is not a span of time: write a whole number with a unit, like 500ms, 2s, 1m or 1h"#]],
    );
    check_service(
        &hooks("[\"./migrate\"]"),
        expect!["line 4, column 9: services.web.hooks: found a list, expected a table"],
    );
}

#[test]
fn restarts() {
    let restart = |text: &str| format!("IMAGE\nrestart = {text}");
    check_service(&restart("{ policy = \"on-failure\", backoff = \"500ms..5m\" }"), expect!["valid"]);
    check_service(&restart("{ backoff = \"5s\" }"), expect!["valid"]);
    check_service(
        &restart("\"always\""),
        expect![[r#"line 4, column 11: services.web.restart: found "always", expected a table"#]],
    );
    check_service(
        &restart("{ policy = \"allways\", backof = \"1s\" }"),
        expect![[r#"
        line 4, column 22: services.web.restart.policy: found "allways"; did you mean "always"?
        line 4, column 33: services.web.restart.backof: unknown key; did you mean "backoff"?"#]],
    );
    check_service(
        &restart("{ policy = \"unless-stopped\", backoff = 5 }"),
        expect![[r#"
        line 4, column 22: services.web.restart.policy: found "unless-stopped"; valid: always, on-failure, never
        line 4, column 50: services.web.restart.backoff: found the number 5, expected text: write "5""#]],
    );
    check_service(
        &restart("{ backoff = \"60s..1s\" }"),
        expect![
            "line 4, column 23: services.web.restart.backoff: the first wait, 1m, is longer than the longest, 1s; swap them"
        ],
    );
    check_service(
        &restart("{ backoff = \"0s..60s\" }"),
        expect![[
            r#"line 4, column 23: services.web.restart.backoff: found "0s..60s", expected waits from 100ms to 1h"#
        ]],
    );
    check_service(
        &restart("{ backoff = \"1s...60s\" }"),
        expect![[
            r#"line 4, column 23: services.web.restart.backoff: found "1s...60s", expected the first and the longest wait, like "1s..60s""#
        ]],
    );
}
