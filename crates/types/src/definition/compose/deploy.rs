//! How many instances of a Compose service there are, what they may use, where they run, and how they are replaced.

use super::{
    At, Table, Tree, Value, amounts, keys,
    node::Notes,
    service::{duration, span},
    sort, text,
};
use crate::{RestartSpec, definition::format_duration};

pub(super) fn read(service: &At<'_>, table: &mut Table, notes: &mut Notes) {
    let deploy = service.get("deploy");
    if let Some(deploy) = &deploy {
        sort(deploy, keys::DEPLOY, notes);
    }
    let of_deploy = |key: &str| deploy.as_ref().and_then(|deploy| deploy.get(key));
    scale(service, of_deploy("mode"), of_deploy("replicas"), table, notes);
    resources(service, of_deploy("resources"), table, notes);
    if let Some(update) = of_deploy("update_config") {
        self::update(&update, table, notes);
    }
    if let Some(placement) = of_deploy("placement") {
        self::placement(&placement, table, notes);
    }
    restart(service.get("restart"), of_deploy("restart_policy").as_ref(), table, notes);
}

fn scale(service: &At<'_>, mode: Option<At<'_>>, replicas: Option<At<'_>>, table: &mut Table, notes: &mut Notes) {
    let count = replicas.or_else(|| service.get("scale"));
    if let Some(mode) = mode {
        match mode.scalar() {
            Some("replicated") => {}
            Some("global") => {
                table.put("scale", mode.node.at, text(mode.node.at, "each-node"));
                return;
            }
            Some("replicated-job" | "global-job") => {
                mode.refuse(notes, "not supported: this version has no jobs; run it by hand with `insula run`");
            }
            _ => mode.refuse_kind(notes, "replicated or global"),
        }
    }
    if let Some(item) = count
        && let Some(number) = item.number(notes)
    {
        table.set("scale", item.node.at, Value::Integer(number));
    }
}

fn resources(service: &At<'_>, resources: Option<At<'_>>, table: &mut Table, notes: &mut Notes) {
    if let Some(resources) = &resources {
        sort(resources, keys::RESOURCES, notes);
    }
    let limits = resources.and_then(|resources| resources.get("limits"));
    if let Some(limits) = &limits {
        sort(limits, keys::LIMITS, notes);
    }
    let limit =
        |key: &str, short: &str| limits.as_ref().and_then(|limits| limits.get(key)).or_else(|| service.get(short));
    let mut all = Table::default();
    let refused = |item: &At<'_>, why: String, notes: &mut Notes| item.refuse(notes, why);
    if let Some(item) = limit("cpus", "cpus")
        && let Some(said) = item.text(notes)
    {
        match amounts::cpus(said) {
            Ok(cpus) => all.put("cpu", item.node.at, text(item.node.at, cpus)),
            Err(why) => refused(&item, why, notes),
        }
    }
    if let Some(item) = limit("memory", "mem_limit")
        && let Some(said) = item.text(notes)
    {
        match amounts::bytes(said) {
            Ok(bytes) => all.put("memory", item.node.at, text(item.node.at, bytes.to_string())),
            Err(why) => refused(&item, why, notes),
        }
    }
    if let Some(item) = limit("pids", "pids_limit")
        && let Some(number) = item.number(notes)
    {
        all.set("pids", item.node.at, Value::Integer(number));
    }
    if let Some(limits) = service.get("ulimits") {
        for (name, at, limit) in limits.entries(notes) {
            if name != "nofile" {
                notes.warnings.add(at, &limit.path, "left out: the limit is what the node gives");
                continue;
            }
            let hard = if limit.is_map() { limit.get("hard").or_else(|| limit.get("soft")) } else { Some(limit) };
            if let Some(item) = hard
                && let Some(number) = item.number(notes)
            {
                all.set("files", item.node.at, Value::Integer(number));
            }
        }
    }
    if let Some(at) = all.0.first().map(|entry| entry.at) {
        table.set("resources", at, Value::Table(all.0));
    }
}

