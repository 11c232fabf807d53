//! Unchanged images, made by scripts from Debian's packages: each serves under full isolation, with the settings that its
//! definition in `bench/stock` shows.

mod data;
pub(super) mod look;
pub(super) mod recipe;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::{look::look, recipe::Recipe};
use super::{
    stage::{Stage, now_ms},
    step,
};
use crate::interrupt::Interrupt;

/// From a request to stop to the end of the last process; the grace before KILL is longer.
const STOPPED_WITHIN_MS: u64 = 8_000;

/// An image, what is deployed of it, and how it shows that it works.
struct Stock {
    recipe: Recipe,
    definition: &'static str,
    service: &'static str,
    shows: Shows,
}

/// How it is seen to work.
enum Shows {
    /// A page of that host with this text in it.
    Page(&'static str, &'static str),
    Redis,
    Postgres,
}

macro_rules! stock {
    ($name:literal, $service:literal, $shows:expr) => {
        Stock {
            recipe: Recipe {
                name: $name,
                image: include_str!(concat!("../../stock/", $name, "/image.json")),
                setup: include_str!(concat!("../../stock/", $name, "/setup.sh")),
            },
            definition: include_str!(concat!("../../stock/", $name, "/app.toml")),
            service: $service,
            shows: $shows,
        }
    };
}

const STOCK: [Stock; 6] = [
    stock!("postgres", "db/postgres", Shows::Postgres),
    stock!("nginx", "nginx/web", Shows::Page("nginx.example", "served by nginx")),
    stock!("php", "php/web", Shows::Page("php.example", "php 8 says 42 as www-data")),
    stock!("redis", "cache/redis", Shows::Redis),
    stock!("node", "node/web", Shows::Page("node.example", "says 42 as node")),
    stock!("python", "python/web", Shows::Page("python.example", "python 3 says 42 as app")),
];

/// An instance of the one service of an app, and where to ask for it: on another node than its own.
struct Placed {
    instance: String,
    home: String,
    asked: String,
}

/// What is said of one in the end.
struct Row {
    name: &'static str,
    image_bytes: u64,
    deploy_ms: u64,
    stop_ms: u64,
    memory: u64,
    users: Vec<u32>,
    is_read_only: bool,
}

/// Tells it; gives the promises that were broken.
pub(super) fn tell(stage: &Stage, interrupt: &Interrupt) -> Result<Vec<String>> {
    let (mut rows, mut broken) = (Vec::new(), Vec::new());
    for stock in &STOCK {
        match show(stage, stock, interrupt) {
            Ok(row) => {
                if row.stop_ms > STOPPED_WITHIN_MS {
                    broken.push(format!("{} took {} ms to stop", row.name, row.stop_ms));
                }
                rows.push(row);
            }
            Err(error) => {
                println!("   BROKEN: {error:#}");
                broken.push(format!("{}: {error:#}", stock.recipe.name));
                clear(stage, stock).ok();
            }
        }
    }
    print_table(&rows);
    Ok(broken)
}

