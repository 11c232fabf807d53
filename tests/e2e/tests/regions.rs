//! What regions override, and their scales, by the real program in the one region that it has; and how far two of a lab are apart.

mod common;

use std::{thread, time::Duration};

use common::Node;
use insula_bench::lab::{Lab, Programs};
use nix::unistd::geteuid;
use serde_json::Value;

#[test]
fn a_region_has_what_it_overrides_and_a_scale_of_its_own() {
    let node = Node::start("regions");
    let own = node.until("the node knows its region", || {
        let regions = node.insula(&["regions"], "").stdout;
        let regions = String::from_utf8_lossy(&regions).into_owned();
        regions.lines().nth(1).and_then(|line| line.split(' ').next()).map(str::to_owned)
    });
    let all = "regions = [\"*\"]\nenv = { LOG = \"info\" }\nscale = 1\n";
    let with = |more: &str| format!("{all}[services.web.region.{own}]\nenv = {{ REGION = \"here\" }}\n{more}");
    let shop = |lines: &str| {
        let command = "[\"/bin/sh\", \"-c\", \"while :; do echo $REGION $LOG; sleep 1; done\"]";
        format!("app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = {command}\n{lines}")
    };

    // Nothing is changed by what is wrong, and it is told by line.
    let wrong = shop(&format!("{all}[services.web.region.elsewhere]\nscale = 2\n"));
    let refused = node.insula(&["deploy", "-"], &wrong);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{why}");
    let line = wrong.lines().position(|line| line.contains("elsewhere")).expect("it is there") + 1;
    let said = format!("services.web.region.elsewhere: there is no region elsewhere: there is {own}");
    assert!(why.contains(&format!("line {line}, ")) && why.contains(&said), "{why}");
    assert!(!node.say(&["apps"], "").contains("shop"));

    node.say(&["deploy", "-", "--wait", "1m"], &shop(&with("scale = 2\n")));
    let scale = || {
        let status = node.say(&["status", "shop"], "");
        let of_web = status.lines().find(|line| line.starts_with("web ")).expect("its line");
        of_web.split_whitespace().nth(1).and_then(|scale| scale.parse::<u32>().ok()).expect("a number")
    };
    assert_eq!(scale(), 2, "that of the override");
    node.until("it says what it was given", || node.say(&["logs", "shop"], "").contains("here info").then_some(()));
    let written = node.say(&["config", "show", "shop"], "");
    assert!(
        written.contains(&format!("[services.web.region.{own}]\nenv = {{ REGION = \"here\" }}\nscale = 2\n")),
        "{written}"
    );
    let plan = node.say(&["deploy", "-", "--plan"], &written);
    assert!(plan.contains("nothing to change, release 1 is this already"), "{plan}\n{written}");

    // A scale of the region stays over a release that leaves it open, and over the way back.
    let said = node.say(&["scale", "shop/web", "3", "--region", &own], "");
    assert_eq!(said, format!("shop/web: from 2 to 3 instances in {own}\n"));
    let open = shop(&with("priority = 60\n").replace("scale = 1\n", ""));
    node.say(&["deploy", "-", "--wait", "1m"], &open);
    assert_eq!(scale(), 3);
    node.say(&["rollback", "shop", "--to", "1", "--wait", "1m"], "");
    assert_eq!(scale(), 3);
    node.say(&["scale", "shop/web", "1"], "");
    assert_eq!(scale(), 1, "all regions, whatever they had");
    let nowhere = node.insula(&["scale", "shop/web", "3", "--region", "elsewhere"], "");
    assert_eq!(nowhere.status.code(), Some(3), "{}", String::from_utf8_lossy(&nowhere.stderr));
}

/// The round trip between the regions of the lab, and what a busy machine may add to it, in microseconds.
const RTT: &str = "fra-nrt=90ms";
const EXPECTED_US: std::ops::Range<u64> = 89_000..140_000;

#[test]
fn round_trips_between_regions_are_those_of_the_links() {
    if !geteuid().is_root() {
        eprintln!("skipped: a lab needs root");
        return;
    }
    let own = std::env::current_exe().expect("path of this program");
    let programs =
        Programs::in_dir(own.ancestors().nth(2).expect("the directory of built programs")).expect("programs");
    let lab = Lab::up_as(&programs, "e2e-latency", &["--regions", "fra:2,nrt:1", "--rtt", RTT]).expect("a lab");
    let median = |latency: &Value, from: &str, to: &str| {
        let rows = latency["regions"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["region"] == from)?;
        let to = row["to"].as_array()?.iter().find(|one| one["region"] == to)?;
        to["measured"]["p50_us"].as_u64()
    };
    let ask = |at: &str| -> Value {
        let said = lab.on(at, &["latency", "--nodes", "--json"], "").expect("an answer");
        serde_json::from_str(&said).expect("JSON")
    };
    let is_known = |at: &&str| {
        let latency = ask(at);
        let both = [median(&latency, "fra", "nrt"), median(&latency, "nrt", "fra")];
        both.iter().all(Option::is_some).then_some(latency)
    };
    for at in ["n1", "n3"] {
        let known = (0..600).find_map(|_| {
            let known = is_known(&at);
            if known.is_none() {
                thread::sleep(Duration::from_millis(100));
            }
            known
        });
        let latency = known.expect("both directions are known in time");
        for (from, to) in [("fra", "nrt"), ("nrt", "fra")] {
            let us = median(&latency, from, to).expect("known");
            assert!(EXPECTED_US.contains(&us), "{at}: from {from} to {to} in {us} µs");
        }
    }
    let near = ask("n1");
    let us = near["nodes"][0]["to"][0]["measured"]["p50_us"].as_u64().expect("n1 has probed n2");
    assert!(us < EXPECTED_US.start, "between two nodes of a region: {us} µs");
    let text = lab.on("n1", &["latency"], "").expect("a table");
    assert!(text.starts_with("FROM  fra") && text.lines().all(|line| line.chars().count() <= 100), "{text}");

    // What is cut off loses probes, and is as far as it was.
    lab.run(&["cut", "fra", "nrt"]).expect("cut");
    let is_lost = |latency: &Value| {
        let row = latency["regions"].as_array()?.iter().find(|row| row["region"] == "fra")?;
        row["to"][0]["measured"]["lost"].as_u64().filter(|lost| *lost > 0)
    };
    let latency = (0..600).find_map(|_| {
        let latency = ask("n1");
        if is_lost(&latency).is_none() {
            thread::sleep(Duration::from_millis(100));
            return None;
        }
        Some(latency)
    });
    let latency = latency.expect("probes are lost in time");
    assert!(median(&latency, "fra", "nrt").is_some_and(|us| EXPECTED_US.contains(&us)), "{latency}");
    let why = latency["regions"].as_array().expect("rows").iter().find(|row| row["region"] == "nrt").expect("its row");
    assert_eq!(why["why"], "does not answer", "{latency}");
}
