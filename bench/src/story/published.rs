//! A published Compose file of web, database and cache, deployed with the few changes that it needs: all of it runs and is healthy, the web
//! answers at every edge, and what is on volumes outlives kills, restarts and releases.
//!
//! The images are made of Debian's packages (`bench/stock`) and stand in for those that the file names: MariaDB and Redis for
//! themselves, Apache with PHP and a page of a few lines for Nextcloud.

use anyhow::{Context, Result, ensure};

use super::{
    stage::{Stage, now_ms},
    step,
    stock::{
        cache,
        look::kill_all,
        recipe::{self, Recipe},
    },
};
use crate::interrupt::Interrupt;

/// `nextcloud-redis-mariadb/compose.yaml` of docker/awesome-compose, as it is published.
const PUBLISHED: &str = include_str!("../../../crates/types/src/definition/compose/nextcloud.yaml");

macro_rules! recipe {
    ($name:literal) => {
        Recipe {
            name: $name,
            image: include_str!(concat!("../../stock/", $name, "/image.json")),
            setup: include_str!(concat!("../../stock/", $name, "/setup.sh")),
        }
    };
}

/// What the file names, and what is pushed as it.
const IMAGES: [(&str, Recipe); 3] =
    [("nextcloud:apache", recipe!("site")), ("mariadb:10.5", recipe!("mariadb")), ("redis:alpine", recipe!("redis"))];

/// What is changed besides images: where, what is added there, and why.
const CHANGES: [(&str, &str, &str); 4] = [
    (
        "    image: nextcloud:apache\n",
        "    x-insula: { routes: [{ host: cloud.example }], health: { http: /status.php, grace: 2m }, resources: { memory: 512MiB } }\n",
        "visitors come by host name; ready when its page says so; more memory than 128 MiB",
    ),
    (
        "    image: mariadb:10.5\n",
        "    x-insula: { health: { tcp: true, grace: 2m }, resources: { memory: 512MiB } }\n",
        "ready when it takes connections; more memory than 128 MiB",
    ),
    ("  db_data:\n", "    x-insula: { size: 512MiB }\n", "5 GiB is more than this lab's disks have"),
    ("  nc_data:\n", "    x-insula: { size: 64MiB }\n", "the same"),
];

const HOST: &str = "cloud.example";
const DB: &str = "cloud/db";
/// Rows that are written before each fault.
const ROWS: usize = 500;

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    step("nextcloud-redis-mariadb of awesome-compose, as it is published");
    let published = Published { stage, interrupt };
    let refused = published.deploy(PUBLISHED).err().context("a file with tags in the place of digests was taken")?;
    let refused = format!("{refused:#}");
    ensure!(refused.matches("it has no digest").count() == IMAGES.len(), "{refused}");
    refused.lines().filter(|line| line.contains("it has no digest")).for_each(|line| println!("   {}", line.trim()));

    let file = published.changed()?;
    step("the same with digests, a route, health and sizes: deployed");
    let begun_ms = now_ms();
    let said = published.deploy(&file)?;
    said.lines().filter(|line| line.contains("warning")).for_each(|line| println!("   {}", line.trim()));
    println!("   {:.1} s", seconds_since(begun_ms));
    published.all_ready()?;
    for node in &stage.nodes {
        let page = published.page(&node.name)?;
        println!("   at {}: {}", node.name, page.trim().replace('\n', "; "));
        ensure!(page.contains("to php 8 as www-data"), "{HOST} says {page:?} at {}", node.name);
    }
    for (variable, name) in [("MYSQL_HOST", "db"), ("REDIS_HOST", "redis")] {
        let script = format!("echo ${variable}: $(getent hosts ${variable} || echo no address)");
        let said = stage.lab.on("n1", &["exec", "cloud/nc", "-T", "--", "/bin/sh", "-c", &script], "")?;
        println!("   {variable} in nc is {}", said.trim());
        // To be turned around once services reach each other by name.
        ensure!(
            said.trim() == format!("{name}: no address"),
            "{name} has a name: say so in docs/operations/compose.md"
        );
    }
    let answer = stage.lab.on("n1", &["exec", "cloud/redis", "-T", "--", "redis-cli", "ping"], "")?;
    ensure!(answer.trim() == "PONG", "redis says {answer:?}");
    published.keeps(&file)?;
    stage.lab.on("n1", &["rm", "cloud", "--yes"], "")?;
    Ok(Vec::new())
}

struct Published<'a> {
    stage: &'a Stage,
    interrupt: &'a Interrupt,
}

