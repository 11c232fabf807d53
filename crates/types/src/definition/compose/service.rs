//! One service of a Compose file as one of a definition.

use super::{
    At, Table, Value, amounts, deploy, keys,
    node::{Kind, Notes},
    pairs, plain, sort,
    storage::{self, Shared},
    text, texts, traffic,
};

/// Reads a service. What is wrong is in the notes.
pub(super) fn read(name: &str, service: &At<'_>, shared: &Shared<'_>, notes: &mut Notes) -> Table {
    sort(service, keys::SERVICE, notes);
    let own = service.get("x-insula").filter(At::is_map);
    if let Some(wrong) = service.get("x-insula").filter(|own| !own.is_map()) {
        wrong.refuse_kind(notes, "a table of keys of a definition, like { routes: [{ host: shop.example }] }");
    }
    let mut table = Table::default();
    image(service, own.as_ref(), &mut table, notes);
    program(service, &mut table, notes);
    environment(service, shared, &mut table, notes);
    traffic::ports(service, own.as_ref(), &mut table, notes);
    traffic::health(service, &mut table, notes);
    storage::read(name, service, shared, &mut table, notes);
    deploy::read(service, &mut table, notes);
    stop(service, &mut table, notes);
    for key in ["init", "read_only"] {
        if let Some(item) = service.get(key)
            && let Some(flag) = item.flag(notes)
        {
            table.set(key, item.node.at, Value::Boolean(flag));
        }
    }
    if let Some(item) = service.get("runtime")
        && let Some(runtime) = item.text(notes)
    {
        // What Docker calls its own way is ours.
        let runtime = if runtime == "runc" { "container" } else { runtime };
        table.put("runtime", item.node.at, text(item.node.at, runtime));
    }
    if let Some(item) = service.get("privileged")
        && item.flag(notes) == Some(true)
    {
        item.refuse(notes, "not supported: instances get no more rights than others; run it on a machine of its own");
    }
    if let Some(Kind::Map(own)) = own.map(|own| &own.node.kind) {
        for pair in own {
            table.put(&pair.key, pair.at, plain(&pair.value));
        }
    }
    table
}

fn image(service: &At<'_>, own: Option<&At<'_>>, table: &mut Table, notes: &mut Notes) {
    let has_own = own.is_some_and(|own| own.get("image").is_some());
    let image = service.get("image");
    if let Some(build) = service.get("build") {
        if image.is_some() || has_own {
            build.warn(notes, "left out: nothing is built here; the image has to be in a registry, or brought by `insula image import`");
        } else {
            let way = "build the image, push it or bring it by `insula image import`, and write its name under image";
            build.refuse(notes, format!("not supported: {way}"));
        }
    }
    let Some(image) = image else {
        if service.get("build").is_none() && !has_own {
            service.refuse(notes, "it needs an image: write image: registry/name:tag");
        }
        return;
    };
    let Some(name) = image.text(notes) else { return };
    table.put("image", image.node.at, text(image.node.at, name));
}

/// What is run. The command of Compose is what the image's own program is given, unless an entrypoint takes the place of that.
fn program(service: &At<'_>, table: &mut Table, notes: &mut Notes) {
    let entrypoint = service.get("entrypoint").map(|item| (arguments(&item, notes), item));
    let command = service.get("command").map(|item| (arguments(&item, notes), item));
    match (entrypoint, command) {
        (None, None) => {}
        (None, Some((args, item))) if args.is_empty() => {
            item.refuse(notes, "it is empty; write the program of the image without its arguments under entrypoint");
        }
        (None, Some((args, item))) => table.set("args", item.node.at, texts(item.node.at, args)),
        (Some((program, item)), command) => {
            let all: Vec<String> = program.into_iter().chain(command.into_iter().flat_map(|(args, _)| args)).collect();
            if all.is_empty() {
                item.refuse(notes, "it takes the program of the image away, and no command says what to run instead");
            }
            table.set("command", item.node.at, texts(item.node.at, all));
        }
    }
}

/// A list, or a text that is split as a shell does.
pub(super) fn arguments(item: &At<'_>, notes: &mut Notes) -> Vec<String> {
    if let Some(text) = item.scalar() {
        return amounts::words(text).unwrap_or_else(|why| {
            item.refuse(notes, format!("found {}: {why}", item.node.describe()));
            Vec::new()
        });
    }
    let items = item.items(notes);
    items.iter().filter_map(|item| item.text(notes)).map(str::to_owned).collect()
}

fn environment(service: &At<'_>, shared: &Shared<'_>, table: &mut Table, notes: &mut Notes) {
    let Some(item) = service.get("environment") else { return };
    let mut env = Table::default();
    for (name, value, item) in pairs(&item, notes) {
        match value.or_else(|| shared.variable(&name)) {
            Some(value) => env.put(&name, item.node.at, text(item.node.at, value)),
            None => item.warn(notes, format!("left out: {name} has no value here, and is not set where this is run")),
        }
    }
    if !env.is_empty() {
        table.set("env", item.node.at, Value::Table(env.0));
    }
}

fn stop(service: &At<'_>, table: &mut Table, notes: &mut Notes) {
    let mut stop = Table::default();
    let mut at = service.node.at;
    if let Some(item) = service.get("stop_signal")
        && let Some(signal) = item.text(notes)
    {
        let signal = if signal.starts_with("SIG") { signal.to_owned() } else { format!("SIG{signal}") };
        at = item.node.at;
        stop.put("signal", at, text(at, signal));
    }
    if let Some(item) = service.get("stop_grace_period")
        && let Some(grace) = span(&item, notes)
    {
        at = item.node.at;
        stop.put("grace", at, text(at, grace));
    }
    if !stop.is_empty() {
        table.set("stop", at, Value::Table(stop.0));
    }
}

/// A span of time, as a definition writes it.
pub(super) fn span(item: &At<'_>, notes: &mut Notes) -> Option<String> {
    duration(item, notes).map(crate::definition::format_duration)
}

/// A span of time.
pub(super) fn duration(item: &At<'_>, notes: &mut Notes) -> Option<std::time::Duration> {
    let read = amounts::span(item.text(notes)?);
    read.map_err(|why| item.refuse(notes, why)).ok()
}
