//! `insula explain request`.

use insula_api::{
    Client,
    wire::{HandledRequest, RequestReport, TriedInstance},
};
use insula_types::text::{grouped, utc};

use super::show::facts;
use crate::{
    Failure,
    args::RequestArgs,
    output::{age, say, say_json},
    table::clean,
};

pub async fn explain(client: &Client, args: &RequestArgs) -> Result<(), Failure> {
    let report = client.request(&args.id).await?;
    if args.json.json { say_json(&report) } else { say(&text(&report, client.env().clock.wall_ms())) }
}

fn text(report: &RequestReport, now_ms: u64) -> String {
    let count = report.found.len() as u64 + report.more;
    let mut out = String::new();
    if count > 1 {
        out.push_str(&format!("{} requests had this id, the newest first\n\n", grouped(count)));
    }
    let requests: Vec<String> = report.found.iter().map(|one| request(&report.id.to_string(), one, now_ms)).collect();
    out.push_str(&requests.join("\n"));
    if report.more > 0 {
        out.push_str(&format!("\nand {} before these\n", grouped(report.more)));
    }
    for silent in &report.silent {
        out.push_str(&format!("\n{} {}: what its edge remembers is not shown\n", silent.name, clean(&silent.why)));
    }
    out
}

fn request(id: &str, one: &HandledRequest, now_ms: u64) -> String {
    let mut out = facts(&[
        ("request", id.to_owned()),
        ("came", format!("{} UTC, {} ago", utc(one.came_ms), age(now_ms, one.came_ms))),
        ("to the edge of", one.node_name.to_string()),
        ("from", one.client.to_string()),
        ("asked", format!("{} {}{}", one.method, one.host, one.path)),
        ("service", one.service.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
        ("answer", answer(one)),
        ("cause", one.cause.clone().unwrap_or_default()),
    ]);
    for (index, tried) in one.tries.iter().enumerate() {
        out.push_str(if index == 0 { "\ntried\n" } else { "" });
        let node = tried.node_name.as_ref().map_or_else(|| tried.node.to_string(), ToString::to_string);
        out.push_str(&format!("  {} on {node}: {}\n", tried.instance, clean(&outcome(one, tried))));
    }
    out
}

fn answer(one: &HandledRequest) -> String {
    let took = span(one.took_us);
    match (one.status, &one.text) {
        (None, _) => format!("none: the client went away after {took}"),
        (Some(status), None) => format!("{status} after {took}"),
        (Some(status), Some(text)) => format!("{status} after {took}: {text}"),
    }
}

fn outcome(one: &HandledRequest, tried: &TriedInstance) -> String {
    match (&tried.failure, one.status, &one.cause) {
        (Some(why), _, _) => why.clone(),
        (None, None, _) => "had not answered yet".to_owned(),
        (None, Some(_), None) => "answered".to_owned(),
        (None, Some(_), Some(_)) => "answered, and broke off".to_owned(),
    }
}

/// A time that is written shortly: `0.4 ms`, `12 ms`, `3.2 s`.
fn span(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_api::wire::{EdgeMemory, SilentNode};
    use insula_types::{InstanceId, NodeId, ServiceRef};

    use super::*;

    fn tried(instance: u64, node: &str, failure: Option<&str>) -> TriedInstance {
        TriedInstance {
            instance: InstanceId::new(instance),
            node: NodeId::new(1),
            node_name: node.parse().ok(),
            failure: failure.map(str::to_owned),
        }
    }

    fn handled(
        status: Option<u16>,
        cause: Option<&str>,
        text: Option<&str>,
        tries: Vec<TriedInstance>,
    ) -> HandledRequest {
        HandledRequest {
            node: NodeId::new(1),
            node_name: "n1".parse().expect("a name"),
            came_ms: 60_000,
            client: "192.0.2.7".parse().expect("an address"),
            method: "GET".to_owned(),
            host: "shop.example".to_owned(),
            path: "/cart".to_owned(),
            service: Some(ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"))),
            tries,
            status,
            cause: cause.map(str::to_owned),
            text: text.map(str::to_owned),
            took_us: 12_345,
        }
    }

    fn report(found: Vec<HandledRequest>, more: u64, silent: Vec<SilentNode>) -> String {
        let edge =
            EdgeMemory { node: NodeId::new(1), name: "n1".parse().expect("a name"), since_ms: 0, odd_since_ms: 0 };
        let id = "r-0123456789abcdefghjk".parse().expect("an id");
        text(&RequestReport { id, found, more, edges: vec![edge], silent }, 65_000)
    }

    #[test]
    fn a_request_is_explained() {
        let tries = vec![tried(1, "n2", Some("took no connection")), tried(2, "", None)];
        let good = HandledRequest { took_us: 423, ..handled(Some(200), None, None, tries) };
        expect![[r#"
            request         r-0123456789abcdefghjk
            came            1970-01-01 00:01:00 UTC, 5s ago
            to the edge of  n1
            from            192.0.2.7
            asked           GET shop.example/cart
            service         shop/web
            answer          200 after 0.4 ms

            tried
              i-00000001 on n2: took no connection
              i-00000002 on n-0000000000001: answered
        "#]]
        .assert_eq(&report(vec![good], 0, Vec::new()));
    }

    #[test]
    fn several_with_one_id_are_all_shown() {
        let text = "no instance of shop/web takes connections";
        let why = Some("took no connection\u{1b}[31m");
        let failed = handled(Some(502), Some("connect"), Some(text), vec![tried(1, "n2", why)]);
        let left = HandledRequest { took_us: 3_210_000, ..handled(None, None, None, vec![tried(1, "n2", None)]) };
        let nowhere = HandledRequest {
            service: None,
            ..handled(Some(404), Some("no_route"), Some("no app is published"), Vec::new())
        };
        let half = "the answer broke off behind its head";
        let broken = handled(Some(200), Some("body_broken_off"), Some(half), vec![tried(1, "n2", None)]);
        let silent =
            SilentNode { node: NodeId::new(3), name: "n3".parse().expect("a name"), why: "is down".to_owned() };
        let shown = report(vec![failed, left, nowhere, broken], 1200, vec![silent]);
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        expect![[r#"
            1,204 requests had this id, the newest first

            request         r-0123456789abcdefghjk
            came            1970-01-01 00:01:00 UTC, 5s ago
            to the edge of  n1
            from            192.0.2.7
            asked           GET shop.example/cart
            service         shop/web
            answer          502 after 12 ms: no instance of shop/web takes connections
            cause           connect

            tried
              i-00000001 on n2: took no connection [31m

            request         r-0123456789abcdefghjk
            came            1970-01-01 00:01:00 UTC, 5s ago
            to the edge of  n1
            from            192.0.2.7
            asked           GET shop.example/cart
            service         shop/web
            answer          none: the client went away after 3.2 s

            tried
              i-00000001 on n2: had not answered yet

            request         r-0123456789abcdefghjk
            came            1970-01-01 00:01:00 UTC, 5s ago
            to the edge of  n1
            from            192.0.2.7
            asked           GET shop.example/cart
            service         none
            answer          404 after 12 ms: no app is published
            cause           no_route

            request         r-0123456789abcdefghjk
            came            1970-01-01 00:01:00 UTC, 5s ago
            to the edge of  n1
            from            192.0.2.7
            asked           GET shop.example/cart
            service         shop/web
            answer          200 after 12 ms: the answer broke off behind its head
            cause           body_broken_off

            tried
              i-00000001 on n2: answered, and broke off

            and 1,200 before these

            n3 is down: what its edge remembers is not shown
        "#]]
        .assert_eq(&shown);
    }
}
