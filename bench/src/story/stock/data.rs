//! What keeps data on a volume, and has it after a redeploy, a kill and a power cut.

use anyhow::{Result, ensure};

use super::{Stock, look::kill_all};
use crate::{
    interrupt::Interrupt,
    story::{
        stage::{Stage, now_ms},
        step,
    },
};

/// The next release differs by this only.
const RELEASE: (&str, &str) = ("RELEASE = \"1\"", "RELEASE = \"2\"");
/// Rows that are written in one transaction, and one by one just before the power cut.
const ROWS: usize = 1000;
const LAST_ROWS: usize = 100;

/// It answers, and a key outlives a redeploy.
pub(super) fn redis(stage: &Stage, stock: &Stock, definition: &str, interrupt: &Interrupt) -> Result<()> {
    let at = stock.placed(stage)?.asked;
    let said = |words: &[&str], expected: &str| {
        let command = [&["exec", stock.service, "-T", "--", "redis-cli"], words].concat();
        let said = stage.lab.on(&at, &command, "")?;
        ensure!(said.trim() == expected, "{words:?} said {said:?}, not {expected:?}");
        Ok(())
    };
    stage.await_ms("an answer", now_ms(), interrupt, || said(&["ping"], "PONG"))?;
    said(&["set", "greeting", "hello"], "OK")?;
    step("redis: a new release gets the key");
    stage.lab.on(&at, &["deploy", "-", "--wait", "2m"], &definition.replace(RELEASE.0, RELEASE.1))?;
    let kept = || said(&["get", "greeting"], "hello");
    stage.await_ms("the key", now_ms(), interrupt, kept).map(drop)
}

/// What was committed is there after a kill of everything, a redeploy, and a power cut of its node.
pub(super) fn postgres(stage: &Stage, stock: &Stock, definition: &str, interrupt: &Interrupt) -> Result<()> {
    let (lab, first) = (&stage.lab, stock.placed(stage)?);
    let sql = |text: &str| {
        let command =
            ["exec", stock.service, "-i", "-T", "--", "psql", "-U", "postgres", "-qAt", "-v", "ON_ERROR_STOP=1"];
        lab.on(&first.asked, &command, text)
    };
    let has = |rows: usize| {
        let counted = sql("SELECT count(*), count(DISTINCT id) FROM kept;")?;
        ensure!(counted.trim() == format!("{rows}|{rows}"), "{counted} rows, not {rows}");
        Ok(())
    };
    let create = || sql("CREATE TABLE kept (id serial PRIMARY KEY, word text NOT NULL);").map(drop);
    stage.await_ms("a table", now_ms(), interrupt, create)?;
    sql(&format!("INSERT INTO kept (word) SELECT md5(n::text) FROM generate_series(1, {ROWS}) AS n;"))?;
    has(ROWS)?;

    step("postgres: kill -9 of all its processes");
    let begun_ms = now_ms();
    kill_all(&first.instance)?;
    println!("   {:.2} s  all rows", seconds(stage.await_ms("the rows", begun_ms, interrupt, || has(ROWS))?));

    step("postgres: a new release");
    let begun_ms = now_ms();
    lab.on(&first.asked, &["deploy", "-", "--wait", "2m"], &definition.replace(RELEASE.0, RELEASE.1))?;
    println!("   {:.2} s  all rows", seconds(stage.await_ms("the rows", begun_ms, interrupt, || has(ROWS))?));

    step(&format!("postgres: power cut of {} after {LAST_ROWS} commits", first.home));
    sql(&"INSERT INTO kept (word) VALUES ('the last');\n".repeat(LAST_ROWS))?;
    lab.run(&["poweroff", &first.home])?;
    let begun_ms = now_ms();
    lab.run(&["poweron", &first.home])?;
    let all = || has(ROWS + LAST_ROWS);
    println!("   {:.2} s  all rows", seconds(stage.await_ms("the rows", begun_ms, interrupt, all)?));
    // What is done next starts from a whole lab.
    stage.await_ms("the node", begun_ms, interrupt, || stage.state_answers(&first.home)).map(drop)
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
