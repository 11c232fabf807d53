//! `insula latency`: how far regions, and nodes of one, are from each other, as a matrix where that fits and as a list elsewhere.

use std::collections::BTreeMap;

use insula_api::{
    Client,
    wire::{Latency, RoundTrip},
};

use crate::{
    Failure,
    args::LatencyArgs,
    output::{say, say_json, width},
    table::{Table, clean, wrap},
};

/// Columns that a matrix may have where no terminal says.
const WIDTH_USUAL: usize = 80;

/// Rows by whom they are from; in each, whom it tells of.
type Rows<'a> = BTreeMap<&'a str, BTreeMap<&'a str, RoundTrip>>;

pub async fn run(client: &Client, args: &LatencyArgs) -> Result<(), Failure> {
    let latency = client.latency(args.nodes).await?;
    if args.json.json { say_json(&latency) } else { say(&text(&latency, args.nodes, width())) }
}

fn text(latency: &Latency, with_nodes: bool, width: Option<usize>) -> String {
    let regions: Rows<'_> = latency
        .regions
        .iter()
        .map(|row| (row.region.as_str(), row.to.iter().map(|one| (one.region.as_str(), one.measured)).collect()))
        .collect();
    let mut out = String::new();
    if regions.len() > 1 {
        out.push_str(&grid(&regions, &regions.keys().copied().collect::<Vec<_>>(), width));
        for row in &latency.regions {
            if let Some(why) = &row.why {
                note(
                    &mut out,
                    &format!("{} {}: how far others are from it is not known", row.region, clean(why)),
                    width,
                );
            }
        }
    } else if !with_nodes {
        return "there is one region; `insula latency --nodes` shows how far its nodes are from each other\n"
            .to_owned();
    }
    if with_nodes {
        out.push_str(if out.is_empty() { "" } else { "\n" });
        let nodes: Rows<'_> = latency
            .nodes
            .iter()
            .map(|row| (row.name.as_str(), row.to.iter().map(|one| (one.name.as_str(), one.measured)).collect()))
            .collect();
        let silent = latency.silent.iter().map(|one| one.name.as_str());
        let mut names: Vec<&str> = nodes.keys().copied().chain(silent).collect();
        names.sort_unstable();
        if names.len() > 1 {
            out.push_str(&grid(&nodes, &names, width));
        } else {
            note(&mut out, &format!("{} has one node", latency.region), width);
        }
        for one in &latency.silent {
            note(&mut out, &format!("{} {}: what it measures is not shown", one.name, clean(&one.why)), width);
        }
    }
    out.push('\n');
    note(&mut out, "round trips of the last ten minutes in ms, p50/p99, and lost probes in %", width);
    out
}

fn note(out: &mut String, text: &str, width: Option<usize>) {
    out.push_str(&wrap(text, width));
    out.push('\n');
}

/// A matrix, or a list of what is known where that is wider than the terminal.
fn grid(rows: &Rows<'_>, names: &[&str], width: Option<usize>) -> String {
    let header: Vec<&str> = std::iter::once("FROM").chain(names.iter().copied()).collect();
    let mut matrix = Table::new(&header);
    for from in names {
        let cell = |to: &&str| match rows.get(from).and_then(|row| row.get(to)) {
            _ if from == to => "-".to_owned(),
            Some(measured) => cell(measured),
            None => "?".to_owned(),
        };
        matrix.row(std::iter::once((*from).to_owned()).chain(names.iter().map(cell)));
    }
    let text = matrix.render(None);
    if text.lines().all(|line| line.chars().count() <= width.unwrap_or(WIDTH_USUAL)) {
        return text;
    }
    let mut list = Table::new(&["FROM", "TO", "P50", "P99", "LOST"]);
    for (from, to, measured) in rows.iter().flat_map(|(from, row)| row.iter().map(move |(to, one)| (from, to, one))) {
        let time = |us: Option<u64>| us.map_or_else(|| "?".to_owned(), ms);
        let times = [time(measured.p50_us), time(measured.p99_us)];
        let lost = if measured.lost == 0 { String::new() } else { lost(measured) };
        list.row([(*from).to_owned(), (*to).to_owned()].into_iter().chain(times).chain([lost]));
    }
    list.render(width)
}

/// `266/268`, `266/1402 2%`, or `lost` where nothing was answered.
fn cell(measured: &RoundTrip) -> String {
    match measured.p50_us.zip(measured.p99_us) {
        None if measured.probes == 0 => "?".to_owned(),
        None => "lost".to_owned(),
        Some((p50, p99)) if measured.lost == 0 => format!("{}/{}", ms(p50), ms(p99)),
        Some((p50, p99)) => format!("{}/{} {}", ms(p50), ms(p99), lost(measured)),
    }
}

/// The share of probes that were lost; 0 and 100 are said of none and of all alone.
fn lost(measured: &RoundTrip) -> String {
    let (lost, probes) = (u64::from(measured.lost), u64::from(measured.probes).max(1));
    let percent = (lost * 100).div_ceil(probes);
    format!("{}%", if lost < probes { percent.min(99) } else { percent })
}

