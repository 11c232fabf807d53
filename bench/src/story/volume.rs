//! An app with data: its volume outlives releases, kills and power cuts, goes back to a snapshot after a mistake, and is deleted
//! only by its name.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// Writes who made the volume, once and durably, and a line for each start; serves both.
const DEFINITION: &str = r#"
app = "db"

[services.store]
image = "IMAGE"
command = ["/bin/busybox", "sh", "-c", """
cd /data
[ -e first ] || { echo "$INSULA_INSTANCE" >new && /bin/busybox sync && /bin/busybox mv new first; }
echo "$INSULA_INSTANCE" >>starts
/bin/busybox sync
exec /bin/busybox httpd -f -p 8080 -h /data
"""]
env = { RELEASE = "1" }
init = true
scale = 1
ports = [{ name = "http", port = 8080, protocol = "http" }]
routes = [{ host = "db.example", path = "/" }]
resources = { cpu = "50m", memory = "32MiB", pids = 32 }
health = { http = "/first", interval = "500ms", timeout = "400ms", grace = "20s" }
volumes = [{ name = "data", path = "/data", size = "32MiB" }]
"#;
const VOLUME: &str = "db/store/data.0";
const SNAPSHOT: &str = "before-mistake";
/// From the node's power to an answer with the data.
const BUDGET: Duration = Duration::from_secs(20);

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let lab = &stage.lab;
    step("deploy db: one instance with a volume of its own");
    let image = lab.run(&["image", "db", "--tag", "v1"])?.trim().to_owned();
    let definition = DEFINITION.replace("IMAGE", &image);
    print!("{}", lab.on("n1", &["deploy", "-", "--wait", "2m"], &definition)?);
    print!("{}", lab.on("n1", &["volume", "ls"], "")?);
    let volume = one(stage, "n1", &["volume", "ls"])?;
    let home = text(&volume["node_name"])?;
    let asked = stage.nodes.iter().map(|node| node.name.clone()).find(|name| *name != home).context("one node only")?;
    let maker = text(&volume["instance"])?;
    stage.await_ms("the page of db", now_ms(), interrupt, || has_data(stage, &asked, &maker, 1))?;
    let mut broken = Vec::new();
    let mut promise = |what: &str, kept: Result<u64>| match kept {
        Ok(ms) => println!("   {:.2} s  {what}", ms as f64 / 1000.0),
        Err(error) => broken.push(format!("{what}: {error:#}")),
    };

    step("a new release: the old instance goes, the new one gets its data on the same node");
    let begun_ms = now_ms();
    print!("{}", lab.on("n1", &["deploy", "-", "--wait", "2m"], &definition.replace("\"1\"", "\"2\""))?);
    promise("the data of the first", stage.await_ms("db", begun_ms, interrupt, || has_data(stage, &asked, &maker, 2)));
    let second = one(stage, &asked, &["ps", "db"])?;
    ensure!(text(&second["node_name"])? == home, "the new release went elsewhere: {second}");

    step(&format!("kill -9 of everything on {home}"));
    let begun_ms = now_ms();
    lab.run(&["kill", &home])?;
    lab.run(&["poweron", &home])?;
    promise("the data after a kill", stage.await_ms("db", begun_ms, interrupt, || has_data(stage, &asked, &maker, 3)));

    step(&format!("power cut of {home}: nobody else has the data, so nobody else takes its place"));
    lab.run(&["poweroff", &home])?;
    let told = || {
        let events = lab.on(&asked, &["events"], "")?;
        let said = format!("volume {VOLUME} is on node {home}, which is down");
        ensure!(events.contains(&said), "no event says that {said}");
        Ok(())
    };
    promise("it is said plainly", stage.await_ms("an event", now_ms(), interrupt, told));
    print!("{}", lab.on(&asked, &["ps", "db"], "")?);
    print!("{}", lab.on(&asked, &["volume", "ls"], "")?);
    let begun_ms = now_ms();
    lab.run(&["poweron", &home])?;
    let back = stage.await_ms("db", begun_ms, interrupt, || has_data(stage, &asked, &maker, 4));
    let in_time = match back {
        Ok(ms) if u128::from(ms) > 2 * BUDGET.as_millis() => Err(anyhow!("only {ms} ms after the power came back")),
        back => back,
    };
    promise("the data after a power cut", in_time);

    step("a snapshot while db serves; then somebody overwrites the data, and gets it back");
    let snapshot = |arguments: &[&str]| lab.on(&asked, &[&["volume", "snapshot"], arguments].concat(), "");
    print!("{}", snapshot(&["create", VOLUME, SNAPSHOT])?);
    promise(
        "the data beside a snapshot",
        stage.await_ms("db", now_ms(), interrupt, || has_data(stage, &asked, &maker, 4)),
    );
    print!("{}", snapshot(&["ls"])?);
    let mistake = "echo lost >/data/first";
    lab.on(&asked, &["exec", "db/store", "--", "/bin/busybox", "sh", "-c", mistake], "")?;
    ensure!(has_data(stage, &asked, &maker, 4).is_err(), "nothing was overwritten");
    ensure!(snapshot(&["restore", VOLUME, SNAPSHOT, "--yes"]).is_err(), "a volume in use was restored");
    lab.on(&asked, &["scale", "db/store", "0"], "")?;
    let restored = || snapshot(&["restore", VOLUME, SNAPSHOT, "--yes"]).map(|said| print!("{said}"));
    stage.await_ms("db to end", now_ms(), interrupt, restored)?;
    let begun_ms = now_ms();
    lab.on(&asked, &["scale", "db/store", "1"], "")?;
    let back = stage.await_ms("db", begun_ms, interrupt, || has_data(stage, &asked, &maker, 5));
    promise("the data of the snapshot", back);
    ensure!(snapshot(&["rm", VOLUME, "before", "--yes"]).is_err(), "a name was taken that is not exact");
    snapshot(&["rm", VOLUME, SNAPSHOT, "--yes"])?;
    let left = lab.items(&asked, &["volume", "snapshot", "ls"])?;
    ensure!(left.is_empty(), "{left:?} is left");

    step("the volume is larger, and deleted only by its name when nobody has it");
    lab.on(&asked, &["volume", "resize", VOLUME, "48MiB"], "")?;
    let refused = lab.on(&asked, &["volume", "rm", VOLUME, "--yes"], "");
    ensure!(refused.is_err(), "a volume in use was deleted");
    lab.on(&asked, &["rm", "db", "--yes"], "")?;
    let gone = || lab.on(&asked, &["volume", "rm", VOLUME, "--yes"], "").map(drop);
    stage.await_ms("db to end", now_ms(), interrupt, gone)?;
    let none = || {
        let left = lab.items(&asked, &["volume", "ls"])?;
        ensure!(left.is_empty(), "{left:?} is left");
        Ok(())
    };
    stage.await_ms("the volume to go", now_ms(), interrupt, none)?;
    Ok(broken)
}

/// Whether the page of db says that this instance made its data, and that so many instances have begun since.
fn has_data(stage: &Stage, at: &str, maker: &str, starts: usize) -> Result<()> {
    let (first, begun) = (stage.page(at, "db.example", "/first")?, stage.page(at, "db.example", "/starts")?);
    ensure!(first.trim() == maker, "{first} made it, not {maker}");
    ensure!(begun.lines().count() >= starts, "only {} have begun", begun.lines().count());
    Ok(())
}

fn one(stage: &Stage, at: &str, arguments: &[&str]) -> Result<Value> {
    let items = stage.lab.items(at, arguments)?;
    ensure!(items.len() == 1, "not one: {items:?}");
    Ok(items.into_iter().next().unwrap_or_default())
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}