fn update(update: &At<'_>, table: &mut Table, notes: &mut Notes) {
    sort(update, keys::UPDATE, notes);
    let mut all = Table::default();
    let count = update.get("parallelism").and_then(|item| Some((item.node.at, item.number(notes)?)));
    let (at, count) = count.unwrap_or((update.node.at, 1));
    // Which goes first: the new instance, or the old one.
    let order = update.get("order");
    let (surge, unavailable) = match order.as_ref().and_then(At::scalar) {
        Some("start-first") => (count, 0),
        Some("stop-first") => (0, count),
        None if order.is_none() => (count, 0),
        _ => {
            if let Some(order) = order {
                order.refuse_kind(notes, "start-first or stop-first");
            }
            return;
        }
    };
    all.set("max_surge", at, Value::Integer(surge));
    all.set("max_unavailable", at, Value::Integer(unavailable));
    if let Some(item) = update.get("monitor")
        && let Some(span) = span(&item, notes)
    {
        all.put("bake", item.node.at, text(item.node.at, span));
    }
    if let Some(item) = update.get("failure_action") {
        match item.scalar() {
            Some("rollback") => all.set("auto_rollback", item.node.at, Value::Boolean(true)),
            Some("pause") => all.set("auto_rollback", item.node.at, Value::Boolean(false)),
            Some("continue") => {
                item.refuse(notes, "not supported: a release that fails goes no further; write pause or rollback");
            }
            _ => item.refuse_kind(notes, "rollback or pause"),
        }
    }
    table.set("update", update.node.at, Value::Table(all.0));
}

fn placement(placement: &At<'_>, table: &mut Table, notes: &mut Notes) {
    sort(placement, keys::PLACEMENT, notes);
    let (mut all, mut require) = (Table::default(), Table::default());
    if let Some(constraints) = placement.get("constraints") {
        for item in constraints.items(notes) {
            let Some(said) = item.text(notes) else { continue };
            let known = said.split_once("==").and_then(|(left, right)| {
                let (left, right) = (left.trim(), right.trim());
                let label = match left {
                    "node.hostname" => "node",
                    left => left.strip_prefix("node.labels.").or_else(|| left.strip_prefix("engine.labels."))?,
                };
                Some((label, right))
            });
            match known {
                Some((label, value)) => require.put(label, item.node.at, text(item.node.at, value)),
                None => {
                    let way = "nodes are asked for by labels, as in node.labels.disk==ssd; give them with `insula join --label`";
                    item.refuse(notes, format!("not supported: {way}"));
                }
            }
        }
    }
    if let Some(preferences) = placement.get("preferences") {
        for item in preferences.items(notes) {
            let spread = item.get("spread");
            let label = spread.as_ref().and_then(At::scalar).and_then(|said| said.strip_prefix("node.labels."));
            match (label, all.is_empty()) {
                (Some(label), true) => all.put("spread", item.node.at, text(item.node.at, label)),
                (Some(_), false) => item.refuse(notes, "instances are spread over one label; take the others out"),
                (None, _) => item.refuse(notes, "expected spread: node.labels.NAME"),
            }
        }
    }
    if !require.is_empty() {
        all.set("require", placement.node.at, Value::Table(require.0));
    }
    if !all.is_empty() {
        table.set("placement", placement.node.at, Value::Table(all.0));
    }
}

fn restart(short: Option<At<'_>>, long: Option<&At<'_>>, table: &mut Table, notes: &mut Notes) {
    let mut all = Table::default();
    if let Some(long) = long {
        sort(long, keys::RESTART, notes);
    }
    let condition = long.and_then(|long| long.get("condition"));
    let said = condition.or_else(|| short.filter(|_| long.is_none()));
    if let Some(item) = &said {
        let Some(word) = item.text(notes) else { return };
        let (word, attempts) = word.split_once(':').map_or((word, None), |(word, most)| (word, Some(most)));
        let policy = match word {
            "no" | "none" | "false" => "never",
            "always" | "any" | "unless-stopped" | "true" => "always",
            "on-failure" => "on-failure",
            _ => return item.refuse_kind(notes, "no, always, on-failure or unless-stopped"),
        };
        if attempts.is_some() {
            item.warn(notes, "the number of attempts is left out: it is tried on, with waits that grow");
        }
        all.put("policy", item.node.at, text(item.node.at, policy));
    }
    if let Some(item) = long.and_then(|long| long.get("delay"))
        && let Some(delay) = duration(&item, notes)
    {
        let least = delay.max(*RestartSpec::BACKOFF.start());
        let most = least.max(RestartSpec::default().backoff_max);
        let backoff = format!("{}..{}", format_duration(least), format_duration(most));
        all.put("backoff", item.node.at, text(item.node.at, backoff));
    }
    if let Some(at) = all.0.first().map(|entry| entry.at) {
        table.put("restart", at, Tree { at, value: Value::Table(all.0) });
    }
}
