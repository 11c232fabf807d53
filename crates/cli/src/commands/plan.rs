//! `insula plan --if-lost`.

use std::collections::BTreeMap;

use insula_api::{
    Client,
    wire::{LossKind, LossOutcome, LossPlan},
};

use super::show::node_key;
use crate::{
    Exit, Failure,
    args::PlanArgs,
    output::{say, say_json, width},
    table::{Table, clean},
};

pub async fn run(client: &Client, args: &PlanArgs) -> Result<(), Failure> {
    let [kind, name] = &args.if_lost[..] else {
        return Err(Failure::usage("--if-lost takes what is lost and its name, like --if-lost node n3".to_owned()));
    };
    if !["node", "datacenter"].contains(&kind.as_str()) {
        let said = format!("{kind:?} cannot be lost: write --if-lost node NAME, or --if-lost datacenter NAME");
        return Err(Failure::usage(said));
    }
    let plan = client.loss(kind, node_key(name)?).await?;
    if args.json.json {
        say_json(&plan)?;
    } else {
        say(&text(&plan.value, width()))?;
    }
    let short = short(&plan.value);
    if !plan.value.keeps_majority {
        return Err(Failure::new(Exit::Failed, "the region would have no majority of its voters".to_owned()));
    }
    if short > 0 {
        return Err(Failure::new(
            Exit::Failed,
            format!("{short} of {} would find no place", plan.value.instances.len()),
        ));
    }
    Ok(())
}

/// Instances that would find no place, those that give theirs to others included.
fn short(plan: &LossPlan) -> usize {
    let is_given = |one: &&LossOutcome| one.outcome == LossKind::GivesWay && one.to.is_none();
    count(plan, LossKind::Short) + plan.instances.iter().filter(is_given).count()
}

fn count(plan: &LossPlan, kind: LossKind) -> usize {
    plan.instances.iter().filter(|one| one.outcome == kind).count()
}

fn text(plan: &LossPlan, width: Option<usize>) -> String {
    let nodes: Vec<&str> = plan.nodes.iter().map(|name| name.as_str()).collect();
    if nodes.is_empty() {
        return "it is down already: what could be replaced has been\n".to_owned();
    }
    let mut out = format!(
        "without {}: {} replaced, {} short, {} gone with their nodes\n",
        nodes.join(", "),
        count(plan, LossKind::Replaced),
        short(plan),
        count(plan, LossKind::Ends)
    );
    if !plan.keeps_majority {
        out.push_str("the region would have no majority of its voters: nothing would be replaced until it is back\n");
    }
    let mut table = Table::new(&["INSTANCE", "SERVICE", "FROM", "TO"]);
    let mut whys: BTreeMap<&str, usize> = BTreeMap::new();
    for one in &plan.instances {
        let to = match (&one.to, one.outcome) {
            (Some(node), _) => node.to_string(),
            (None, LossKind::Ends) => "-".to_owned(),
            (None, _) => "nowhere".to_owned(),
        };
        table.row([one.instance.to_string(), one.service.to_string(), one.from.to_string(), to]);
        if one.outcome == LossKind::Short || one.outcome == LossKind::GivesWay && one.to.is_none() {
            one.reasons.iter().for_each(|why| *whys.entry(why).or_default() += 1);
        }
    }
    if !plan.instances.is_empty() {
        out.push('\n');
        out.push_str(&table.render(width));
    }
    for (index, (why, instances)) in whys.into_iter().enumerate() {
        out.push_str(if index == 0 { "\nno place\n" } else { "" });
        out.push_str(&format!("  {instances} × {}\n", clean(why)));
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_types::{InstanceId, ServiceRef};

    use super::*;

    fn outcome(id: u64, outcome: LossKind, to: Option<&str>, why: &str) -> LossOutcome {
        LossOutcome {
            instance: InstanceId::new(id),
            service: ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name")),
            from: "n1".parse().expect("a name"),
            outcome,
            to: to.map(|name| name.parse().expect("a name")),
            reasons: vec![why.to_owned()],
        }
    }

    #[test]
    fn a_loss_is_told_with_what_finds_no_place() {
        let plan = LossPlan {
            nodes: vec!["n1".parse().expect("a name")],
            keeps_majority: false,
            instances: vec![
                outcome(1, LossKind::Replaced, Some("n2"), "the most free"),
                outcome(2, LossKind::Short, None, "no room on any of 1 nodes"),
                outcome(3, LossKind::Short, None, "no room on any of 1 nodes"),
                outcome(4, LossKind::Ends, None, "each node has one of its own"),
                outcome(5, LossKind::GivesWay, Some("n2"), "it would give its place to shop/db"),
                outcome(6, LossKind::GivesWay, None, "it would give its place to shop/db"),
            ],
        };
        expect![[r#"
            without n1: 1 replaced, 3 short, 1 gone with their nodes
            the region would have no majority of its voters: nothing would be replaced until it is back

            INSTANCE    SERVICE   FROM  TO
            i-00000001  shop/web  n1    n2
            i-00000002  shop/web  n1    nowhere
            i-00000003  shop/web  n1    nowhere
            i-00000004  shop/web  n1    -
            i-00000005  shop/web  n1    n2
            i-00000006  shop/web  n1    nowhere

            no place
              1 × it would give its place to shop/db
              2 × no room on any of 1 nodes
        "#]]
        .assert_eq(&text(&plan, None));
        let down = LossPlan { nodes: Vec::new(), keeps_majority: true, instances: Vec::new() };
        assert_eq!(text(&down, None), "it is down already: what could be replaced has been\n");
    }
}