fn show(stage: &Stage, stock: &'static Stock, interrupt: &Interrupt) -> Result<Row> {
    let Stage { lab, .. } = stage;
    let name = stock.recipe.name;
    step(&format!("{name}: an image of Debian's packages"));
    let begun_ms = now_ms();
    let made = recipe::make(&stock.recipe, &cache(stage))?;
    let image_bytes = made.layer.metadata().context("look at the layer")?.len();
    let how = if made.is_cached { "made before" } else { "made now" };
    println!("   {:.1} s  {how}, {} MiB compressed", seconds_since(begun_ms), image_bytes >> 20);
    let (layer, config) = (made.layer.display().to_string(), made.config.to_string());
    let image = lab.run(&["image", name, "--tag", "stock", "--layer", &layer, "--config", &config])?.trim().to_owned();
    let definition = stock.definition.replace("IMAGE", &image);

    step(&format!("{name}: deployed"));
    let begun_ms = now_ms();
    lab.on("n1", &["deploy", "-", "--wait", "5m"], &definition)?;
    let deploy_ms = now_ms().saturating_sub(begun_ms);
    println!("   {:.1} s", deploy_ms as f64 / 1000.0);
    match stock.shows {
        Shows::Page(host, text) => {
            let placed = stock.placed(stage)?;
            let shown = || {
                let page = stage.page(&placed.asked, host, "/")?;
                ensure!(page.contains(text), "the page says {page:?}, not {text:?}");
                Ok(())
            };
            stage.await_ms("its page", now_ms(), interrupt, shown)?;
            println!("   {host} says {text:?} at the edge of {}", placed.asked);
        }
        Shows::Redis => data::redis(stage, stock, &definition, interrupt)?,
        Shows::Postgres => data::postgres(stage, stock, &definition, interrupt)?,
    }
    let placed = stock.placed(stage)?;
    let seen = look(&placed.instance)?;

    step(&format!("{name}: removed"));
    let begun_ms = now_ms();
    clear(stage, stock)?;
    let ended = || {
        let left: Vec<_> = seen.processes.iter().filter(|pid| look::is_alive(**pid)).collect();
        ensure!(left.is_empty(), "processes {left:?} are left");
        Ok(())
    };
    let stop_ms = stage.await_ms("its end", begun_ms, interrupt, ended)?;
    // The disks of all nodes are one disk: it need not bear all images at once.
    let gone = || lab.on("n1", &["image", "rm", &image], "").map(drop);
    stage.await_ms("its image to go", now_ms(), interrupt, gone)?;
    Ok(Row {
        name,
        image_bytes,
        deploy_ms,
        stop_ms,
        memory: seen.memory,
        users: seen.users,
        is_read_only: seen.is_root_read_only,
    })
}

impl Stock {
    fn app(&self) -> &'static str {
        self.service.split('/').next().unwrap_or_default()
    }

    /// Its only instance.
    fn placed(&self, stage: &Stage) -> Result<Placed> {
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"));
        let mut found = Vec::new();
        // A node without power answers no questions.
        let at = stage.lab.nodes()?.into_iter().find(|node| node.server.is_some()).context("no node is on")?.name;
        for one in stage.lab.items(&at, &["ps", self.app()])? {
            if one["is_ready"] == true {
                found.push((text(&one["id"])?, text(&one["node_name"])?));
            }
        }
        let [(instance, home)] = &found[..] else { anyhow::bail!("not one instance is ready: {found:?}") };
        let asked = stage.nodes.iter().map(|node| &node.name).find(|name| *name != home).context("one node only")?;
        Ok(Placed { instance: instance.clone(), home: home.clone(), asked: asked.clone() })
    }
}

/// Where images are kept, so that the next time is quick: beside the directory of the built program.
pub(super) fn cache(stage: &Stage) -> PathBuf {
    let program = &stage.lab.programs().insula;
    let built = program.ancestors().nth(2).map_or_else(PathBuf::new, PathBuf::from);
    built.join("stock")
}

fn clear(stage: &Stage, stock: &Stock) -> Result<()> {
    stage.lab.on("n1", &["rm", stock.app(), "--yes"], "").map(drop)
}

fn seconds_since(begun_ms: u64) -> f64 {
    now_ms().saturating_sub(begun_ms) as f64 / 1000.0
}

fn print_table(rows: &[Row]) {
    println!(
        "\n{:<10} {:>9} {:>9} {:>8} {:>9} {:<10} READ-ONLY",
        "IMAGE", "SIZE", "DEPLOYED", "STOPPED", "MEMORY", "USERS"
    );
    for row in rows {
        let users: Vec<_> = row.users.iter().map(u32::to_string).collect();
        println!(
            "{:<10} {:>5} MiB {:>7.1} s {:>6.1} s {:>5} MiB {:<10} {}",
            row.name,
            row.image_bytes >> 20,
            row.deploy_ms as f64 / 1000.0,
            row.stop_ms as f64 / 1000.0,
            row.memory >> 20,
            users.join(","),
            if row.is_read_only { "yes" } else { "no" }
        );
    }
}
