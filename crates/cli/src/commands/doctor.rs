//! `insula doctor`.

use insula_api::{
    Client,
    wire::{Doctor, Grade, Task},
};

use crate::{
    Exit, Failure,
    output::{say, say_json, width},
    table::{Table, clean, wrap},
};

pub async fn run(client: &Client, json: bool) -> Result<(), Failure> {
    let report = client.doctor().await?;
    if json {
        say_json(&report)?;
    } else {
        say(&text(&report, width()))?;
    }
    if report.is_bad() {
        return Err(Failure::new(Exit::Failed, format!("node {} is not well", clean(&report.node))));
    }
    Ok(())
}

fn text(report: &Doctor, width: Option<usize>) -> String {
    let mut out = String::new();
    for check in &report.checks {
        let grade = match check.grade {
            Grade::Ok => "ok  ",
            Grade::Warn => "warn",
            Grade::Bad => "BAD ",
            Grade::Other => "?   ",
        };
        out.push_str(&format!("{grade}  {}: {}\n", clean(&check.subject), clean(&check.found)));
        for item in &check.items {
            out.push_str(&format!("      - {}\n", clean(item)));
        }
        if let Some(advice) = &check.advice {
            out.push_str(&format!("      {}\n", clean(advice)));
        }
    }
    let out = wrap(&out, width);
    let is_late = |task: &Task| task.beat_age_ms.zip(task.beat_limit_ms).is_some_and(|(age, limit)| age > limit);
    let odd: Vec<&Task> = report.tasks.iter().filter(|task| task.restarts > 0 || is_late(task)).collect();
    if odd.is_empty() {
        return out;
    }
    let mut table = Table::new(&["PROCESS", "OWNER", "TASK", "RULE", "RESTARTS", "LAST BEAT", "LIMIT"])
        .expendable(&["RULE", "OWNER"]);
    for task in &odd {
        let seconds = |ms: Option<u64>| ms.map_or_else(String::new, |ms| format!("{:.1}s", ms as f64 / 1000.0));
        table.row([
            task.process.clone(),
            task.owner.clone(),
            task.name.clone(),
            task.rule.clone(),
            task.restarts.to_string(),
            seconds(task.beat_age_ms),
            seconds(task.beat_limit_ms),
        ]);
    }
    format!("{out}\n{}", table.render(width))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_api::wire::Check;

    use super::*;

    #[test]
    fn a_report_says_what_to_do() {
        let task = Task {
            process: "server".to_owned(),
            owner: "server".to_owned(),
            name: "control".to_owned(),
            rule: "restart".to_owned(),
            restarts: 1,
            beat_age_ms: Some(250),
            beat_limit_ms: Some(15_000),
        };
        let well = Task { restarts: 0, name: "agent".to_owned(), ..task.clone() };
        let report = Doctor {
            node: "n1".to_owned(),
            checks: vec![
                Check::ok("disk space", "40 % of 30 GiB are free"),
                Check::not_ok("clock", Grade::Warn, "900 ms behind the leader's", "set the clocks"),
                Check {
                    items: vec!["mount /a".to_owned(), "interface ins-b".to_owned()],
                    ..Check::not_ok("leftovers", Grade::Warn, "2 things", "take them away")
                },
            ],
            tasks: vec![task, well],
        };
        expect![[r#"
            ok    disk space: 40 % of 30 GiB are free
            warn  clock: 900 ms behind the leader's
                  set the clocks
            warn  leftovers: 2 things
                  - mount /a
                  - interface ins-b
                  take them away

            PROCESS  OWNER   TASK     RULE     RESTARTS  LAST BEAT  LIMIT
            server   server  control  restart  1         0.2s       15.0s
        "#]]
        .assert_eq(&text(&report, None));
        assert!(!report.is_bad());
    }
}
