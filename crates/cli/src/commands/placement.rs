//! `insula explain placement`.

use insula_api::{Client, wire::PlacementSurvey};

use crate::{
    Failure,
    args::PlacementArgs,
    output::{say, say_json, width},
    table::{Table, clean},
};

pub async fn explain(client: &Client, args: &PlacementArgs) -> Result<(), Failure> {
    let survey = client.survey(&args.service).await?;
    if args.json.json { say_json(&survey) } else { say(&text(&survey.value, width())) }
}

fn text(survey: &PlacementSurvey, width: Option<usize>) -> String {
    let service = &survey.service;
    let best = survey.nodes.first().filter(|node| node.standing.is_some());
    let mut out = match best {
        Some(best) => format!("the next instance of {service} would go to {}\n\n", best.node),
        None => format!("no node takes an instance of {service} now\n\n"),
    };
    let mut table = Table::new(&["NODE", "IN GROUP", "ON NODE", "LACKS", "FREE", "WHY NOT"]);
    for node in &survey.nodes {
        let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let standing = node.standing;
        table.row([
            node.node.to_string(),
            number(standing.map(|one| one.in_group)),
            number(standing.map(|one| one.on_node)),
            number(standing.map(|one| one.lacks)),
            standing.map_or_else(|| "-".to_owned(), |one| format!("{} %", one.free_percent)),
            node.why_not.clone(),
        ]);
    }
    out.push_str(&table.render(width));
    if let Some(waiting) = &survey.waiting {
        out.push_str(&format!("\nwaiting: {}\n", clean(waiting)));
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_api::wire::{Standing, SurveyedNode};
    use insula_types::ServiceRef;

    use super::*;

    #[test]
    fn nodes_are_shown_in_the_order_in_which_they_would_be_taken() {
        let node = |name: &str, standing: Option<(u32, u32, u32, u32)>, why_not: &str| SurveyedNode {
            node: name.parse().expect("a name"),
            standing: standing.map(|(in_group, on_node, lacks, free_percent)| Standing {
                in_group,
                on_node,
                lacks,
                free_percent,
            }),
            why_not: why_not.to_owned(),
        };
        let service = ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"));
        let down = node("n3", None, "that node is down: bring it back");
        let nodes = vec![node("n2", Some((1, 0, 0, 80)), ""), node("n1", Some((2, 1, 1, 64)), ""), down.clone()];
        expect![[r#"
            the next instance of shop/web would go to n2

            NODE  IN GROUP  ON NODE  LACKS  FREE  WHY NOT
            n2    1         0        0      80 %
            n1    2         1        1      64 %
            n3    -         -        -      -     that node is down: bring it back
        "#]]
        .assert_eq(&text(&PlacementSurvey { service: service.clone(), nodes, waiting: None }, Some(100)));
        let waiting = Some("1 of shop/web waits for room".to_owned());
        let none = text(&PlacementSurvey { service, nodes: vec![down], waiting }, Some(100));
        assert!(none.ends_with("\nwaiting: 1 of shop/web waits for room\n"), "{none}");
        assert!(none.starts_with("no node takes an instance of shop/web now\n"), "{none}");
    }
}