/// Milliseconds, with a tenth where they are few.
fn ms(us: u64) -> String {
    if us < 9950 { format!("{:.1}", us as f64 / 1000.0) } else { ((us + 500) / 1000).to_string() }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_api::wire::{NodeLatency, NodeRoundTrip, RegionLatency, RegionRoundTrip, SilentNode};
    use insula_types::NodeId;

    use super::*;

    const fn measured(p50_us: u64, p99_us: u64, probes: u32, lost: u32) -> RoundTrip {
        RoundTrip { p50_us: Some(p50_us), p99_us: Some(p99_us), probes, lost }
    }

    const LOST: RoundTrip = RoundTrip { p50_us: None, p99_us: None, probes: 3, lost: 3 };

    fn region(name: &str, to: &[(&str, RoundTrip)], why: Option<&str>) -> RegionLatency {
        let named = |text: &str| text.parse().expect("a name");
        let to = to.iter().map(|(other, measured)| RegionRoundTrip { region: named(other), measured: *measured });
        RegionLatency { region: named(name), node: None, why: why.map(str::to_owned), to: to.collect() }
    }

    fn node(name: &str, to: &[(&str, RoundTrip)]) -> NodeLatency {
        let named = |text: &str| text.parse().expect("a name");
        let node = NodeId::new(1);
        let to = to.iter().map(|(other, measured)| NodeRoundTrip { node, name: named(other), measured: *measured });
        NodeLatency { node, name: named(name), to: to.collect() }
    }

    fn latency(regions: Vec<RegionLatency>, nodes: Vec<NodeLatency>, silent: &[&str]) -> Latency {
        let silent = silent.iter().map(|name| SilentNode {
            node: NodeId::new(1),
            name: name.parse().expect("a name"),
            why: "is down\u{1b}[31m".to_owned(),
        });
        Latency { region: "fra".parse().expect("a name"), regions, nodes, silent: silent.collect() }
    }

    fn three() -> Vec<RegionLatency> {
        vec![
            region(
                "fra",
                &[("nrt", measured(266_400, 268_500, 120, 0)), ("was", measured(90_049, 91_000, 120, 1))],
                None,
            ),
            region("nrt", &[("fra", measured(265_000, 1_401_900, 120, 119)), ("was", LOST)], None),
            region("was", &[], Some("does not answer")),
        ]
    }

    #[test]
    fn regions_are_a_matrix_with_words_for_what_is_missing() {
        let told = latency(three(), Vec::new(), &[]);
        expect![[r#"
            FROM  fra           nrt      was
            fra   -             266/269  90/91 1%
            nrt   265/1402 99%  -        lost
            was   ?             ?        -
            was does not answer: how far others are from it is not known

            round trips of the last ten minutes in ms, p50/p99, and lost probes in %
        "#]]
        .assert_eq(&text(&told, false, Some(80)));
        expect![[r#"
            FROM  fra           nrt      was
            fra   -             266/269  90/91 1%
            nrt   265/1402 99%  -        lost
            was   ?             ?        -
            was does not answer: how far others are
              from it is not known

            round trips of the last ten minutes in
              ms, p50/p99, and lost probes in %
        "#]]
        .assert_eq(&text(&told, false, Some(40)));
    }

    #[test]
    fn nodes_are_another_one_and_who_is_silent_has_a_row() {
        let near = |us| measured(us, us * 3, 100, 0);
        let nodes = vec![node("n1", &[("n2", near(412)), ("n3", LOST)]), node("n2", &[("n1", near(9_960))])];
        let one = vec![region("fra", &[], None)];
        expect![[r#"
            FROM  n1     n2       n3
            n1    -      0.4/1.2  lost
            n2    10/30  -        ?
            n3    ?      ?        -
            n3 is down [31m: what it measures is not shown

            round trips of the last ten minutes in ms, p50/p99, and lost probes in %
        "#]]
        .assert_eq(&text(&latency(one, nodes, &["n3"]), true, None));
    }

    #[test]
    fn one_region_and_one_node_have_nothing_to_compare() {
        let alone = || latency(vec![region("fra", &[], None)], vec![node("n1", &[])], &[]);
        expect![[r#"
            there is one region; `insula latency --nodes` shows how far its nodes are from each other
        "#]]
        .assert_eq(&text(&alone(), false, None));
        expect![[r#"
            fra has one node

            round trips of the last ten minutes in ms, p50/p99, and lost probes in %
        "#]]
        .assert_eq(&text(&alone(), true, None));
    }

    #[test]
    fn many_regions_are_a_list() {
        let names = ["ams", "fra", "iad", "lhr", "nrt", "sin", "syd", "was"];
        let one = |from: &&str| {
            let others = names.iter().filter(|to| *to != from).map(|to| (*to, measured(100_000, 101_000, 9, 0)));
            region(from, &others.collect::<Vec<_>>(), None)
        };
        let told = latency(names.iter().map(one).collect(), Vec::new(), &[]);
        let list = text(&told, false, Some(75));
        assert!(list.starts_with("FROM  TO   P50  P99\nams   fra  100  101\n"), "{list}");
        assert_eq!(list.lines().count(), 1 + 56 + 2);
        assert!(text(&told, false, Some(120)).starts_with("FROM  ams"), "as there is room");
    }
}