impl Published<'_> {
    /// What a person would deploy: every change is one that is needed.
    fn changed(&self) -> Result<String> {
        let mut file = PUBLISHED.to_owned();
        for (place, added, why) in CHANGES {
            ensure!(file.matches(place).count() == 1, "the file has no {place:?} any more");
            println!("   + {} ({why})", added.trim());
            file = file.replace(place, &format!("{place}{added}"));
        }
        for (name, recipe) in &IMAGES {
            let made = recipe::make(recipe, &cache(self.stage))?;
            let how = if made.is_cached { "made before" } else { "made now" };
            let (layer, config) = (made.layer.display().to_string(), made.config.to_string());
            let (image, tag) = name.split_once(':').context("an image without a tag")?;
            let push = ["image", image, "--tag", tag, "--layer", &layer, "--config", &config];
            let reference = self.stage.lab.run(&push)?.trim().to_owned();
            println!("   {name}: {} of Debian's packages, {how}: {reference}", recipe.name);
            file = file.replace(&format!("image: {name}\n"), &format!("image: {reference}\n"));
        }
        Ok(file)
    }

    /// From a file on a node, as a person does it.
    fn deploy(&self, file: &str) -> Result<String> {
        let script = format!(
            "mkdir -p /tmp/cloud && cat >/tmp/cloud/compose.yaml <<'END'\n{file}END\n\
             insula deploy /tmp/cloud/compose.yaml --wait 5m 2>&1"
        );
        self.stage.lab.run(&["exec", "n1", "--", "/bin/bash", "-c", &script])
    }

    fn all_ready(&self) -> Result<()> {
        let is_so = || {
            let instances = self.stage.lab.items("n1", &["ps", "cloud"])?;
            let ready = instances.iter().filter(|one| one["is_ready"] == true).count();
            ensure!(
                (instances.len(), ready) == (IMAGES.len(), IMAGES.len()),
                "{ready} of {} are ready",
                instances.len()
            );
            Ok(())
        };
        self.stage.await_ms("all three services", now_ms(), self.interrupt, is_so).map(drop)
    }

    fn page(&self, at: &str) -> Result<String> {
        let ask = || self.stage.page(at, HOST, "/");
        self.stage.await_ms("its page", now_ms(), self.interrupt, || ask().map(drop))?;
        ask()
    }

    fn sql(&self, text: &str) -> Result<String> {
        let client = ["mariadb", "-h127.0.0.1", "-unextcloud", "-pnextcloud", "-N", "-B", "nextcloud"];
        self.stage.lab.on("n1", &[&["exec", DB, "-i", "-T", "--"][..], &client].concat(), text)
    }

    /// Waits until all rows are there.
    fn has(&self, rows: usize) -> Result<()> {
        let begun_ms = now_ms();
        let has = || {
            let counted = self.sql("SELECT count(*), count(DISTINCT id) FROM kept;")?;
            ensure!(counted.trim() == format!("{rows}\t{rows}"), "{counted:?}, not {rows} rows");
            Ok(())
        };
        self.stage.await_ms("the rows", begun_ms, self.interrupt, has)?;
        println!("   {:.2} s  all {rows} rows", seconds_since(begun_ms));
        Ok(())
    }

    fn write(&self) -> Result<()> {
        // One transaction each: all that was answered is confirmed.
        self.sql(&"INSERT INTO kept (word) VALUES (uuid());\n".repeat(ROWS)).map(drop)
    }

    fn instance(&self, service: &str) -> Result<String> {
        let instances = self.stage.lab.items("n1", &["ps", "cloud"])?;
        let found = instances.iter().find(|one| one["service"] == service).and_then(|one| one["id"].as_str());
        found.map(str::to_owned).with_context(|| format!("no instance of {service}"))
    }

    /// Kills, another release and a restart lose no row and no visit.
    fn keeps(&self, file: &str) -> Result<()> {
        self.sql("CREATE TABLE kept (id int PRIMARY KEY AUTO_INCREMENT, word text NOT NULL);")?;
        self.write()?;
        step("kill -9 of all processes of the database");
        kill_all(&self.instance("db")?)?;
        self.has(ROWS)?;
        self.write()?;
        step("another release: the database with one more setting, the others as they are");
        let (nc, db) = (self.instance("nc")?, self.instance("db")?);
        let setting = "--binlog-format=ROW";
        let begun_ms = now_ms();
        self.deploy(&file.replace(setting, &format!("{setting} --max-connections=50")))?;
        println!("   {:.1} s", seconds_since(begun_ms));
        self.has(2 * ROWS)?;
        let setting = self.sql("SELECT @@max_connections, @@binlog_format;")?;
        ensure!(setting.trim() == "50\tROW", "the settings are {setting:?}");
        ensure!(self.instance("nc")? == nc && self.instance("db")? != db, "not the database alone was replaced");
        let visits = |page: &str| page.split(' ').nth(1).and_then(|count| count.parse::<u32>().ok()).context("visits");
        let before = visits(&self.page("n2")?)?;
        step("insula restart cloud");
        let begun_ms = now_ms();
        self.stage.lab.on("n1", &["restart", "cloud", "--wait", "5m"], "")?;
        println!("   {:.1} s", seconds_since(begun_ms));
        self.all_ready()?;
        self.has(2 * ROWS)?;
        let now = visits(&self.page("n2")?)?;
        ensure!(now > before, "visit {now} came after visit {before}: the volume of the web is another");
        println!("   visit {now} after visit {before}");
        Ok(())
    }
}

fn seconds_since(begun_ms: u64) -> f64 {
    now_ms().saturating_sub(begun_ms) as f64 / 1000.0
}
